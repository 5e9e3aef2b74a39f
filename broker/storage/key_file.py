"""TorchServe's key_file.json on disk: readable by its owner alone, replaced whole or not at all. Blocking."""

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torchrelay.broker.core.keyring import IssuedKeys
from torchrelay.broker.storage.registry import Registry
from torchrelay.shared.errors import StoreFailed
from torchrelay.shared.torchserve.key_files import ENTRY_NAMES
from torchrelay.shared.wire.fields import KeyedApi

#: A file above this isn't ours.
SIZE_LIMIT_BYTES = 64 * 1024


def read(path: Path) -> Mapping[KeyedApi, str]:
    """Return the keys that the file shows; a file that is missing or isn't ours shows none."""
    try:
        if not path.is_file() or path.stat().st_size > SIZE_LIMIT_BYTES:
            return {}
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    entries = content if isinstance(content, dict) else {}
    texts = {api: _text(entries.get(name)) for api, name in ENTRY_NAMES.items()}
    return {api: text for api, text in texts.items() if text}


def keep(path: Path, made: IssuedKeys, registry: Registry) -> None:
    """Make keys durable and show them; raises StoreFailed, and then nothing of it happened.

    The new file lies ready before the registry is changed, so that a full or read-only disk is noticed
    while the old keys still hold.
    """
    part: Path | None = None
    try:
        part = _write_beside(path, made.file_content())
        registry.apply(made.change())
        part.replace(path)
    except OSError as error:
        raise StoreFailed(
            f"The key file {path} can't be written: {error.strerror}",
            "start the server in a folder where it may write, or with --disable-token-auth",
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)  # it is there only if something failed


def _write_beside(path: Path, content: bytes) -> Path:
    if path.is_dir():
        raise IsADirectoryError(None, "it is a folder")
    number, name = tempfile.mkstemp(prefix=".key_file", dir=path.parent)  # mode 0600 from the first byte on
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    return Path(name)


def _text(entry: object) -> str:
    key = entry.get("key") if isinstance(entry, dict) else None
    return key if isinstance(key, str) else ""
