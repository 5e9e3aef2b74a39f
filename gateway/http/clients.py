"""All connections of one process: closes those that are too slow, and those that others need the place of.

One timer for all of them, which runs only while somebody is slow: a request that comes whole and is taken at
once meets nothing of this.
"""

import asyncio
import fcntl
import heapq
import socket as sockets
import struct
import termios
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from torchrelay.gateway.http.client_pace import ClientBacklog, ClientPace, Unsent
from torchrelay.gateway.http.held_writes import HeldWrites
from torchrelay.shared.processes.returned_memory import give_back_free_memory
from torchrelay.shared.settings import GatewaySettings

SWEEP_S = 1.0
#: A sweep that is so late: this process stood still, and what its clients sent meanwhile is still to be read.
LATE_S = 2.0
#: Where more than this had been kept for slow clients, what is free is given back once they have gone.
MUCH_KEPT_BYTES = 64 << 20
#: Of the connections that are allowed, those that go at once where there is one too many: looking through all
#: of them for each new one would take longer than to accept it.
_SHARE = 32
#: Where none can go, none is looked for that long: who is one too many comes by the hundred.
_LOOK_AGAIN_S = 0.05


class HttpClient(Protocol):
    """A connection, as `Clients` sees it."""

    def look(self, now: float) -> bool:
        """Check how fast its client is; return False where nothing is expected of it."""

    def stood_still(self, for_s: float) -> None:
        """Count no time in which this process did not run against the client."""

    def slowness(self, now: float) -> float | None:
        """Return the bytes per second of a body that comes slowly, None where none does."""

    def time_out(self) -> None:
        """End the connection because its client is too slow."""

    def rank(self, now: float) -> tuple[int, float] | None:
        """Return the order of closing where others need its place, lowest first; None: it is not closed."""

    def drop(self) -> None:
        """Close the connection, and drop what is unsent."""


@dataclass(eq=False)
class Clients:
    """The connections of one process."""

    config: GatewaySettings
    _unsent: Unsent
    #: Counts the bodies that have waited for room for long.
    _waiting_bodies: Callable[[], int]
    _give_back: Callable[[], None] = give_back_free_memory
    #: By which their answers are written.
    writes: HeldWrites = field(default_factory=HeldWrites)
    #: The process leaves: what is answered from here on is the last on its connection.
    is_leaving: bool = False
    _watched: set[HttpClient] = field(default_factory=set)
    _most_kept_bytes: int = 0
    _timer: asyncio.TimerHandle | None = None
    #: Until then all connections that there are count as being answered.
    _all_busy_until: float = 0.0

    def pace(self, now: float) -> ClientPace:
        """Begin to measure what a client sends, or takes."""
        return ClientPace(self.config.client_least_rate, self.config.client_stall_s, now=now)

    def watch(self, client: HttpClient, loop: asyncio.AbstractEventLoop) -> None:
        """Check a client every SWEEP_S until nothing is expected of it."""
        self._watched.add(client)
        if self._timer is None:
            self._sweep_later(loop)

    def forget(self, client: HttpClient) -> None:
        """Check a client no longer: it has gone."""
        self._watched.discard(client)

    def keep(self, one: ClientBacklog, now: float) -> None:
        """Count what is kept for a client, and cut the slowest where it is too much."""
        for slowest in self._unsent.keep(one, now):
            slowest.cut()
        self._most_kept_bytes = max(self._most_kept_bytes, self._unsent.held_bytes)

    def let_go(self, one: ClientBacklog, now: float) -> None:
        """Keep nothing more for a client that has gone.

        Its connection is freed at once only where nothing that it holds holds it: the collector comes after
        hundreds of them, and TLS has up to 512 KiB for each.
        """
        self.keep(one, now)
        one.measure = one.cut = lambda: 0

    def make_room(self, connections: Collection[HttpClient], new: HttpClient, now: float) -> bool:
        """Drop connections where there is one too many; False where none but the new one can go."""
        if len(connections) <= self.config.connection_limit:
            return True
        if now < self._all_busy_until:
            return False
        ranked = ((client.rank(now), id(client), client) for client in connections if client is not new)
        going = [(rank, number, client) for rank, number, client in ranked if rank is not None]
        count = max(1, self.config.connection_limit // _SHARE)
        for _, _, client in heapq.nsmallest(count, going):
            client.drop()
        if not going:
            self._all_busy_until = now + _LOOK_AGAIN_S
        return bool(going)

    def _sweep_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(SWEEP_S, self._sweep, loop, loop.time() + SWEEP_S)

    def _sweep(self, loop: asyncio.AbstractEventLoop, due_at: float) -> None:
        now = loop.time()
        if now - due_at > LATE_S:
            for client in self._watched:
                client.stood_still(now - due_at)
        self._watched = {client for client in list(self._watched) if client.look(now)}
        self._let_others_in(now)
        if self._most_kept_bytes > max(MUCH_KEPT_BYTES, 4 * self._unsent.held_bytes):
            self._most_kept_bytes = self._unsent.held_bytes
            self._give_back()
        self._timer = None
        if self._watched:
            self._sweep_later(loop)

    def _let_others_in(self, now: float) -> None:
        """Give up the slowest bodies for those that wait for room."""
        count = self._waiting_bodies() if self._watched else 0
        if not count:
            return
        rates = [(client.slowness(now), id(client), client) for client in self._watched]
        slow = [(rate, number, client) for rate, number, client in rates if rate is not None]
        for _, _, client in heapq.nsmallest(count, slow):
            client.time_out()


def not_taken_bytes(transport: asyncio.Transport) -> int:
    """Return what a client has not taken yet: here, and in the kernel, which takes on much at once."""
    unsent_bytes = transport.get_write_buffer_size()
    socket = _socket(transport)
    if socket is None:
        return unsent_bytes
    queued = fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, bytes(4))
    return unsent_bytes + int(struct.unpack("i", queued)[0])


def reset(transport: asyncio.Transport) -> None:
    """Close a connection so that the kernel drops what it holds for it, too, instead of sending it yet."""
    socket = _socket(transport)
    if socket is not None:
        socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _socket(transport: asyncio.Transport) -> sockets.socket | None:
    """Return a transport's socket, but none that is closed: its number may be another's by now."""
    if transport.is_closing() and not transport.get_write_buffer_size():
        return None
    socket: sockets.socket | None = transport.get_extra_info("socket")
    return socket
