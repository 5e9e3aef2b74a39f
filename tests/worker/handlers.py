"""Loads a handler as a worker would, with a model folder made in the test, and asks it."""

import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any  # what handlers answer

import torch
from ts.metrics.metrics_cache import MetricsCache
from ts.model_loader import TsModelLoader
from ts.service import Service

from tests.worker.models import write_model

# The networks of tests are small: waiting for another thread costs more than it saves, most of all where
# other tests run beside them.
torch.set_num_threads(1)


def make_folder(
    folder: Path,
    model: torch.nn.Module | None = None,
    source: str = "",
    *,
    config: str = "",
    labels: object = None,
    **facts: object,
) -> Path:
    """Write an unpacked archive: the model's state dict with `source` as its module, labels and config."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"model-config.yaml": config}
    if source:
        files["net.py"] = source
        facts["modelFile"] = "net.py"
    if labels is not None:
        files["index_to_name.json"] = json.dumps(labels)
    if model is not None:
        torch.save(model.state_dict(), folder / "weights.pt")
        facts["serializedFile"] = "weights.pt"
    return write_model(folder, files, configFile="model-config.yaml", **facts)


def load_handler(
    folder: Path, handler: str, *, envelope: str | None = None, gpu_id: int | None = None
) -> Service:
    """Import the handler and let it load the folder's model; use with the fixture `imports`."""
    sys.path.insert(0, str(folder))
    loader = TsModelLoader()
    return loader.load(
        "m", str(folder), handler, gpu_id=gpu_id, envelope=envelope, metrics_cache=MetricsCache("m")
    )


def ask(service: Service, *rows: Mapping[str, object], **headers: str) -> list[Any]:
    """Predict a batch of rows, all with the same request headers."""
    batch = [
        {
            "requestId": f"request-{index}".encode(),
            "parameters": [{"name": k, "value": v, "contentType": ""} for k, v in row.items()],
            "headers": [{"name": k.encode(), "value": v.encode()} for k, v in headers.items()],
        }
        for index, row in enumerate(rows)
    ]
    answers: list[Any] = service.predict(batch)
    return answers


def saved(value: object) -> bytes:
    """Return what torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()
