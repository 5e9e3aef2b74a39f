"""Locks between the processes of a host, as flocks on files: they end with their holder.

The only module that calls flock. A lock is held by an open file: it ends when that is closed, also in the
processes that inherited it.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

from torchrelay.shared import private_files


def try_flock(file: IO[bytes] | int, *, is_shared: bool = False) -> bool:
    """Lock an open file without waiting; return False if another open file holds the lock.

    Many can hold a shared lock at the same time, and none of them beside one that is not shared.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_flock(file: IO[bytes] | int, *, is_shared: bool = False) -> None:
    """Lock an open file as soon as no other holds the lock."""
    fcntl.flock(file, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX)


@contextmanager
def flocked(file: IO[bytes] | int) -> Iterator[None]:
    """Wait for the lock of an open file, and hold it in the block."""
    wait_for_flock(file)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def is_at(path: Path, file: IO[bytes] | int, *, follow_symlinks: bool = True) -> bool:
    """Return whether an open file is still the one at this path: it may have been removed or replaced."""
    fd = file if isinstance(file, int) else file.fileno()
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=follow_symlinks), os.fstat(fd))
    except FileNotFoundError:
        return False


def hold(path: Path) -> IO[bytes] | None:
    """Lock the file at this path, made if need be, until the file returned is closed; None if it is locked.

    None, too, if the file was removed meanwhile, since it then locks nothing. Raises FileNotFoundError where
    its folder doesn't exist.
    """
    opened = private_files.append_to(path)
    if try_flock(opened) and is_at(path, opened):
        return opened
    opened.close()
    return None


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Lock the file at this path in the block, which gets False if this or another process holds the lock."""
    with hold(path) or nullcontext() as held:
        yield held is not None


class SharedLock:
    """A shared lock of the file at a path, whose time is that of the latest use."""

    def __init__(self, path: Path) -> None:
        """Lock the file, made if need be; waits for a lock that is not shared, which is held for moments."""
        while True:
            self._file = private_files.append_to(path)
            wait_for_flock(self._file, is_shared=True)
            if is_at(path, self._file):
                break
            self._file.close()  # it was removed meanwhile, and locks nothing
        os.utime(self._file.fileno())

    def release(self) -> None:
        """Unlock the file, whose time becomes now."""
        os.utime(self._file.fileno())
        self._file.close()
