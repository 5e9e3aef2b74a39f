"""The broker's sockets: one for peers that need no key, one for those that come by a key of theirs.

On a unix socket, which its file's mode keeps to one user, and on tcp that was opened to everybody
(`--insecure`), peers choose their own ids. Elsewhere each connection is encrypted, and a peer's id is made of
the key by which it was let in: nobody has another's, and one that connects anew has its own again.

The only zmq module of the broker. Nothing in it blocks but `wait`.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import zmq

from torchrelay.broker.core.events import Event, Garbled, Received
from torchrelay.broker.network import unix_sockets
from torchrelay.broker.network.connections import Connections
from torchrelay.broker.network.refusals import Refusals
from torchrelay.broker.network.shared_memories import SharedMemories
from torchrelay.broker.network.unix_sockets import BindFailed
from torchrelay.shared import clock
from torchrelay.shared.wire import codec, curve, sockets
from torchrelay.shared.wire import messages as m

#: Messages taken in one turn: large enough to batch well, small enough for timers to be on time.
TURN_LIMIT_MESSAGES = 256
#: Bytes of their heads taken in one turn: a byte takes 25 ns to decode, and some more to act on.
TURN_LIMIT_BYTES = codec.HEAD_TO_BROKER_LIMIT_BYTES
#: Frames of an overlong message that are dropped in one turn, during which nobody else is heard.
TURN_LIMIT_DROPPED = 20_000
#: Questions about keys that are answered in one turn; each is of somebody who knows the broker's public key.
TURN_LIMIT_ADMISSIONS = 64
#: Threads of libzmq's where it encrypts: a large body takes one for 1.5 ms a megabyte, each way.
#: PERF: beside 80 answers of 6 MB on a busy machine of 2 cores, 316 and 513 of 3,200 small predictions
#: were refused with one thread, 0 and 262 with two, none without keys.
SECURED_IO_THREADS = 2
#: How long the last answers have to leave: whose is lost is sent again, and run again.
LAST_SENDS_MS = 200
#: Connections that have ended and are remembered, since messages of theirs may still be waiting.
ENDED_LIMIT = 4096


class _Listener:
    """A socket, and the one that tells of its connections."""

    def __init__(self, context: sockets.Context, socket: sockets.Socket) -> None:
        self.socket = socket
        self.watcher = sockets.watcher(context, socket)
        #: The peer whose message has too many frames; the rest of it is being dropped.
        self.overlong: bytes | None = None
        #: Something may have come that has not been read. PERF: to find nothing takes 3 us, each turn.
        self.is_readable = True
        #: Whether the connection of which is told next that it has ended left, or was slow, in its handshake.
        self.is_leaving = False
        #: Connections, by fds, of which the beginning was told, and not yet the end.
        self.open: set[int] = set()
        #: Those of which the end was told first, and whether they had left: libzmq accepts in one of its
        #: threads, and may have ended the connection in another before it says so.
        self.ended_first: dict[int, bool] = {}

    def close(self) -> None:
        self.watcher.close()
        self.socket.close(linger=LAST_SENDS_MS)


class PeerSockets:
    """Receives messages of all peers and sends them theirs.

    With `own`, the broker's curve keys, it listens for peers that have one, too; `why_not_admitted` says why
    a public key lets nobody in, empty if it does. `wake_fd` ends a wait.
    """

    def __init__(
        self,
        connections: Connections,
        own: curve.KeyPair | None,
        why_not_admitted: Callable[[str], str],
        wake_fd: int,
    ) -> None:
        self._connections = connections
        #: What peers of this host lend each other.
        self.memories = SharedMemories()
        self._why_not_admitted = why_not_admitted
        self._context = zmq.Context(1 if own is None else SECURED_IO_THREADS)
        self._plain = _Listener(self._context, sockets.listener(self._context))
        self._gatekeeper: sockets.Socket | None = None
        self._secured: _Listener | None = None
        if own is not None:
            # First: without somebody who answers for keys, none is let in.
            self._gatekeeper = sockets.gatekeeper(self._context)
            self._secured = _Listener(self._context, sockets.secured_listener(self._context, own))
        self._refusals = Refusals()
        #: Of the secured socket, by fds: connections that have said nothing yet; whether they had not ended
        #: by the time when they were noted, and their addresses.
        self._silent: dict[int, tuple[bool, str]] = {}
        #: Of the secured socket: who a connection is, by the id that it was given; and the other way round.
        self._peers: dict[bytes, bytes] = {}
        self._routes: dict[bytes, bytes] = {}
        self._route_by_fd: dict[int, bytes] = {}
        #: Those that have ended, by the ids that they had.
        self._ended: OrderedDict[bytes, bytes] = OrderedDict()
        self._wake_fd = wake_fd
        self._poller = zmq.Poller()
        self._poller.register(wake_fd, zmq.POLLIN)
        # PERF: by its fd; of each socket of zmq's the poller asks for the events before and after it waits.
        self._watched = {}
        for listener in self._listeners:
            self._poller.register(listener.socket, zmq.POLLIN)
            fd = int(listener.watcher.getsockopt(zmq.FD))
            self._poller.register(fd, zmq.POLLIN)
            self._watched[fd] = listener
        if self._gatekeeper is not None:
            self._poller.register(self._gatekeeper, zmq.POLLIN)
        self._taken_bytes = 0
        self._turn_order = list(self._listeners)

    @property
    def _listeners(self) -> Sequence[_Listener]:
        return (self._plain,) if self._secured is None else (self._plain, self._secured)

    def bind(self, address: str, *, is_open: bool) -> None:
        """Listen on an address; with `is_open` on tcp, too, for whoever comes. Raises BindFailed."""
        is_plain = is_open or self._secured is None or not address.startswith("tcp://")
        listener = self._plain if is_plain or self._secured is None else self._secured
        try:
            with unix_sockets.private_files():
                listener.socket.bind(address)
        except zmq.ZMQError as error:
            raise BindFailed(
                f"The broker can't listen on {address}: {error.strerror}",
                "another process may hold it; choose another --address",
            ) from error
        for listening in self._listeners:
            self._note_connections(listening)  # its fd tells of what comes after it was drained

    def wait(self, timeout_ms: int) -> bool:
        """Wait until something has come, at most so long; tell whether the wake fd ended it."""
        ready = dict(self._poller.poll(timeout_ms))
        for listening in self._turn_order:
            listening.is_readable |= listening.socket in ready
        for fd, listener in self._watched.items():
            if fd in ready:
                self._note_connections(listener)
        if self._gatekeeper is not None and self._gatekeeper in ready:
            self._answer_for_keys(self._gatekeeper)
        return self._wake_fd in ready

    def close(self) -> None:
        """Close all of it; peers notice by themselves."""
        for listener in self._listeners:
            listener.close()
        if self._gatekeeper is not None:
            self._gatekeeper.close()
        self._context.term()

    # Receiving

    def receive(self, events: list[Event]) -> bool:
        """Receive what has come, up to a turn's limits, and add it to the events.

        Returns False where more is known to wait, which no poller would tell.
        """
        self._taken_bytes = 0
        is_all = True
        self._turn_order.reverse()  # what one takes up in a turn, the other has in the next
        for listener in self._turn_order:
            if listener.is_readable:
                is_done = self._receive_from(listener, events)
                listener.is_readable = not is_done  # of what comes from now on, or is left, `wait` tells
                is_all &= is_done
        return is_all

    def _receive_from(self, listener: _Listener, events: list[Event]) -> bool:
        socket = listener.socket
        for taken in range(TURN_LIMIT_MESSAGES):
            if taken == 1 and not sockets.is_readable(socket):
                break  # PERF: most turns have one message; to try and fail takes 4 us more than to ask
            if self._taken_bytes >= TURN_LIMIT_BYTES:
                break  # zmq takes from its connections in turn, so that no peer's messages wait for another's
            if listener.overlong is not None and not _drop_overlong(listener):
                return False
            try:
                route = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            events.append(self._rest_of_message(listener, route))
        return True

    def _rest_of_message(self, listener: _Listener, route: bytes) -> Event:
        """Receive what follows a connection's id; payloads are kept as zmq's own frames, to be passed on."""
        socket = listener.socket
        peer: bytes | None = route
        if listener is self._secured:
            peer = self._peers.get(route)
        elif curve.is_reserved(route):
            return self._refuse_claim(listener, route)
        # PERF: a frame says itself whether another follows; to ask the socket after each takes 1 us more.
        first = socket.recv(zmq.NOBLOCK, copy=False)
        connection = None if peer is None else self._connections.by_peer.get(peer)
        if peer is None or connection is None or self._connections.unidentified:
            fd = int(first.get(zmq.SRCFD))
            if peer is None:
                peer = self._identify(route, first, fd)
            connection = self._connections.heard(peer, fd, clock.monotonic())
        head = first.bytes
        self._taken_bytes += len(head)
        frames: list[zmq.Frame] = []
        last = first
        while last.more:
            if len(frames) >= codec.FRAMES_LIMIT:
                listener.overlong = peer
                return Garbled(peer, f"a message of more than {codec.FRAMES_LIMIT} frames")
            last = socket.recv(zmq.NOBLOCK, copy=False)
            frames.append(last)
        if connection is not None:
            connection.taken += len(head) + (sum(map(len, frames)) if frames else 0)
        parts: Sequence[codec.Frame] = frames
        try:
            message, epoch = codec.decode(head, codec.HEAD_TO_BROKER_LIMIT_BYTES)
            if frames:
                parts = self.memories.unpacked(head, frames)
        except codec.WireError as error:
            return Garbled(peer, str(error))
        if connection is not None and (frames or type(message) is m.Announced):
            connection.announce(message.size_bytes if isinstance(message, m.Announced) else 0)
        return Received(peer, message, epoch, tuple(parts))

    def _identify(self, route: bytes, first: zmq.Frame, fd: int) -> bytes:
        """Return who has sent the first message of a connection; an earlier one of the same peer ends."""
        if self._secured is not None:
            self._note_connections(self._secured)  # one that had this fd before must not end it later
        if (ended := self._ended.get(route)) is not None:
            return ended  # it lay waiting when its connection ended, and is no way to answer
        peer = sockets.peer_of(first)
        if (earlier := self._routes.get(peer)) is not None:
            self._forget_route(earlier)
            self._connections.cut(peer, "it has connected anew", clock.monotonic())
        self._peers[route], self._routes[peer], self._route_by_fd[fd] = peer, route, route
        self._silent.pop(fd, None)
        return peer

    def _forget_route(self, route: bytes) -> None:
        peer = self._peers.pop(route, None)
        if peer is None:
            return
        if self._routes.get(peer) == route:
            del self._routes[peer]
        self._ended[route] = peer
        while len(self._ended) > ENDED_LIMIT:
            self._ended.popitem(last=False)

    def _refuse_claim(self, listener: _Listener, route: bytes) -> Event:
        """Drop a message of a peer that has chosen an id which only a key gives."""
        while sockets.has_more(listener.socket):
            listener.socket.recv(zmq.NOBLOCK, copy=False)
        return Garbled(b"", "a peer without a key claims to have one")

    def _note_connections(self, listener: _Listener) -> None:
        while (seen := sockets.next_connection(listener.watcher)) is not None:
            news, fd = seen
            if news == "leaving":
                listener.is_leaving = True
                continue
            if news == "accepted":
                self._note_accepted(listener, fd)
                continue
            is_leaving, listener.is_leaving = listener.is_leaving, False
            if fd not in listener.open:
                listener.ended_first[fd] = is_leaving
                continue
            listener.open.remove(fd)
            if listener is self._secured:
                self._note_end_of_silent(fd, is_leaving=is_leaving)
            self._connections.closed(fd)
            if listener is self._secured and (route := self._route_by_fd.pop(fd, None)):
                self._forget_route(route)

    def _note_accepted(self, listener: _Listener, fd: int) -> None:
        if fd in listener.ended_first:
            # Whatever has its fd by now is another one.
            if not listener.ended_first.pop(fd) and listener is self._secured:
                self._refusals.log_failed_handshake("unknown", clock.monotonic())
            return
        listener.open.add(fd)
        self._connections.opened(fd, clock.monotonic())
        if listener is self._secured:
            is_there = fd in self._connections.unidentified
            self._silent[fd] = is_there, self._connections.kernel.address(fd) or "unknown"

    def _note_end_of_silent(self, fd: int, *, is_leaving: bool) -> None:
        """Report a connection that has said nothing, and was ended for what came in its handshake."""
        was_there, address = self._silent.pop(fd, (False, ""))
        was_cut = was_there and fd not in self._connections.unidentified
        if address and not was_cut and not is_leaving:
            self._refusals.log_failed_handshake(address, clock.monotonic())

    def _answer_for_keys(self, gatekeeper: sockets.Socket) -> None:
        for _ in range(TURN_LIMIT_ADMISSIONS):
            question = sockets.next_to_admit(gatekeeper)
            if question is None:
                return
            why_not = self._why_not_admitted(question.public_key)
            if why_not:
                self._refusals.log(question.public_key, question.address, why_not, clock.monotonic())
            sockets.admit(gatekeeper, question, is_welcome=not why_not)

    # Sending

    def send(self, peer: bytes, *messages: Sequence[sockets.Part]) -> bool:
        """Send messages one behind the other; False where there is no connection to the peer now."""
        listener, route = self._plain, peer
        if self._secured is not None and curve.is_reserved(peer):
            if peer not in self._routes:
                return False
            listener, route = self._secured, self._routes[peer]
        sent = 0
        try:
            for parts in messages:
                sockets.send(listener.socket, (route, *parts))
                sent += sum(map(len, parts))
        except zmq.ZMQError as error:
            # EHOSTUNREACH: no such connection now. EAGAIN can't be: peers have no high-water mark here.
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            return False
        finally:
            if connection := self._connections.by_peer.get(peer):
                connection.sent += sent
        return True

    def cut(self, public_key: str) -> None:
        """End the connections of whoever has come by a key."""
        for peer in [peer for peer in self._routes if curve.public_key_of(peer) == public_key]:
            self._connections.cut(peer, "its key has ended", clock.monotonic())


def _drop_overlong(listener: _Listener) -> bool:
    """Drop frames of a message that has too many, up to a turn's limit; tell whether it is over."""
    for _ in range(TURN_LIMIT_DROPPED):
        if not sockets.has_more(listener.socket):
            listener.overlong = None
            return True
        listener.socket.recv(zmq.NOBLOCK)
    return False
