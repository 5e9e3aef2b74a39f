"""A TCP proxy that makes trouble: `python -m tests.reliability.proxy`, told by lines of JSON on stdin.

The first line is its list of edges, each later one an order, and each is answered by a line. An edge listens
for the parts of one host, and dials the broker for each of them. Trouble is of an edge, or of one role on it:
then whoever dials is looked up by its port.
"""

import asyncio
import contextlib
import os
import socket
import sys
from functools import partial
from pathlib import Path

import msgspec
import psutil

from torchrelay.shared import clock

#: Bytes that wait in the proxy, of one direction of a connection, before it reads no more.
HELD_LIMIT_BYTES = 4 << 20
READ_BYTES = 1 << 16
#: Says to a process, and so to the proxy, on which host it is.
HOST_VARIABLE = "MATRIX_HOST"
#: A ZMTP greeting has so many bytes; frames follow.
GREETING_BYTES = 64
_MORE, _LONG, _COMMAND = 1, 2, 4


class Edge(msgspec.Struct, frozen=True):
    """Where one host's parts dial, and where that leads."""

    name: str
    host: str
    port: int
    to_host: str
    to_port: int


class Trouble(msgspec.Struct, frozen=True):
    """What happens to what is carried; nothing by default."""

    #: Nothing passes, nothing is closed: what a cable does that is pulled out.
    is_cut: bool = False
    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    #: One bit in so many bytes is another.
    flip_every_bytes: int = 0
    #: Every so manieth message comes twice; on a connection with keys, every so manieth part of one.
    double_every: int = 0


class Order(msgspec.Struct, frozen=True):
    """Trouble from now on, for one edge and one role (`node`, `worker`, `gateway`) or all."""

    trouble: Trouble
    edge: str = ""
    role: str = ""
    #: Close what is open, as a firewall does that forgets.
    resets: bool = False


class Doubler:
    """Doubles every so manieth message of a ZMTP stream; bytes in, bytes out.

    With keys each part of a message is sealed in a frame of its own, which then is what comes twice.
    """

    def __init__(self) -> None:
        self._waiting = b""
        self._greeting_left = GREETING_BYTES
        self._message = b""
        self._count = 0

    def feed(self, data: bytes, every: int) -> bytes:
        """Take in bytes; return those that can be sent on, whole frames of whole messages."""
        # Each side sends a part of it, and waits for the other's: none of it is held back.
        out, data = data[: self._greeting_left], data[self._greeting_left :]
        self._greeting_left -= len(out)
        self._waiting += data
        while frame := self._frame():
            if frame[0] & _COMMAND:
                out += frame
                continue
            self._message += frame
            if not frame[0] & _MORE:
                self._count += 1
                out += self._message * (2 if every and self._count % every == 0 else 1)
                self._message = b""
        return out

    def _frame(self) -> bytes:
        if len(self._waiting) < 2:
            return b""
        head = 9 if self._waiting[0] & _LONG else 2
        size = head + int.from_bytes(self._waiting[1:head], "big")
        if len(self._waiting) < max(head, size):
            return b""
        frame, self._waiting = self._waiting[:size], self._waiting[size:]
        return frame


class Direction:
    """One direction of a connection: bytes wait until they are due, and while the edge is cut."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._held: list[tuple[float, bytes]] = []
        self.held_bytes = 0
        self.moved = asyncio.Event()
        self._due = 0.0
        self._seen_bytes = 0
        #: Counts messages from the first byte on.
        self._doubler = Doubler()

    def add(self, data: bytes, trouble: Trouble) -> None:
        data = self._doubler.feed(data, trouble.double_every)
        if every := trouble.flip_every_bytes:
            changed = bytearray(data)
            # A new connection comes through its handshake: it breaks when it carries something.
            first = (every // 2 - self._seen_bytes) % every
            for place in range(first, len(changed), every):
                changed[place] ^= 0x10
            self._seen_bytes += len(data)
            data = bytes(changed)
        now = clock.monotonic()
        seconds = len(data) / trouble.bytes_per_s if trouble.bytes_per_s else 0.0
        self._due = max(self._due, now) + seconds
        self._held.append((self._due + trouble.delay_s, data))
        self.held_bytes += len(data)
        self.moved.set()

    def next_due(self) -> float | None:
        return self._held[0][0] if self._held else None

    def pop(self) -> bytes:
        _, data = self._held.pop(0)
        self.held_bytes -= len(data)
        return data


class Connection:
    """One connection of a part, and ours to the broker."""

    def __init__(self, edge: str, role: str) -> None:
        self.edge = edge
        self.role = role
        self.trouble = Trouble()
        self.changed = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    def set(self, trouble: Trouble) -> None:
        self.trouble = trouble
        self.changed.set()

    def reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def carry(self, down: asyncio.StreamReader, up: asyncio.StreamWriter, edge: Edge) -> None:
        """Carry both ways until one side closes, or it is reset."""
        self._writers.append(up)
        while self.trouble.is_cut:
            await self._wait(self.changed, None)
        reader, writer = await asyncio.open_connection(edge.to_host, edge.to_port)
        self._writers.append(writer)
        ways = [(down, Direction(writer)), (reader, Direction(up))]
        try:
            async with asyncio.TaskGroup() as group:
                for source, way in ways:
                    group.create_task(self._read(source, way))
                    group.create_task(self._write(way))
        except* (OSError, EOFError):
            self.reset()

    async def _read(self, source: asyncio.StreamReader, way: Direction) -> None:
        while data := await source.read(READ_BYTES):
            way.add(data, self.trouble)
            while way.held_bytes > HELD_LIMIT_BYTES:
                await self._wait(way.moved, None)
        while way.held_bytes or self.trouble.is_cut:  # an end comes after what was sent before it
            await self._wait(way.moved, 0.1)
        raise EOFError

    async def _write(self, way: Direction) -> None:
        while True:
            due = way.next_due()
            if due is None:
                await self._wait(way.moved, None)
            elif self.trouble.is_cut:
                await self._wait(self.changed, None)
            elif due > (now := clock.monotonic()):
                await self._wait(self.changed, due - now)
            else:
                way.writer.write(way.pop())
                way.moved.set()
                await way.writer.drain()

    @staticmethod
    async def _wait(event: asyncio.Event, seconds: float | None) -> None:
        event.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()


class Proxy:
    """All edges, the connections on them, and the trouble that there is."""

    def __init__(self) -> None:
        self._orders: list[Order] = []
        self._connections: set[Connection] = set()

    async def listen(self, edge: Edge) -> None:
        accept = partial(self._accept, edge)
        server = await asyncio.start_server(accept, edge.host, edge.port, limit=READ_BYTES)
        for listener in server.sockets:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def _accept(self, edge: Edge, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("peername")[1]
        connection = Connection(edge.name, await asyncio.to_thread(role_of, edge.name, port))
        connection.set(self._trouble_of(connection))
        self._connections.add(connection)
        try:
            await connection.carry(reader, writer, edge)
        except OSError:
            pass  # no broker there: whoever dials sees the end, and dials again
        finally:
            connection.reset()
            self._connections.discard(connection)

    def obey(self, order: Order) -> None:
        """Take an order; of those for one edge and role the last one counts."""
        known = [one for one in self._orders if (one.edge, one.role) != (order.edge, order.role)]
        self._orders = [*known, order]
        for connection in list(self._connections):
            if _fits(order, connection):
                connection.set(order.trouble)
                if order.resets:
                    connection.reset()

    def _trouble_of(self, connection: Connection) -> Trouble:
        fitting = [order.trouble for order in self._orders if _fits(order, connection)]
        return fitting[-1] if fitting else Trouble()


def _fits(order: Order, connection: Connection) -> bool:
    return order.edge in ("", connection.edge) and order.role in ("", connection.role)


def role_of(edge: str, port: int) -> str:
    """Tell whose port it is on an edge's host: a node's, one of its workers', or a gateway process's."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        line = " ".join(words)
        if line.startswith("torchrelay worker "):
            role = "worker"
        elif "[torchrelay gateway]" in line:
            role = "gateway"
        elif any(word.endswith("/torchrelay") for word in words):
            role = "gateway" if "gateway" in words else "node"
        else:
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if _host_of(process) == edge and _holds(process, port):
                return role
    return ""


def _host_of(process: psutil.Process) -> str | None:
    """Return the host that a process was started on; one with a title of its own shows no environment."""
    found = (one.environ().get(HOST_VARIABLE) for one in (process, *process.parents()))
    return next((host for host in found if host), None)


def _holds(process: psutil.Process, port: int) -> bool:
    """Whether a process has a connection from this port in its namespace, where psutil doesn't look."""
    lines = Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]
    inodes = {words[9] for words in map(str.split, lines) if words[1].endswith(f":{port:04X}")}
    for fd in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(fd).removeprefix("socket:[").removesuffix("]") in inodes:
                return True
    return False


async def main() -> None:
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    edges = msgspec.json.decode(await lines.readline(), type=list[Edge])
    proxy = Proxy()
    for edge in edges:
        await proxy.listen(edge)
    _answer()
    while line := await lines.readline():
        proxy.obey(msgspec.json.decode(line, type=Order))
        _answer()


def _answer() -> None:
    sys.stdout.write("done\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
    os._exit(0)
