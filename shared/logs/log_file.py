"""Rotates a log file to which several processes write.

Each process appends whole lines. The process that finds the file full renames it to NAME.1, that to NAME.2
and so on, under a lock on the file itself; the others see that their file is no longer at its path, and open
the new one. So logrotate may rename or truncate it as well. A file that can't be renamed grows on: no line is
lost.

The standard library's RotatingFileHandler is for one process: two would rotate each other's files.
"""

import contextlib
import logging
import os
import stat
from pathlib import Path

from torchrelay.shared import locks, private_files
from torchrelay.shared.settings import LogLimits

logger = logging.getLogger(__name__)

#: As TorchServe's: all users that the folder lets in may read, this user alone may write.
_MODE = 0o644


def open_to_append(path: Path) -> int:
    """Open a log file, made if need be, to which only this user may write. Raises OSError."""
    private_files.refuse_others(path)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
    private_files.keep_to_owner(fd)
    return fd


class LogFile:
    """A log file; opened when there is something to write."""

    def __init__(self, path: Path, limits: LogLimits) -> None:
        # The target of a link is renamed, not the link. That of /dev/stdout may have no path.
        target = Path(os.path.realpath(path))
        self.path = path if path.exists() and not target.exists() else target
        self._named = path
        self._limits = limits
        self._fd: int | None = None
        #: False once renaming has failed, which is tried again after the file was opened again.
        self._is_movable = True
        #: The process that opened the file: a fork would share its lock.
        self._pid = os.getpid()

    def append(self, data: bytes) -> None:
        """Write whole lines. Raises OSError."""
        fd = self._current()
        if self._limits.file_bytes and self._is_movable and self._is_full(fd, len(data)):
            self._rotate(fd)
            fd = self._current()
        while data:
            data = data[os.write(fd, data) :]

    def close(self) -> None:
        """Close the file; the next write opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _current(self) -> int:
        if self._fd is not None and (self._pid != os.getpid() or not locks.is_at(self.path, self._fd)):
            self.close()
        if self._fd is None:
            self._pid = os.getpid()
            self._is_movable = True
            private_files.refuse_others(self._named)
            self._fd = open_to_append(self.path)
        return self._fd

    def _is_full(self, fd: int, more_bytes: int) -> bool:
        facts = os.fstat(fd)
        # A pipe or a terminal has no size to speak of.
        return stat.S_ISREG(facts.st_mode) and 0 < facts.st_size > self._limits.file_bytes - more_bytes

    def _rotate(self, fd: int) -> None:
        """Rename the file, unless another process has just done so."""
        try:
            with locks.flocked(fd):
                if locks.is_at(self.path, fd):
                    self._move()
        except OSError as error:  # the file is a mount of its own, or the folder is another user's
            self._is_movable = False
            facts = {"log": str(self.path), "reason": error.strerror}
            logger.warning("log.not_moved_away", extra=facts)

    def _move(self) -> None:
        """Rename all files to the next number, the current one last: then other processes open a new one."""
        for number in range(self._limits.files - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._numbered(number).replace(self._numbered(number + 1))
        if self._limits.files:
            self.path.replace(self._numbered(1))
        else:
            self.path.unlink()

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


class LogFileHandler(logging.Handler):
    """Appends formatted records to a LogFile."""

    def __init__(self, path: Path, limits: LogLimits, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.baseFilename = str(path)
        self._file = LogFile(path, limits)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            self._file.append(f"{self.format(record)}\n".encode(errors="replace"))
        except (OSError, TypeError, ValueError):  # or its arguments don't fit its text
            self.handleError(record)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
