"""What a worker process writes: its output line by line, and its last words; reads pipes, never waits."""

import logging
import os
from collections import deque
from collections.abc import Callable

import msgspec

from worker.orders import LastWords

#: How much of a worker's output goes with the report of its end.
LINES_KEPT = 50
LINE_LIMIT_BYTES = 4096
READ_BYTES = 64 * 1024

logger = logging.getLogger(__name__)


class _Pipe:
    """A pipe whose other end goes to a worker."""

    def __init__(self) -> None:
        self.fd, self.writer = os.pipe()
        os.set_blocking(self.fd, False)

    def close_writer(self) -> None:
        """Close our copy of the worker's end, so that the pipe ends with the worker."""
        os.close(self.writer)


class OutputPipe(_Pipe):
    """A worker's stdout and stderr; every line goes to `on_line`, the last ones are kept."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        super().__init__()
        self._last_lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._on_line = on_line
        self._partial = b""

    def drain(self) -> bool:
        """Read what is there; return False once nothing more can come."""
        while True:
            try:
                data = os.read(self.fd, READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                self._take(line)
            if len(self._partial) > LINE_LIMIT_BYTES:
                self._take(self._partial)
                self._partial = b""

    def close(self) -> tuple[str, ...]:
        """Read the rest, close, and return the last lines."""
        self.drain()
        if self._partial:
            self._take(self._partial)
        os.close(self.fd)
        return tuple(self._last_lines)

    def _take(self, line: bytes) -> None:
        text = line[:LINE_LIMIT_BYTES].decode(errors="replace").rstrip("\r")
        self._last_lines.append(text)
        self._on_line(text)


class StatusPipe(_Pipe):
    """Where a worker says why it could not load its model."""

    def last_words(self) -> LastWords | None:
        """Read what the worker, which is gone, has said; close."""
        try:
            # Where a worker has several processes, the first words are nearest to the cause.
            first, _, _ = os.read(self.fd, READ_BYTES).partition(b"\n")
            return msgspec.json.decode(first, type=LastWords)
        except (BlockingIOError, msgspec.DecodeError):
            return None  # it said nothing, or a handler of its own found the pipe
        finally:
            os.close(self.fd)
