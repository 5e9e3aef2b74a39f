"""The handler that names what an image shows, prepared by NVIDIA DALI."""

from ts.torch_handler.dali_handler import DALIHandler
from ts.torch_handler.likeliest_classes import LikeliestClasses


class DALIImageClassifier(LikeliestClasses, DALIHandler):
    """Answers the likeliest classes of each image, with their probabilities."""
