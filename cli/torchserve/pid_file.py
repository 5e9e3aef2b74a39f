"""TorchServe's pid file: one server for each user and temporary folder, and a way to stop it.

Whoever serves holds a lock on the file, so that a pid which the system has given to somebody else in the
meantime is never taken for a server's. The lock goes with its process, however that ends.

The folder is everybody's. What another user has laid there says nothing, and is in nobody's way: a user who
finds it has a file of another name, which nobody can guess, and which is found again by its owner. Whoever
may read a file may lock it, so the process that it names is looked at, too, see `is_server`.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from threading import Event

from torchrelay.shared import clock, ids, locks

NAME = ".model_server.pid"
_ROOT = 0
#: A pid has at most ten digits.
PID_LIMIT_BYTES = 32
POLL_INTERVAL_S = 0.05


class AlreadyRunning(Exception):
    """A server holds the file."""


class NotOurs(PermissionError):
    """Another user has made the file, or may write to it by another name."""


def place(folder: Path) -> Path:
    """Return where this user's pid file is, or is to be made: TorchServe's own, unless it is another user's.

    Raises OSError: one of ours can't be read.
    """
    usual = folder / NAME
    left = [path for path in _of_this_user(folder) if path != usual]
    running = [path for path in left if running_pid(path) is not None]
    if running or _is_anothers(usual):
        return [*running, *left, folder / f"{NAME.removesuffix('.pid')}-{ids.folder_suffix()}.pid"][0]
    return usual


def _of_this_user(folder: Path) -> Iterator[Path]:
    try:
        names = os.listdir(folder)
    except OSError:  # a folder that everybody may write to and nobody may read
        return
    for name in names:
        if name.startswith(NAME.removesuffix(".pid")) and name.endswith(".pid"):
            path = folder / name
            if path.is_file() and not path.is_symlink() and not _is_anothers(path):
                yield path


def _is_anothers(path: Path) -> bool:
    try:
        return not _is_ours(path.lstat())
    except FileNotFoundError:
        return False


def _is_ours(facts: os.stat_result) -> bool:
    # A second name may be another user's doing, of a file that means something else where the first is.
    is_shared = stat.S_ISREG(facts.st_mode) and facts.st_nlink > 1
    return facts.st_uid == os.geteuid() and not is_shared


def running_pid(path: Path) -> int | None:
    """Return the pid of the server that holds the file, or None; 0 if it has not written its pid yet.

    Raises OSError: the file is there and can't be opened, or is another user's.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        _require_ours(fd, path)
        if locks.try_flock(fd, is_shared=True):
            return None
        text = os.read(fd, PID_LIMIT_BYTES).decode("ascii", "replace").strip()
        return int(text) if text.isdecimal() else 0
    finally:
        os.close(fd)


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
        OSError: it can't be written, or is another user's.
    """
    while True:
        try:
            fd = _open(path)
        except FileExistsError:
            continue  # it was made between our two tries
        if not locks.try_flock(fd):
            os.close(fd)
            raise AlreadyRunning
        if locks.is_at(path, fd, follow_symlinks=False):
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


def remove_others(path: Path) -> bool:
    """As root, remove what the server of another user has left; tell whether there was anything."""
    if os.geteuid() != _ROOT or not _is_anothers(path):
        return False
    with contextlib.suppress(OSError):  # theirs runs, or it is no file at all
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode) and locks.try_flock(fd):
                path.unlink()
                return True
        finally:
            os.close(fd)
    return False


def discard(path: Path) -> None:
    """Remove a file of ours that names no server, though somebody has locked it."""
    if not _is_anothers(path):
        path.unlink(missing_ok=True)


def is_server(pid: int, name: str, within_s: float) -> bool:
    """Tell whether a process is this user's and has `name` in its command line, or will soon."""
    deadline = clock.monotonic() + within_s
    while not (is_one := _is_called(pid, name)) and _lives(pid) and clock.monotonic() < deadline:
        Event().wait(POLL_INTERVAL_S)
    return is_one


def _is_called(pid: int, name: str) -> bool:
    # What can't be looked at, as where /proc is hidden, is taken for ours: it holds a file of this user's.
    facts = Path("/proc", str(pid))
    try:
        words = (facts / "cmdline").read_bytes().split(b"\0")
        status = (facts / "status").read_text(errors="replace")
    except FileNotFoundError:
        return _lives(pid)
    except OSError:
        return True
    effective = next(line.split()[2] for line in status.splitlines() if line.startswith("Uid:"))
    return int(effective) == os.geteuid() and name.encode() in words


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _require_ours(fd: int, path: Path) -> None:
    """Look at what was opened, which no other can have replaced since."""
    if not _is_ours(os.fstat(fd)):
        raise NotOurs(None, "another user has made it", str(path))


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
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    try:
        _require_ours(fd, path)
    except NotOurs:
        os.close(fd)
        raise
    return fd
