"""Services of the time before handlers: a signature file says what comes in.

`Any` stands for what clients send and services return.
"""

import ast
import json
import logging
import os
import time
from abc import ABC, abstractmethod
from typing import Any

from ts.context import Context

logger = logging.getLogger(__name__)


class ModelService(ABC):
    """A service that answers one request at a time by `inference`."""

    def __init__(
        self, model_name: str, model_dir: str, manifest: dict[str, Any] | None, gpu: int | None = None
    ) -> None:
        self.ctx: Context | None = None
        self._context: Context | None = None
        self._signature: dict[str, Any] = {}

    def initialize(self, context: Context) -> None:
        """Read the signature that the manifest names. Raises ValueError where its file is missing."""
        self._context = context
        manifest = context.manifest or {}
        path = os.path.join(context.system_properties["model_dir"], manifest["Model"]["Signature"])
        if not os.path.isfile(path):
            raise ValueError("Signature file is not found.")
        with open(path, encoding="utf-8") as file:
            self._signature = json.load(file)

    @abstractmethod
    def inference(self, data: Any) -> Any:
        """Answer a list of inputs."""

    def ping(self) -> Any:
        """Tell how the service does; nobody asks."""
        return None

    def signature(self) -> dict[str, Any]:
        """Return what the signature file holds."""
        return self._signature

    def handle(self, data: Any, context: Context) -> list[Any]:
        """Answer the first request, by the input that the signature names, its `body` or its `data`."""
        row = data[0]
        candidates = (row.get(key) for key in (self._signature["inputs"][0]["data_name"], "body", "data"))
        value = next((found for found in candidates if found is not None), None)
        if self._signature["input_type"] == "application/json" and isinstance(value, bytes | bytearray):
            value = ast.literal_eval(value.decode("utf-8"))
        answers = self.inference([value])
        return answers if isinstance(answers, list) else [answers]


class SingleNodeService(ModelService):
    """A service of one model: preprocess, inference, postprocess."""

    def inference(self, data: Any) -> Any:
        """Run the three steps, and log how long each one took."""
        for step in (self._preprocess, self._inference, self._postprocess):
            start = time.perf_counter()
            data = step(data)
            name = step.__name__.removeprefix("_")
            logger.info("%s time: %.2f", name, (time.perf_counter() - start) * 1000)
        return data

    @abstractmethod
    def _inference(self, data: Any) -> Any:
        """Run the model."""

    def _preprocess(self, data: Any) -> Any:
        return data

    def _postprocess(self, data: Any) -> Any:
        return data
