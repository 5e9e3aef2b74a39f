"""The base of handlers whose images NVIDIA DALI prepares; needs nvidia.dali, and captum for explanations."""

from typing import Any

import numpy as np
import torch

from ts.context import Context
from ts.handler_utils.preprocess.dali import get_dali_pipeline
from ts.torch_handler.vision_handler import VisionHandler


class DALIHandler(VisionHandler):
    """Runs the pipeline of the model's config on the bytes of image files."""

    def initialize(self, context: Context) -> None:
        """Load the model and make the pipeline."""
        super().initialize(context)
        self.pipeline = get_dali_pipeline(context)

    def preprocess(self, data: Any) -> torch.Tensor:
        """Stack what the pipeline makes of the rows' images."""
        images = [_array(row.get("data") or row.get("body")) for row in data]
        prepared = self.pipeline.run(source=images)[0]
        return torch.stack([torch.tensor(prepared.at(idx)) for idx in range(len(images))]).to(self.device)


def _array(image: Any) -> Any:
    return np.frombuffer(image, dtype=np.uint8) if isinstance(image, bytes | bytearray) else image
