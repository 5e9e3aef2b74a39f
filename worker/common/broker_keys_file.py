"""The keys by which a node knows its broker, where its workers find them.

A worker that is busy, or cut off, while the broker announces its next key misses that; when it can't be let
in by the keys that it knows, it looks here. They are public keys.
"""

import hashlib
import logging
from pathlib import Path

import msgspec

from torchrelay.shared import private_files
from torchrelay.shared.settings import NodeSettings
from torchrelay.shared.wire import fields as f

logger = logging.getLogger(__name__)


def path_of(node: NodeSettings) -> Path:
    """Return the file of a node, which lies in its cache and is called after it."""
    name = hashlib.sha256(node.name.encode()).hexdigest()[:32]
    return Path(node.cache_dir).resolve() / "nodes" / f"{name}.broker-keys"


def write(node: NodeSettings, broker_keys: tuple[str, ...]) -> None:
    """Write a node's keys in the place of earlier ones; log a failure."""
    path = path_of(node)
    try:
        private_files.make_folder(path.parent)
        private_files.replace(path, msgspec.json.encode(broker_keys))
    except OSError as error:
        logger.error("broker_keys.not_written", extra={"path": str(path), "reason": error.strerror})


def read(path: Path) -> tuple[str, ...]:
    """Return the keys; none where they can't be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[f.PublicKey, ...])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return ()
