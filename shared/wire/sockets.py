"""Every socket between the parts: made here, with the options that all of them have.

Peers dial, the broker listens. A break is found by two means, which tell a cut from a pause: TCP gives a
connection up whose data nobody acknowledges, as on a path that is cut; one whose other end acknowledges
but says nothing (a process that stands still) is kept for much longer, since nothing on it is lost.
"""

import ctypes
import struct
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import zmq
import zmq.utils.garbage  # else pyzmq imports it at the first part that is lent, in each fork
from zmq.utils import z85

from torchrelay.shared import ids
from torchrelay.shared.wire.curve import KeyPair, Secured, secured_peer
from torchrelay.shared.wire.presence import SLOWEST_BYTES_PER_S
from torchrelay.shared.wire.redial_policy import News

Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"
Socket: TypeAlias = "zmq.Socket[bytes]"
Part: TypeAlias = bytes | bytearray | memoryview | zmq.Frame
Options: TypeAlias = dict[zmq.SocketOption, int]

#: How long data may lie unacknowledged: as long as the broker lets a peer be silent. Without it the kernel
#: waits ever longer between its tries, and comes back a multiple of a cut's length after the cut.
UNACKNOWLEDGED_MS = 3000
#: How long one try to connect may take. The kernel repeats a lost SYN after 1, 3, 7, 15 and 31 s.
CONNECT_MS = 1000
#: Between tries to connect: so short that a broker is back within a blink, and growing, so that a
#: thousand workers that wait for it are no storm.
RECONNECT_MS, RECONNECT_MAX_MS = 100, 500
#: A connection on which the other side's zmq never speaks: another protocol, or a process that hangs.
HANDSHAKE_MS = 5000
#: A message part above this ends the connection; the largest are bodies, see `settings.BODY_LIMIT_BYTES`.
PART_LIMIT_BYTES = 1 << 31
#: zmq's own beat, which keeps data under way, both ways: who listens answers it. Its silence proves nothing:
#: who is lost is told by the beats in our own messages, and zmq hears nobody while a part arrives. So it
#: waits for the largest part. A listener has none of its own: libzmq aborts by an assertion (of `!_io_error`)
#: when a beat is due on a connection that was reset while more of its messages than RCVHWM were waiting.
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 1000, 1000 * PART_LIMIT_BYTES // SLOWEST_BYTES_PER_S
TCP_KEEPALIVE_IDLE_S = 30
#: Messages of one peer that the broker's socket takes in before they are read: a few turns' worth.
TAKEN_AHEAD = 1000
#: Messages that a peer's socket takes in, and sends, ahead of who reads.
PEER_TAKES_AHEAD, PEER_SENDS_AHEAD = 10_000, 100_000
#: Connections that wait to be accepted: a whole fleet comes back at the same moment.
BACKLOG = 4096

#: What a peer says of itself in the handshake, encrypted; libzmq wants names of ours to begin so.
_SESSION = "X-Session"
SESSION_LIMIT_BYTES = 64
#: What a socket for both writes before an address of IPv4; people don't.
IPV4_IN_IPV6 = "::ffff:"
#: What libzmq says when it asks about keys.
_DOMAIN = b"torchrelay"

_LENT = b"lent"

_NEWS: dict[int, News] = {
    int(zmq.EVENT_CONNECTED): "connected",
    int(zmq.EVENT_CONNECT_RETRIED): "retrying",
    int(zmq.EVENT_HANDSHAKE_SUCCEEDED): "done",
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "refused",
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "broken",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "mismatch",
    int(zmq.EVENT_DISCONNECTED): "ended",
}

#: What is told of a listener's connections. The one that ends next was `leaving` where the other side has
#: given it up in its handshake, or was too slow there; that has no fd.
ConnectionNews = Literal["accepted", "leaving", "ended"]
_OF_CONNECTIONS: dict[int, ConnectionNews] = {
    int(zmq.EVENT_ACCEPTED): "accepted",
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "leaving",
    int(zmq.EVENT_DISCONNECTED): "ended",
}

#: Parts below this are copied when they are sent: to lend one takes as long as to copy so much.
_LENT_FROM_BYTES = 8 * 1024
#: Plain numbers: two of zmq's flags take a microsecond to combine.
LAST, MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)

_READABLE = int(zmq.POLLIN)

COMMON = {
    zmq.LINGER: 0,
    zmq.MAXMSGSIZE: PART_LIMIT_BYTES,
    zmq.HANDSHAKE_IVL: HANDSHAKE_MS,
    zmq.TCP_MAXRT: UNACKNOWLEDGED_MS,
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: TCP_KEEPALIVE_IDLE_S,
}
DIALING = COMMON | {
    zmq.HEARTBEAT_IVL: HEARTBEAT_MS,
    zmq.HEARTBEAT_TIMEOUT: HEARTBEAT_TIMEOUT_MS,
    # What a broker that hangs, or floods, makes its peers hold. A worker reads nothing while its handler
    # runs; meanwhile two beats a second come.
    zmq.SNDHWM: PEER_SENDS_AHEAD,
    zmq.RCVHWM: PEER_TAKES_AHEAD,
    # Nothing is queued for a broker that isn't there: the sender knows at once, and keeps it.
    zmq.IMMEDIATE: 1,
    zmq.CONNECT_TIMEOUT: CONNECT_MS,
    zmq.RECONNECT_IVL: RECONNECT_MS,
    zmq.RECONNECT_IVL_MAX: RECONNECT_MAX_MS,
}
LISTENING = COMMON | {
    # What a peer sends faster than it is read stays in its own memory.
    zmq.RCVHWM: TAKEN_AHEAD,
    # Bounds are in jobs, bytes, leases and chunks, and `connections` drops who doesn't read. libzmq aborts
    # by an assertion if a connection that is at its mark is taken over in the middle of a message.
    zmq.SNDHWM: 0,
    zmq.ROUTER_MANDATORY: 1,
    # A peer that comes back by a new connection counts, though the old one looks alive (a pulled cable).
    zmq.ROUTER_HANDOVER: 1,
    zmq.BACKLOG: BACKLOG,
    zmq.IPV6: 1,
}


def dial(
    context: Context,
    address: str,
    role: str,
    *,
    secured: Secured | None = None,
    session: bytes = b"",
    waits_to_send: bool = False,
) -> Socket:
    """Make a peer's socket, with a routing id of its own, and have it connect.

    With `secured` the connection is encrypted, and both sides prove who they are; by `session`, in letters
    and digits, the broker then knows a peer again that dials anew by another socket. With `waits_to_send`
    what is sent before there is a connection goes out on the first one.
    """
    options = DIALING | {zmq.IPV6: int("[" in address), zmq.IMMEDIATE: int(not waits_to_send)}
    made = _dialling(context, role, options, secured, session)
    made.connect(address)
    return made


def dial_watched(
    context: Context, address: str, role: str, *, secured: Secured | None = None, session: bytes = b""
) -> tuple[Socket, Socket]:
    """Do the same; return the socket, and one that tells what becomes of it, for `next_news`.

    Both are closed by `close_watched`.
    """
    made = _dialling(context, role, DIALING | {zmq.IPV6: int("[" in address)}, secured, session)
    watching = _watcher(context, made, list(_NEWS))
    made.connect(address)
    return made, watching


def _dialling(
    context: Context, role: str, options: Options, secured: Secured | None, session: bytes
) -> Socket:
    made = _made(context, zmq.DEALER, options)
    if secured is None:
        made.setsockopt(zmq.ROUTING_ID, ids.routing_id(role))
    else:
        made.setsockopt(zmq.CURVE_SERVERKEY, bytes.fromhex(secured.broker_key))
        made.setsockopt(zmq.CURVE_PUBLICKEY, bytes.fromhex(secured.own.public))
        made.setsockopt(zmq.CURVE_SECRETKEY, bytes.fromhex(secured.own.secret))
        made.setsockopt(zmq.METADATA, f"{_SESSION}:".encode() + (session or new_session(role)))
    return made


def new_session(role: str) -> bytes:
    """Draw what tells one start of a part from the next."""
    return ids.routing_id(role).hex().encode()


def new_key_pair() -> KeyPair:
    """Draw a pair of curve keys."""
    public, secret = zmq.curve_keypair()
    return KeyPair(z85.decode(public).hex(), z85.decode(secret).hex())


def pair_of(secret_key: str) -> KeyPair:
    """Return the pair that a secret key in hex belongs to."""
    public = zmq.curve_public(z85.encode(bytes.fromhex(secret_key)))
    return KeyPair(z85.decode(public).hex(), secret_key)


def secured_listener(context: Context, own: KeyPair) -> Socket:
    """Make the broker's socket for peers that prove who they are, to be bound after `gatekeeper` was made.

    It gives each connection an id, which no peer can claim; see `peer_of` for who it is.
    """
    made = _made(context, zmq.ROUTER, LISTENING | {zmq.ROUTER_HANDOVER: 0, zmq.CURVE_SERVER: 1})
    made.setsockopt(zmq.CURVE_SECRETKEY, bytes.fromhex(own.secret))
    # Without both of these every key is let in while nobody answers for keys.
    made.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
    made.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    return made


def peer_of(frame: zmq.Frame) -> bytes:
    """Return who has sent a message to a secured listener, by its first part; the same after a reconnection.

    PERF: 3 us, at the first message of a connection.
    """
    return secured_peer(str(frame.get("User-Id")), str(frame.get(_SESSION)).encode()[:SESSION_LIMIT_BYTES])


def gatekeeper(context: Context) -> Socket:
    """Make the socket on which libzmq asks at each handshake whether a key is let in."""
    made = _made(context, zmq.ROUTER, {zmq.LINGER: 0})
    made.bind("inproc://zeromq.zap.01")
    return made


class KeyQuestion(NamedTuple):
    """A question of libzmq's: whether who dials from an address may come in with a public key, in hex."""

    public_key: str
    address: str
    route: bytes
    request: bytes


def next_to_admit(gatekeeper: Socket) -> KeyQuestion | None:
    """Return the next question, or None where there is none now."""
    try:
        # Envelope, version, request, domain, address, identity, mechanism; then what that brings.
        route, _, _, request, _, address, _, _, *keys = gatekeeper.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None
    shown = address.decode("ascii", "replace").removeprefix(IPV4_IN_IPV6)
    return KeyQuestion(keys[0].hex() if keys else "", shown, route, request)


def admit(gatekeeper: Socket, question: KeyQuestion, *, is_welcome: bool) -> None:
    """Let somebody in, or not: then its socket learns that it was refused, and doesn't come back."""
    status, user = (b"200", question.public_key.encode()) if is_welcome else (b"400", b"")
    gatekeeper.send_multipart(
        (question.route, b"", b"1.0", question.request, status, b"", user, b""), zmq.NOBLOCK
    )


def listener(context: Context) -> Socket:
    """Make the broker's socket, to be bound: it never blocks, and never drops a message in silence."""
    # It numbers peers that bring no routing id, and those that another takes over from, on from what C's
    # rand() gives here, and libzmq aborts when a peer has claimed such a number before: unseeded, the first
    # is the same in every process.
    ctypes.CDLL(None).srand(ctypes.c_uint(ids.seed()))
    return _made(context, zmq.ROUTER, LISTENING)


def send(socket: Socket, parts: Sequence[Part]) -> None:
    """Send a message without waiting; large parts are lent to zmq, small ones copied.

    Raises zmq.Again, or from a listener zmq.ZMQError of EHOSTUNREACH, where there is nobody to take it: then
    nothing of it was sent.
    PERF: pyzmq's `send_multipart` takes 2 us more for two parts. A small part that it is told to lend takes
    1.4 us more than one that it is told to copy, and is copied all the same.
    """
    last = parts[-1]
    for part in parts[:-1]:
        socket.send(part, MORE, type(part) is bytes and len(part) < _LENT_FROM_BYTES)
    socket.send(last, LAST, type(last) is bytes and len(last) < _LENT_FROM_BYTES)


def receive(socket: Socket) -> tuple[bytes, list[memoryview]]:
    """Receive a message that has come: its head, and its frames as zmq holds them. Raises zmq.Again.

    PERF: a frame says itself whether another follows; to ask the socket after each takes 1 us more.
    """
    last = head = socket.recv(zmq.NOBLOCK, copy=False)
    frames: list[memoryview] = []
    while last.more:
        last = socket.recv(zmq.NOBLOCK, copy=False)
        frames.append(last.buffer)
    return head.bytes, frames


def tracked(part: bytes) -> zmq.Frame:
    """Return a part whose tracker tells whether it has left."""
    return zmq.Frame(part, track=True, copy=False)


def has_more(socket: Socket) -> bool:
    """Tell whether parts follow of the message that is being received.

    PERF: 0.7 us, of which `rcvmore`, which looks its own name up, takes 2.
    """
    return bool(socket.getsockopt(zmq.RCVMORE))


def is_readable(socket: Socket) -> bool:
    """Tell whether a message has come. PERF: 3.5 us; to receive none, by the exception, takes 8."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & _READABLE)


def watcher(context: Context, listening: Socket) -> Socket:
    """Make the socket that tells of a listening socket's connections; to be closed before that.

    It doesn't tell of bytes that can't be. libzmq would; but once it has told that of a live connection it
    takes it for a reason to wait, and the connection stays, mute.
    """
    return _watcher(context, listening, list(_OF_CONNECTIONS))


def next_connection(watcher: Socket) -> tuple[ConnectionNews, int] | None:
    """Return what has become of a connection, and its fd; None where there is nothing new."""
    try:
        told, _ = watcher.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None
    event, fd = struct.unpack("=Hi", told)
    return _OF_CONNECTIONS[event], fd


def fd_of(socket: Socket) -> int:
    """Return an fd that turns readable when something has come; it tells of changes alone."""
    return int(socket.getsockopt(zmq.FD))


def next_news(watcher: Socket) -> News | None:
    """Return what has become of a dialled socket; None where there is nothing new."""
    try:
        told, _ = watcher.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None
    return _NEWS[struct.unpack("=Hi", told)[0]]


def close_watched(socket: Socket, watcher: Socket, linger_ms: int = 0) -> None:
    """Close a dialled socket, and the one that watches it."""
    socket.disable_monitor()  # libzmq's own thread would wait for who reads it
    watcher.close()
    socket.close(linger=linger_ms)


def _watcher(context: Context, watched: Socket, events: Sequence[int]) -> Socket:
    address = f"inproc://watched-{ids.folder_suffix()}"
    watched.monitor(address, sum(events))
    # No bound: libzmq's own thread would wait at one.
    made = _made(context, zmq.PAIR, {zmq.LINGER: 0, zmq.RCVHWM: 0})
    made.connect(address)
    # Its fd tells of what comes to a reader that has found nothing before, and not of the very first.
    made.getsockopt(zmq.EVENTS)
    return made


def _made(context: Context, kind: int, options: Options) -> Socket:
    # The first part that is lent to zmq has pyzmq start a thread with sockets of its own: now, since later
    # there may be no file descriptor left for that.
    zmq.Frame(_LENT, copy_threshold=0)
    made = context.socket(kind)
    for option, value in options.items():
        made.setsockopt(option, value)
    return made
