"""Makes unpacked archives, archives and messages for the tests of the worker."""

import json
from pathlib import Path

from torchrelay.shared.archives import model_archive
from torchrelay.shared.wire import messages as m

ECHO = """
def handle(data, context):
    if data is None:
        return None
    return [row.get("body") for row in data]
"""


def start_worker(**changes: object) -> m.StartWorker:
    """Return the start of worker 1 of model `m`, whose handler is `h.py`."""
    fields: dict[str, object] = {
        "worker_id": 1,
        "model": "m",
        "version": "1.0",
        "archive": "0" * 64,
        "archive_bytes": 0,
        "handler": "h.py",
        "device": "cpu",
        "gpu_id": None,
        "batch_size": 1,
    }
    return m.StartWorker(**{**fields, **changes})  # type: ignore[arg-type]  # a test names its own fields


def write_model(folder: Path, files: dict[str, str], **model: object) -> Path:
    """Write an unpacked archive."""
    manifest = {
        "runtime": "python",
        "model": {"modelName": "m", "handler": "h.py", "modelVersion": "1.0", **model},
    }
    content = {model_archive.MANIFEST_NAME: json.dumps(manifest), **files}
    for name, text in content.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def write_archive(folder: Path, files: dict[str, str], **model: object) -> Path:
    """Write an archive; return the file."""
    target = folder / "m.mar"
    model_archive.pack_folder(write_model(folder / "unpacked", files, **model), target)
    return target
