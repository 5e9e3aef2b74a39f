"""The handler that names what an image shows; needs torchvision and Pillow."""

from torchvision import transforms

from ts.torch_handler.likeliest_classes import LikeliestClasses
from ts.torch_handler.vision_handler import VisionHandler

#: What networks trained on ImageNet expect.
IMAGENET_PROCESSING = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
    ]
)


class ImageClassifier(LikeliestClasses, VisionHandler):
    """Answers the likeliest classes of each image, with their probabilities."""

    image_processing = IMAGENET_PROCESSING
