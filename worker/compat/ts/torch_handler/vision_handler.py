"""The base of handlers of images; needs Pillow, and captum for explanations."""

import base64
import functools
import io
from typing import Any

import torch
from PIL import Image

from ts.context import Context
from ts.handler_utils.timer import timed
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import require


class VisionHandler(BaseHandler):
    """Makes a batch of images; a subclass says how one is processed (`image_processing`)."""

    def initialize(self, context: Context) -> None:
        """Load the model, and lift Pillow's limit of pixels where the server says so."""
        super().initialize(context)
        if not context.system_properties.get("limit_max_image_pixels"):
            Image.MAX_IMAGE_PIXELS = None

    @functools.cached_property
    def ig(self) -> Any:  # captum's
        """Captum's integrated gradients of the model, made when the first explanation is asked for."""
        return require("captum.attr", "an explanation").IntegratedGradients(self.model)

    @timed
    def preprocess(self, data: Any) -> torch.Tensor:
        """Stack the rows' images: base64 text or bytes of an image file, or nested lists of numbers."""
        return torch.stack([self._tensor(row.get("data") or row.get("body")) for row in data]).to(self.device)

    def _tensor(self, image: Any) -> torch.Tensor:
        if isinstance(image, str):
            image = base64.b64decode(image)
        if isinstance(image, bytes | bytearray):
            # A subclass brings it, most often as transforms of torchvision.
            processed: torch.Tensor = self.image_processing(Image.open(io.BytesIO(image)))  # type: ignore[attr-defined]
            return processed
        return torch.FloatTensor(image)

    def get_insights(self, tensor_data: torch.Tensor, _: Any, target: Any = 0) -> Any:
        """Return each pixel's share in the target's score, in the input's shape, by 15 steps."""
        return self.ig.attribute(tensor_data, target=target, n_steps=15).tolist()
