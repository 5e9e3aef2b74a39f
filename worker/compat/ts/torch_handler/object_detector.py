"""The handler that finds things in an image; needs torchvision and Pillow."""

from typing import Any

from torchvision import transforms

from ts.torch_handler.vision_handler import VisionHandler
from ts.utils.util import map_class_to_label


class ObjectDetector(VisionHandler):
    """Answers the boxes that a detection model is sure enough of."""

    image_processing = transforms.Compose([transforms.ToTensor()])
    threshold = 0.5

    def postprocess(self, data: Any) -> Any:
        """Return `{label: [x1, y1, x2, y2], "score": s}` for each box of each image."""
        return [self._found(image) for image in data]

    def _found(self, image: dict[str, Any]) -> list[dict[Any, Any]]:
        is_sure = image["scores"] >= self.threshold
        boxes, classes, scores = (image[key][is_sure].tolist() for key in ("boxes", "labels", "scores"))
        labelled = (
            map_class_to_label([[box]], self.mapping, [[cls]])[0]
            for box, cls in zip(boxes, classes, strict=True)
        )
        return [{**box, "score": score} for box, score in zip(labelled, scores, strict=True)]
