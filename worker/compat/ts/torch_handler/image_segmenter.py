"""The handler that says what each pixel of an image belongs to; needs torchvision and Pillow."""

from typing import Any

import torch

from ts.torch_handler.image_classifier import IMAGENET_PROCESSING
from ts.torch_handler.vision_handler import VisionHandler


class ImageSegmenter(VisionHandler):
    """Answers the likeliest class of each pixel: of all classes the answer would have tens of megabytes."""

    image_processing = IMAGENET_PROCESSING

    def postprocess(self, data: Any) -> Any:
        """Return height x width x [class, probability] for each image, of the scores in `data["out"]`."""
        best = torch.softmax(data["out"], dim=1).max(dim=1)
        return torch.stack([best.indices.type(best.values.dtype), best.values], dim=3).tolist()
