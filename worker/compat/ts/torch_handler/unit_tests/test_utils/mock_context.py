"""A context for tests of handlers outside of a server."""

import os
import uuid
from typing import Any  # what a model's own files hold

import torch

from ts.metrics.metrics_store import MetricsStore
from ts.utils.util import get_yaml_config


class MockContext:
    """Has what handlers read of a context; the model is a folder's `model.pt` and `model.py` by default."""

    def __init__(
        self,
        model_pt_file: str | None = "model.pt",
        model_dir: str = "ts/torch_handler/unit_tests/models/tmp",
        model_file: str | None = "model.py",
        gpu_id: str | None = "0",
        model_name: str = "mnist",
        model_yaml_config_file: str | None = None,
    ) -> None:
        facts = {"serializedFile": model_pt_file, "modelFile": model_file}
        self.manifest: dict[str, Any] = {"model": {key: name for key, name in facts.items() if name}}
        self.system_properties: dict[str, Any] = {"model_dir": model_dir}
        if torch.cuda.is_available() and gpu_id:
            self.system_properties["gpu_id"] = gpu_id
        #: Whether requests after the first one say that they are to be explained.
        self.explain = False
        self.metrics = MetricsStore(str(uuid.uuid4()), model_name)
        self.model_yaml_config: dict[str, Any] = {}
        if model_yaml_config_file:
            self.model_yaml_config = get_yaml_config(os.path.join(model_dir, model_yaml_config_file))

    def is_cancelled(self, idx: int | None = None) -> bool:
        """Say that somebody waits."""
        return False

    def remaining_ms(self, idx: int | None = None) -> int | None:
        """Say that nobody has said how long."""
        return None

    def get_request_header(self, idx: int, exp: str) -> bool:
        """Return True or False, as TorchServe's stand-in does, and for the first request always False."""
        return bool(idx and exp and self.explain)
