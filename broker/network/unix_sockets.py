"""Unix sockets that the broker listens on: whose they are, and what may be in the way. No zmq here.

Whoever can write to the socket's file is let in, so it is the user's alone. libzmq removes whatever lies
where it is to listen, another broker's socket or a file that only has that name; this is looked into before.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from torchrelay.shared import locks
from torchrelay.shared.errors import RelayError

SCHEME = "ipc://"
#: Of the bits of a file's mode, those that a socket doesn't get.
UMASK = 0o177


class BindFailed(RelayError):
    """An address the broker may not, or cannot, listen on."""


def claim(address: str) -> IO[bytes] | None:
    """Keep other brokers off an address while the file returned is open; None where it is no file's.

    Raises BindFailed where another broker has it, or where something else lies.
    """
    path = Path(address.removeprefix(SCHEME))
    if not address.startswith(SCHEME) or not path.name or address.startswith(f"{SCHEME}@"):
        return None
    try:
        lock = os.fdopen(os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "wb")
    except OSError as error:
        raise BindFailed(f"The broker can't listen on {address}", f"{error.strerror}: {path}.lock") from error
    try:
        if not locks.try_flock(lock):
            raise BindFailed(f"Another broker listens on {address}", "stop it, or choose another --address")
        _require_free(path, address)
    except BindFailed:
        lock.close()
        raise
    return lock


def _require_free(path: Path, address: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise BindFailed(f"The broker can't listen on {address}", "there is a file that is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.settimeout(1)
            probe.connect(str(path))
            raise BindFailed(f"The broker can't listen on {address}", "somebody else listens there")


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Let only this user write to sockets that are bound meanwhile, whatever the umask."""
    umask = os.umask(UMASK)
    try:
        yield
    finally:
        os.umask(umask)
