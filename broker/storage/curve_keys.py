"""The broker's own curve keys on disk, readable by its owner alone. Blocking.

Without them every member has to join anew: they belong into a backup, with the registry.
"""

from pathlib import Path

import msgspec

from torchrelay.broker.membership.membership_changes import OwnKeys
from torchrelay.shared import private_files
from torchrelay.shared.errors import StoreFailed
from torchrelay.shared.wire import sockets
from torchrelay.shared.wire.curve import KeyPair
from torchrelay.shared.wire.fields import PublicKey

#: A file above this isn't ours.
SIZE_LIMIT_BYTES = 4096


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    """Secret keys in hex; `next` is the one that was announced to the members."""

    present: PublicKey
    next: PublicKey | None = None


def open_at_start(path: Path) -> OwnKeys:
    """Return the keys of a broker that starts, drawn at its first start; an announced one is present now.

    Raises StoreFailed; a file that can't be read is never replaced.
    """
    try:
        if not path.exists():
            keep(path, sockets.new_key_pair(), None)
        if path.stat().st_size > SIZE_LIMIT_BYTES:
            raise StoreFailed(f"{path} doesn't hold the broker's keys", "bring back a copy of it")
        private_files.make_file(path)
        content = msgspec.json.decode(path.read_bytes(), type=_Content)
        if content.next is not None:
            keep(path, sockets.pair_of(content.next), None)
        return OwnKeys(sockets.pair_of(content.next or content.present))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreFailed(
            f"The broker's keys in {path} can't be read: {error}",
            "bring back a copy of the file; with new keys, which are made where it is missing, all hosts have"
            " to join anew",
        ) from error


def keep(path: Path, present: KeyPair, following: KeyPair | None) -> None:
    """Write the keys. Raises StoreFailed, and then the file is as it was."""
    content = _Content(present.secret, None if following is None else following.secret)
    try:
        private_files.replace(path, msgspec.json.encode(content) + b"\n")
    except OSError as error:
        raise StoreFailed(f"The broker's keys in {path} can't be written: {error.strerror}") from error
