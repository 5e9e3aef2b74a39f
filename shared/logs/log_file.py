"""A log's file that is moved away when it is long, however many processes write to it.

Each appends whole lines. Who finds it full moves it to NAME.1, that to NAME.2 and so on, under a lock on the
file itself; the others see that their file has gone elsewhere, and open the new one. So logrotate may move
or truncate it as well. A file that can't be moved becomes longer: no line is lost for that.
"""

import contextlib
import logging
import os
import stat
from pathlib import Path

from torchrelay.shared import locks, private_files
from torchrelay.shared.settings import LogLimits

logger = logging.getLogger(__name__)


#: Whom a log's folder lets in may read it, as with TorchServe's; nobody else writes.
_MODE = 0o644


def open_to_append(path: Path) -> int:
    """Open a log's file, made if need be, which only this user may write to. Raises OSError."""
    private_files.refuse_others(path)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
    private_files.keep_to_owner(fd)
    return fd


class LogFile:
    """One file to append to; opened when there is something to write."""

    def __init__(self, path: Path, limits: LogLimits) -> None:
        # What a link points to is moved, not the link. A link to /dev/stdout may point to what has no path.
        target = Path(os.path.realpath(path))
        self.path = path if path.exists() and not target.exists() else target
        self._named = path
        self._limits = limits
        self._fd: int | None = None
        #: Until it could not be moved, which is not tried again before it is opened anew.
        self._is_movable = True
        #: A fork would share the lock of the process that has opened the file.
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
        """Close it; it is opened again by what is written next."""
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
        """Move the file away, unless another process has just done so."""
        try:
            with locks.flocked(fd):
                if locks.is_at(self.path, fd):
                    self._move()
        except OSError as error:  # it is mounted by itself, or its folder is another user's
            self._is_movable = False
            facts = {"log": str(self.path), "reason": error.strerror}
            logger.warning("log.not_moved_away", extra=facts)

    def _move(self) -> None:
        """Move all files by one number; until the last step nobody can open a new one."""
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
