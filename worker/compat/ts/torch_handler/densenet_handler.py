"""A handler of the first archives: serialized tensors in, one tensor out."""

import importlib
import io
import os
import time
from typing import Any

import torch

from ts.context import Context
from ts.handler_utils.timer import record_handler_time
from ts.utils.util import list_classes_from_module as list_classes_from_module
from ts.utils.weights import load_weights


class DenseNetHandler:
    """Answers the whole batch by one tensor, so the model's batch size has to be 1."""

    def __init__(self) -> None:
        self.model: Any = None
        self.device: torch.device | None = None
        self.initialized = False
        self.context: Context | None = None
        self.manifest: dict[str, Any] | None = None
        self.map_location: str | None = None

    def initialize(self, context: Context) -> None:
        """Load the model. Raises RuntimeError where its file is missing."""
        self.context = context
        self.manifest = context.manifest or {}
        properties = context.system_properties
        gpu_id = properties.get("gpu_id")
        self.map_location = "cuda" if torch.cuda.is_available() and gpu_id is not None else "cpu"
        self.device = torch.device(f"cuda:{gpu_id}" if self.map_location == "cuda" else "cpu")
        facts = self.manifest["model"]
        path = os.path.join(properties["model_dir"], facts["serializedFile"])
        if not os.path.isfile(path):
            raise RuntimeError("Missing the model.pt file")
        if facts.get("modelFile"):
            self.model = self._load_pickled_model(properties["model_dir"], facts["modelFile"], path)
        else:
            self.model = self._load_torchscript_model(path)
        self.model.to(self.device)
        self.model.eval()
        self.initialized = True

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return torch.jit.load(model_pt_path, map_location=self.map_location)  # type: ignore[no-untyped-call]  # torch's

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str) -> Any:
        if not os.path.isfile(os.path.join(model_dir, model_file)):
            raise RuntimeError("Missing the model.py file")
        classes = list_classes_from_module(importlib.import_module(model_file.split(".")[0]))
        if len(classes) != 1:
            raise ValueError(f"Expected only one class as model definition. {classes}")
        model = classes[0]()
        config = getattr(self.context, "model_yaml_config", None)
        model.load_state_dict(load_weights(model_pt_path, self.map_location, config))
        return model

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        with torch.no_grad():
            return self.model(data.to(self.device), *args, **kwargs)

    def handle(self, data: Any, context: Context) -> list[Any]:
        """Answer a batch of tensors that torch.save wrote."""
        start = time.perf_counter()
        self.context = context
        rows = [io.BytesIO(row.get("data") or row.get("body")) for row in data]
        # Of a client nothing but tensors is taken, whatever the archive's config says of its own files.
        output = self.inference(torch.stack([load_weights(row, self.map_location, None) for row in rows]))
        record_handler_time(context, start)
        return [output]
