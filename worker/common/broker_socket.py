"""The socket to the broker; the one module that knows zmq, for node and worker alike.

It dials out, never blocks, and belongs to the thread that made it. Made after any fork: a zmq context
does not survive one.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from math import ceil, inf

import zmq

from torchrelay.shared import clock
from torchrelay.shared.processes.shared_memory import NoSuchMemory
from torchrelay.shared.wire import codec, sockets
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.broker_dialer import BrokerDialer
from torchrelay.shared.wire.memory_sharing import MemorySharing
from torchrelay.shared.wire.redial_policy import BrokerPlace, Kind

logger = logging.getLogger(__name__)

Received = tuple[m.Message, int, Sequence[codec.PayloadOrPiece]]


class BrokerSocket:
    """A connection to the broker that may come and go."""

    def __init__(
        self,
        place: BrokerPlace,
        kind: Kind,
        wake_fd: int | None = None,
        others_keys: Callable[[], tuple[str, ...]] = tuple,
        *,
        shares_memory: bool = False,
    ) -> None:
        """Dial; `wait` also ends when `wake_fd` is readable.

        With `shares_memory` parts of messages may lie in memory of this host.
        `others_keys` says by which keys others of this host know the broker.
        """
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._shares_memory = shares_memory
        #: What a worker lends, and reads of gateways.
        self.sharing = MemorySharing("worker")
        self._secret_key = place.secret_key
        self._addresses = place.addresses
        self._dialer = BrokerDialer(self._context, kind, place, now=clock.monotonic())
        self._dialer.on_closing, self._dialer.on_dialled = self._stop_following, self._follow
        self._dialer.complain = partial(logger.error, "broker.not_let_in: %s")
        self._dialer.others_keys = others_keys
        self._poller = zmq.Poller()
        if wake_fd is not None:
            self._poller.register(wake_fd, zmq.POLLIN)
        self._watcher_fd: int | None = None
        #: The event loop that tells of the socket, and whom it tells.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_ready: Callable[[], object] = _nothing
        self._fds: tuple[int, ...] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._follow()

    @property
    def address(self) -> str:
        """Where the broker is, or is tried to be reached next."""
        return self._dialer.address

    @property
    def place(self) -> BrokerPlace:
        """Where the broker is, by the keys that it is known to have by now; with our own secret key."""
        first = self._addresses.index(self._dialer.address)
        addresses = (*self._addresses[first:], *self._addresses[:first])
        return BrokerPlace(addresses, self._dialer.policy.broker_keys, self._secret_key)

    @property
    def is_refused(self) -> bool:
        """Whether the broker has last refused our key."""
        return self._dialer.policy.is_refused

    def call(
        self,
        *,
        complain: Callable[[str], None],
        keep_keys: Callable[[tuple[str, ...]], None],
        on_connected: Callable[[], None],
    ) -> None:
        """Say whom to tell why the broker can't be talked to, which keys it has, and of each connection."""
        self._dialer.complain, self._dialer.keep_keys = complain, keep_keys
        self._dialer.on_connected = on_connected

    def know(self, broker_keys: tuple[str, ...]) -> None:
        """Take on the keys that the broker says that it has."""
        self._dialer.know(broker_keys)

    def watch(self, loop: asyncio.AbstractEventLoop, on_ready: Callable[[], object]) -> None:
        """Have the loop call `on_ready` when there may be something: then, and after each send, drain."""
        self._loop, self._on_ready = loop, on_ready
        self._stop_following()
        self._follow()
        self._see()

    def stop_watching(self) -> None:
        """Have the loop tell of nothing any more."""
        self._stop_following()
        if self._timer is not None:
            self._timer.cancel()
        self._loop = None

    def send(self, message: m.Message, epoch: int, frames: Sequence[codec.PayloadOrPiece] = ()) -> bool:
        """Send, or return False where there is no connection to send on."""
        if self._socket.closed:  # a thread's last words may come after `close`
            return False
        try:
            parts = self.sharing.packed(message, epoch, frames) if frames else (codec.encode(message, epoch),)
            sockets.send(self._socket, parts)
        except zmq.Again:
            return False
        return True

    def receive(self) -> Received | None:
        """Return the next message with its epoch and frames, or None; what can't be read is dropped."""
        while not self._socket.closed:  # a loop may call once more after `close`
            if not sockets.is_readable(self._socket):
                return None
            head, frames = sockets.receive(self._socket)
            try:
                message, epoch = codec.decode(head)
                parts = self.sharing.unpacked(head, frames) if frames else frames
            except codec.WireError as error:
                logger.warning("message.unreadable", extra={"reason": str(error)})
                continue
            if isinstance(message, m.OfMemory):
                self._hear_of_memory(message, epoch)
                continue
            if isinstance(message, m.Welcome) and message.shares_memory and self._shares_memory:
                self._offer_memory(epoch)
            return message, epoch, parts
        return None

    def _hear_of_memory(self, message: m.OfMemory, epoch: int) -> None:
        opening = self.sharing.heard(message)
        if isinstance(message, m.OfferMemory) and opening is not None:
            with suppress(NoSuchMemory):
                self.send(self.sharing.opened(message, opening()), epoch)

    def _offer_memory(self, epoch: int) -> None:
        if (offer := self.sharing.offer(epoch)) is not None:
            self.send(offer, epoch)

    def wait(self, timeout_s: float) -> None:
        """Wait for a message, for the wake fd, or for the time to pass."""
        if self._watcher_fd is None and self._dialer.next_wake == inf:
            self._poller.poll(max(0, round(timeout_s * 1000)))
            return
        timeout_s = min(timeout_s, self._dialer.next_wake - clock.monotonic())
        ready = self._poller.poll(max(0, ceil(timeout_s * 1000)))
        now = clock.monotonic()
        if now >= self._dialer.next_wake or any(what == self._watcher_fd for what, _ in ready):
            self._dialer.see(now)

    def close(self, linger_s: float) -> None:
        """Close; what is under way has `linger_s` to leave."""
        self._dialer.close(round(linger_s * 1000))
        self.sharing.close()
        self._context.term()

    def _follow(self) -> None:
        """Have whoever waits be told of the present socket."""
        self._socket, self._watcher_fd = self._dialer.socket, self._dialer.watcher_fd
        if self._socket.closed:
            return
        if self._loop is None:
            self._poller.register(self._socket, zmq.POLLIN)
            if self._watcher_fd is not None:
                self._poller.register(self._watcher_fd, zmq.POLLIN)
            return
        fd = sockets.fd_of(self._socket)
        self._loop.add_reader(fd, self._on_ready)
        self._fds = (fd,)
        if self._watcher_fd is not None:
            self._loop.add_reader(self._watcher_fd, self._see)
            self._fds = (fd, self._watcher_fd)

    def _stop_following(self) -> None:
        if self._socket in self._poller:
            self._poller.unregister(self._socket)
        if self._watcher_fd is not None and self._watcher_fd in self._poller:
            self._poller.unregister(self._watcher_fd)
        self._watcher_fd = None
        if self._loop is not None:
            for fd in self._fds:
                self._loop.remove_reader(fd)
        self._fds = ()

    def _see(self) -> None:
        """Take in how dialling goes on, now and when it is time."""
        if self._loop is None:
            return
        self._dialer.see(clock.monotonic())
        if self._timer is not None:
            self._timer.cancel()
        if self._dialer.next_wake < inf:
            self._timer = self._loop.call_later(self._dialer.next_wake - clock.monotonic(), self._see)
        self._on_ready()


def _nothing() -> None:
    """Do nothing."""
