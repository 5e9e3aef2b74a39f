"""What a worker process writes: its output line by line, and its last words; reads pipes, never waits."""

import asyncio
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import msgspec

from torchrelay.worker.orders import LastWords

#: How much of a worker's output goes with the report of its end.
LINES_KEPT = 50
LINE_LIMIT_BYTES = 4096
READ_BYTES = 64 * 1024

Stream = Literal["stdout", "stderr"]
#: What hears every line.
Ear = Callable[[Stream, str], None]


class _Pipe:
    """A pipe whose other end goes to a worker."""

    def __init__(self) -> None:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        # Files, since those close by themselves where the next pipe of a worker can't be had.
        self._reader, self._writer = io.FileIO(reader), io.FileIO(writer, "w")

    @property
    def fd(self) -> int:
        """Our end."""
        return self._reader.fileno()

    @property
    def writer(self) -> int:
        """The worker's end."""
        return self._writer.fileno()

    def close_writer(self) -> None:
        """Close our copy of the worker's end, so that the pipe ends with the worker."""
        self._writer.close()

    def read(self) -> bytes | None:
        """Read some of what is there: None if there is nothing, b"" once nothing more can come."""
        return self._reader.read(READ_BYTES)

    def close(self) -> None:
        """Close our end."""
        self._reader.close()


class _LinePipe(_Pipe):
    """One stream of a worker, line by line."""

    def __init__(self) -> None:
        super().__init__()
        self._partial = b""

    def lines(self, data: bytes) -> Iterator[str]:
        """Return the lines that end with what was read."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        yield from map(_text, lines)
        if len(self._partial) > LINE_LIMIT_BYTES:
            yield from self.rest()

    def rest(self) -> Iterator[str]:
        """Return what has been read of a line that doesn't end."""
        rest, self._partial = self._partial, b""
        if rest:
            yield _text(rest)


class Output:
    """A worker's stdout and stderr; every line goes to `on_line`, the last ones of both are kept.

    Lines of one stream keep their order, those of both come as they are read. To be used on an event loop.
    """

    def __init__(self, on_line: Ear) -> None:
        self._on_line = on_line
        self._last_lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._loop = asyncio.get_running_loop()
        self.stdout, self.stderr = _LinePipe(), _LinePipe()

    def follow(self) -> None:
        """Leave the pipes' other ends to the worker, and read what comes from now on."""
        for stream, pipe in self._pipes():
            pipe.close_writer()
            self._loop.add_reader(pipe.fd, self._read, stream, pipe)

    def close(self) -> tuple[str, ...]:
        """Read what is left, close, and return the last lines."""
        for stream, pipe in self._pipes():
            self._loop.remove_reader(pipe.fd)
            # Once takes all that a pipe holds: a process that the worker left behind may print without end.
            if data := pipe.read():
                self._take(stream, pipe.lines(data))
            self._take(stream, pipe.rest())
            pipe.close()
        return tuple(self._last_lines)

    def _pipes(self) -> tuple[tuple[Stream, _LinePipe], ...]:
        return ("stdout", self.stdout), ("stderr", self.stderr)

    def _read(self, stream: Stream, pipe: _LinePipe) -> None:
        data = pipe.read()
        if data:
            # No more than that: of a handler that prints without end the loop must not hear alone.
            self._take(stream, pipe.lines(data))
        elif data is not None:
            self._loop.remove_reader(pipe.fd)

    def _take(self, stream: Stream, lines: Iterable[str]) -> None:
        for line in lines:
            self._last_lines.append(line)
            self._on_line(stream, line)


class StatusPipe(_Pipe):
    """Where a worker says why it could not load its model."""

    def last_words(self) -> LastWords | None:
        """Read what the worker, which is gone, has said; close."""
        # Where a worker has several processes, the first words are nearest to the cause.
        first, _, _ = (self.read() or b"").partition(b"\n")
        self.close()
        try:
            return msgspec.json.decode(first, type=LastWords)
        except msgspec.DecodeError:
            return None  # it said nothing, or a handler of its own found the pipe


def _text(line: bytes) -> str:
    return line[:LINE_LIMIT_BYTES].decode(errors="replace").rstrip("\r")
