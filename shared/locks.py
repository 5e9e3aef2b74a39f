"""Locks between the processes of a host, as flocks on files: they end with their holder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from torchrelay.shared import private_files


def hold(file: Path) -> IO[bytes] | None:
    """Hold a lock alone until the file returned is closed; None if somebody else holds it.

    None, too, if the file was removed meanwhile: then it locks nothing. Raises FileNotFoundError where its
    folder is gone.
    """
    opened = private_files.append_to(file)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(opened, file):
            return opened
    except BlockingIOError:
        pass
    opened.close()
    return None


def _is_at(opened: IO[bytes], file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened.fileno()), file.stat())
    except FileNotFoundError:
        return False


@contextmanager
def try_lock(file: Path) -> Iterator[bool]:
    """Hold a lock alone, or tell that another process, or another part of this one, holds it."""
    held = hold(file)
    if held is None:
        yield False
        return
    with held:
        yield True


class SharedLock:
    """A lock that many hold at the same time, each of which keeps others from holding it alone."""

    def __init__(self, file: Path) -> None:
        """Wait for whoever holds it alone, which is never for long, and hold it."""
        while True:
            self._file = private_files.append_to(file)
            fcntl.flock(self._file, fcntl.LOCK_SH)
            if _is_at(self._file, file):
                break
            self._file.close()  # it was removed meanwhile, and locks nothing
        os.utime(self._file.fileno())

    def release(self) -> None:
        """Let go; the file's time tells when."""
        os.utime(self._file.fileno())
        self._file.close()
