"""TorchServe's pid file, by which a server is stopped: one for each user and temporary folder.

The server holds a lock on the file, so that a pid which now belongs to another process is never taken for the
server's. The lock ends with the server's process, however that ends.

All users can write to the folder. A file of another user is ignored: a user who finds one there uses a file
with a name that can't be guessed, which is found again by its owner. A user who can read a file can lock it,
so the process that it names is checked as well, see `is_server`.
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
    """The file is another user's, or has a second name that may be."""


def place(folder: Path) -> Path:
    """Return the path of this user's pid file: TorchServe's, unless the file there is another user's.

    Raises OSError if a file of this user can't be read.
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
    except OSError:  # a folder to which all can write and which nobody can read
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
    # Another user may have given a second name to a file of ours that is no pid file.
    is_shared = stat.S_ISREG(facts.st_mode) and facts.st_nlink > 1
    return facts.st_uid == os.geteuid() and not is_shared


def running_pid(path: Path) -> int | None:
    """Return the pid of the server that holds the file, or None; 0 if it has not written its pid yet.

    Raises OSError if the file can't be opened, or is another user's.
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
    """Return `running_pid`, but wait for a server that has not yet written its pid."""
    deadline = clock.monotonic() + within_s
    while (pid := running_pid(path)) == 0 and clock.monotonic() < deadline:
        Event().wait(POLL_INTERVAL_S)
    return pid


def take(path: Path) -> int:
    """Lock the file, made if need be, and return its fd, which the server inherits.

    Raises:
        AlreadyRunning: a server holds it.
        OSError: it can't be written, or is another user's.
    """
    while True:
        try:
            fd = _open(path)
        except FileExistsError:
            continue  # another process made it between the two tries to open it
        if not locks.try_flock(fd):
            os.close(fd)
            raise AlreadyRunning
        if locks.is_at(path, fd, follow_symlinks=False):
            os.ftruncate(fd, 0)  # the pid of an earlier server
            os.set_inheritable(fd, True)
            return fd
        os.close(fd)  # it was removed before it was locked


def write(fd: int, pid: int) -> None:
    """Write the server's pid into the file."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(pid).encode(), 0)


def remove(path: Path) -> bool:
    """Remove the file unless a server holds it; return whether it was removed."""
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
    """As root, remove the file that another user's ended server has left; return whether it was removed."""
    if os.geteuid() != _ROOT or not _is_anothers(path):
        return False
    with contextlib.suppress(OSError):  # it can't be opened
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode) and locks.try_flock(fd):
                path.unlink()
                return True
        finally:
            os.close(fd)
    return False


def discard(path: Path) -> None:
    """Remove a file of this user that another process has locked, and that names no server."""
    if not _is_anothers(path):
        path.unlink(missing_ok=True)


def is_server(pid: int, name: str, within_s: float) -> bool:
    """Return whether a process is this user's and has `name` in its command line within `within_s`."""
    deadline = clock.monotonic() + within_s
    while not (is_one := _is_called(pid, name)) and _lives(pid) and clock.monotonic() < deadline:
        Event().wait(POLL_INTERVAL_S)
    return is_one


def _is_called(pid: int, name: str) -> bool:
    # Where /proc is hidden the process is taken for this user's server: it holds a file of this user.
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
    """Raise NotOurs for an opened file that is not this user's alone."""
    if not _is_ours(os.fstat(fd)):
        raise NotOurs(None, "another user has made it", str(path))


def wait_until_free(path: Path, within_s: float) -> bool:
    """Wait until no server holds the file; return whether that came within `within_s`."""
    deadline = clock.monotonic() + within_s
    while running_pid(path) is not None:
        if clock.monotonic() >= deadline:
            return False
        Event().wait(POLL_INTERVAL_S)
    return True


def _open(path: Path) -> int:
    # With O_CREAT the kernel refuses another user's existing file in a folder like /tmp, also to root
    # (fs.protected_regular): so that flag is used only if there is no file.
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
