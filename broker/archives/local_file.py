"""Opens files that a caller has named: regular ones alone, and never so that it waits for one. Blocking.

To open a device may already do something, and to open a pipe, or to read a file of /proc, may never end.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 4 << 20


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. Raises OSError for what is no regular file, and a read where it would wait."""
    _check(path, os.stat(path))
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check(path, os.fstat(fd))  # it may be another one by now
        return os.fdopen(fd, "rb")
    except OSError:
        os.close(fd)
        raise


def chunks_of(path: Path, limit_bytes: int) -> Iterator[bytes]:
    """Read a file as large as it is now. Raises OSError, and ValueError where it is too large or changes."""
    with open_regular(path) as file:
        before = os.fstat(file.fileno())
        if before.st_size > limit_bytes:
            raise ValueError(f"{path} has {before.st_size} bytes")
        left = before.st_size
        while left and (chunk := file.read(min(left, CHUNK_BYTES))):
            left -= len(chunk)
            yield chunk
        after = os.fstat(file.fileno())
    # One of /proc says that it is empty, and never ends.
    if (
        left
        or not before.st_size
        or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns)
    ):
        raise ValueError(f"{path} is empty, or was changed while it was read")


def _check(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise FileNotFoundError(f"{path} is no file")
