"""What handlers that name what an image shows have in common, however images are prepared."""

from typing import Any

import torch

from ts.handler_utils.timer import timed
from ts.utils.util import map_class_to_label


class LikeliestClasses:
    """Answers the likeliest classes of each image, with their probabilities."""

    topk = 5
    #: Class -> label, which the handler's base has read from its archive.
    mapping: Any

    def set_max_result_classes(self, topk: int) -> None:
        """Say how many classes are answered."""
        self.topk = topk

    def get_max_result_classes(self) -> int:
        """Return how many classes are answered."""
        return self.topk

    @timed
    def postprocess(self, data: torch.Tensor) -> list[dict[Any, float]]:
        """Return label -> probability for each image, the likeliest first."""
        probabilities, classes = torch.topk(torch.softmax(data, dim=1), self.topk, dim=1)
        return map_class_to_label(probabilities.tolist(), self.mapping, classes.tolist())
