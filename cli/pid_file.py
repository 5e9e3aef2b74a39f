"""TorchServe's pid file: one server for each temporary folder, and a way to stop it.

Whoever serves holds a lock on the file, so that a pid which the system has given to somebody else in the
meantime is never taken for a server's. The lock goes with its process, however that ends.
"""

import fcntl
import os
from pathlib import Path
from threading import Event

from torchrelay.shared import clock

NAME = ".model_server.pid"
#: A pid has at most ten digits.
PID_LIMIT_BYTES = 32
POLL_INTERVAL_S = 0.05


class AlreadyRunning(Exception):
    """A server holds the file."""


def running_pid(path: Path) -> int | None:
    """Return the pid of the server that holds the file, or None; 0 if it has not written its pid yet.

    Raises OSError: the file is there and can't be opened; another user's, for one.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(fd, PID_LIMIT_BYTES).decode("ascii", "replace").strip()
        return int(text) if text.isdecimal() else 0
    finally:
        os.close(fd)
    return None


def written_pid(path: Path, within_s: float) -> int | None:
    """Return what `running_pid` does, and wait for a server that is about to write its pid."""
    deadline = clock.monotonic() + within_s
    while (pid := running_pid(path)) == 0 and clock.monotonic() < deadline:
        Event().wait(POLL_INTERVAL_S)
    return pid


def take(path: Path) -> int:
    """Lock the file, made if need be, and return its descriptor, for the server to inherit.

    Raises:
        AlreadyRunning: a server holds it.
        OSError: it can't be written; another user's, for one.
    """
    while True:
        try:
            fd = _open(path)
        except FileExistsError:
            continue  # it was made between our two tries
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise AlreadyRunning from error
        if _is_at(path, fd):
            os.ftruncate(fd, 0)  # nobody shall take the pid of who held it before for ours
            os.set_inheritable(fd, True)
            return fd
        os.close(fd)  # it was removed between our opening and our locking it


def write(fd: int, pid: int) -> None:
    """Say who serves."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(pid).encode(), 0)


def remove(path: Path) -> bool:
    """Remove the file unless a server holds it; tell whether there was one to remove."""
    if not path.exists():
        return False
    try:
        fd = take(path)
    except AlreadyRunning:
        return False
    path.unlink()
    os.close(fd)
    return True


def wait_until_free(path: Path, within_s: float) -> bool:
    """Wait until no server holds the file; tell whether that came to pass."""
    deadline = clock.monotonic() + within_s
    while running_pid(path) is not None:
        if clock.monotonic() >= deadline:
            return False
        Event().wait(POLL_INTERVAL_S)
    return True


def _open(path: Path) -> int:
    # In a folder like /tmp the kernel refuses root itself another user's file if it may be made
    # (fs.protected_regular), even where it is there: so only a file that isn't there is made.
    try:
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False
