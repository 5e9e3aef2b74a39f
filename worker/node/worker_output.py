"""Reads what a worker process prints, line by line, and why it could not start; never waits for a pipe."""

import contextlib
import io
import os
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Literal

import msgspec

from torchrelay.worker.launcher.launcher_protocol import LastWords, LoadingPhase, Status

#: Last lines of a worker's output that go with the report of its end.
LINES_KEPT = 50
LINE_LIMIT_BYTES = 4096
#: Read from one stream before the next one is read; so many lines are passed on at once at most.
READ_BYTES = 4096
#: What a pipe holds at most.
PIPE_BYTES = 64 * 1024

Stream = Literal["stdout", "stderr"]
#: Gets every line, as many in a call as were read together.
LineReceiver = Callable[[Stream, list[str]], None]


class _Pipe:
    """A pipe whose `writer` goes to a worker, and is closed here, so that the pipe ends with the worker.

    Its `reader` reads None while there is nothing, and b"" once nothing more can come.
    """

    def __init__(self) -> None:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        # Files, since those close by themselves where the next pipe of a worker can't be had.
        self.reader, self.writer = io.FileIO(reader), io.FileIO(writer, "w")


class _LinePipe(_Pipe):
    """One stream of a worker, line by line."""

    def __init__(self) -> None:
        super().__init__()
        self._partial = b""

    def lines(self, data: bytes) -> list[bytes]:
        """Return the lines that end with what was read."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [*lines, *self.rest()] if len(self._partial) > LINE_LIMIT_BYTES else lines

    def rest(self) -> list[bytes]:
        """Return what has been read of a line that doesn't end."""
        rest, self._partial = self._partial, b""
        return [rest] if rest else []


class Output:
    """A worker's stdout and stderr; every line goes to `on_lines`, the last ones of both are kept.

    Lines of one stream keep their order, those of both come as they are read. `on_lines` is called in the
    reader's thread; everything else here is for the event loop, and doesn't wait.
    """

    def __init__(self, reader: "OutputReader", on_lines: LineReceiver) -> None:
        self._reader = reader
        self._on_lines = on_lines
        self._last_lines: deque[bytes] = deque(maxlen=LINES_KEPT)
        self.stdout, self.stderr = _LinePipe(), _LinePipe()
        self._pipes: tuple[tuple[Stream, _LinePipe], ...] = ("stdout", self.stdout), ("stderr", self.stderr)
        #: Held while a pipe is read, never while lines are passed on.
        self._lock = threading.Lock()
        self._is_closed = False

    def follow(self) -> None:
        """Close our copies of the worker's ends, and have the reader read the pipes from now on."""
        for stream, pipe in self._pipes:
            pipe.writer.close()
            read = partial(self._read, stream, pipe)
            self._reader.call(partial(self._reader.add, pipe.reader.fileno(), read))

    def close(self) -> tuple[str, ...]:
        """Read what is left, and return the last lines; the reader passes those on and closes the pipes."""
        left: list[tuple[Stream, list[bytes]]] = []
        with self._lock:
            self._is_closed = True
            for stream, pipe in self._pipes:
                # One read takes all that a pipe holds; a process that the worker left may print without end.
                lines = [*pipe.lines(pipe.reader.read(PIPE_BYTES) or b""), *pipe.rest()]
                self._last_lines.extend(lines)
                left.append((stream, lines))
        self._reader.call(self._close_pipes)
        for stream, lines in left:
            for first in range(0, len(lines), READ_BYTES):
                some = lines[first : first + READ_BYTES]
                self._reader.call(partial(self._pass_on, stream, some))
        return tuple(map(_text, self._last_lines))

    def _close_pipes(self) -> None:
        for _, pipe in self._pipes:
            self._reader.remove(pipe.reader.fileno())
            pipe.reader.close()

    def _read(self, stream: Stream, pipe: _LinePipe) -> None:
        with self._lock:
            data = None if self._is_closed else pipe.reader.read(READ_BYTES)
            lines = pipe.lines(data) if data else []
            self._last_lines.extend(lines)
        if data == b"":
            self._reader.remove(pipe.reader.fileno())
        self._pass_on(stream, lines)

    def _pass_on(self, stream: Stream, lines: list[bytes]) -> None:
        if lines:
            self._reader.wait_for_room()
            self._on_lines(stream, list(map(_text, lines)))


class OutputReader:
    """Reads what all workers of a node print, in a thread, since workers may print any amount.

    The streams are read in turn, a little at a time. A worker whose pipe is full waits until it is read.
    """

    def __init__(self, wait_for_room: Callable[[], None] = lambda: None) -> None:
        """Call `wait_for_room` before lines are passed on: it may wait for the logs."""
        self.wait_for_room = wait_for_room
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_writer.setblocking(False)
        self._calls: deque[Callable[[], None]] = deque()
        self._is_closing = False
        self.add(self._wake_reader.fileno(), self._answer_calls)
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], None]) -> None:
        """Have the thread call a function soon."""
        self._calls.append(function)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it is full of wakes already, or the thread has ended
            self._wake_writer.send(b"x")

    def close(self, timeout_s: float) -> None:
        """Pass on all lines that were left, for `timeout_s` at most, and end the thread."""
        self.call(self._end)
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._wake_writer.close()

    def add(self, fd: int, read: Callable[[], None]) -> None:
        """Call `read` whenever the file can be read; only the thread may call this."""
        self._selector.register(fd, selectors.EVENT_READ, read)

    def remove(self, fd: int) -> bool:
        """Watch a file no longer; return whether it was watched. Only the thread may call this."""
        is_watched = fd in self._selector.get_map()
        if is_watched:
            self._selector.unregister(fd)
        return is_watched

    def _run(self) -> None:
        while not self._is_closing:
            for key, _ in self._selector.select():
                key.data()
        self._selector.close()
        self._wake_reader.close()

    def _answer_calls(self) -> None:
        self._wake_reader.recv(4096)
        if self._calls:  # one wake per call, and one more for each that has to wait
            self._calls.popleft()()
        if self._calls:
            self._wake()  # one call a turn, so that the streams are read in between

    def _end(self) -> None:
        self._is_closing = True


class StatusPipe(_Pipe):
    """The pipe into which a worker writes how far it has come, and why it could not get ready."""

    def __init__(self) -> None:
        super().__init__()
        self._partial = b""
        #: Where a worker has several processes, the first words are nearest to the cause.
        self._words: LastWords | None = None

    def phases(self) -> list[LoadingPhase] | None:
        """Read what has come, and return the phases among it; None once nothing more can come."""
        data = self.reader.read(READ_BYTES)
        return None if data == b"" else self._heard(data or b"")

    def last_words(self) -> LastWords | None:
        """Read what the ended worker has written, and close."""
        self._heard((self.reader.read(PIPE_BYTES) or b"") + b"\n")
        self.reader.close()
        return self._words

    def _heard(self, data: bytes) -> list[LoadingPhase]:
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[:PIPE_BYTES]
        phases = []
        for line in lines:
            try:
                status = msgspec.json.decode(line, type=Status)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue  # a handler has written into the pipe
            if isinstance(status, LoadingPhase):
                phases.append(status)
            else:
                self._words = self._words or status
        return phases


def _text(line: bytes) -> str:
    return line[:LINE_LIMIT_BYTES].decode(errors="replace").rstrip("\r")
