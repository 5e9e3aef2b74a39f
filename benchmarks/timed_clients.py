"""HTTP clients that time answers by the kernel: when they came to the socket, not when they were read.

A program that makes thousands of requests is late itself, the more so on a busy machine. So a request counts
from before it is written, an answer until the kernel has it (`SO_TIMESTAMPNS`), and how late this program
then was with reading it is kept beside.
"""

import asyncio
import socket
import struct
import time
from dataclasses import dataclass
from typing import Self

#: Linux's; Python has no name for it. The kernel notes when what comes came, by the clock of `time_ns`.
SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")
_READ_BYTES = 1 << 16


@dataclass(frozen=True)
class TimedAnswer:
    """What came, and when; times in nanoseconds since 1970."""

    status: int
    retry_after_s: int
    body: bytes
    asked_ns: int
    came_ns: int
    read_ns: int

    @property
    def took_s(self) -> float:
        """From before the request was written until the kernel had the whole answer."""
        return (self.came_ns - self.asked_ns) / 1e9

    @property
    def read_late_s(self) -> float:
        """How much later this program had it."""
        return (self.read_ns - self.came_ns) / 1e9


class TimedClient:
    """A connection that asks for one thing at a time."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.answer: TimedAnswer | None = None
        self.asked_ns = 0
        self._came = b""
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket()
        #: Ends with the answer, or with the connection.
        self.ended: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def connected(cls, host: str, port: int, number: int = 0) -> Self:
        """Make a client and connect it."""
        client = cls(number)
        client._socket.setblocking(False)
        client._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        await client._loop.sock_connect(client._socket, (host, port))
        client._loop.add_reader(client._socket, client._read)
        return client

    def ask(self, request: bytes) -> None:
        """Send a request, which must fit into the kernel's buffer."""
        if self.ended.done():
            self.ended = self._loop.create_future()
        self.answer, self._came = None, b""
        self.asked_ns = time.time_ns()
        self._socket.send(request)

    def leave(self) -> None:
        """Close the connection, answered or not."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()
        self._end()

    @property
    def status(self) -> int:
        """The answer's; 0 before it has come."""
        return self.answer.status if self.answer else 0

    def take(self, data: bytes, came_ns: int) -> None:
        """Take in what came; the answer ends with its body."""
        self._came += data
        head, found, body = self._came.partition(b"\r\n\r\n")
        if not found:
            return
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if len(body) < int(headers[b"content-length"]) or self.ended.done():
            return
        retry_after_s = int(headers.get(b"retry-after", 0))
        self.answer = TimedAnswer(
            int(head[9:12]), retry_after_s, body, self.asked_ns, came_ns, time.time_ns()
        )
        self._end()

    def _read(self) -> None:
        try:
            data, notes, _, _ = self._socket.recvmsg(_READ_BYTES, socket.CMSG_SPACE(_TIMESPEC.size))
        except OSError:
            data, notes = b"", []
        if data:
            self.take(data, _noted_ns(notes))
        else:
            self.leave()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def _noted_ns(notes: list[tuple[int, int, bytes]]) -> int:
    """Return when the kernel had what came; now, where it doesn't say."""
    for _, kind, content in notes:
        if kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack(content[: _TIMESPEC.size])
            return int(seconds * 1_000_000_000 + nanoseconds)
    return time.time_ns()
