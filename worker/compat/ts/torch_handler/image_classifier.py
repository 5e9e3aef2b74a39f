"""The handler that names what an image shows; needs torchvision and Pillow."""

from typing import Any

import torch
from torchvision import transforms

from ts.handler_utils.timer import timed
from ts.torch_handler.vision_handler import VisionHandler
from ts.utils.util import map_class_to_label

#: What networks trained on ImageNet expect.
IMAGENET_PROCESSING = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
    ]
)


class ImageClassifier(VisionHandler):
    """Answers the likeliest classes of each image, with their probabilities."""

    topk = 5
    image_processing = IMAGENET_PROCESSING

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
