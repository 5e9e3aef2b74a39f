"""What all sockets between the parts have in common, and what that does when packets are lost."""

import contextlib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, cast

import pytest
import zmq

from tests.integration.fleet import own_address
from tests.support import eventually
from tests.zmtp import COMMAND, GREETING, MORE, Peer, dealer, frame, ready
from torchrelay.shared.wire import sockets

#: Any kernel repeats a lost SYN 7 s after the first; the next time is 11 s, or 15 s, after it.
REPEAT_S, NEXT_REPEAT_S = 7.0, 11.0


@pytest.fixture
def context() -> Iterator[sockets.Context]:
    made: sockets.Context = zmq.Context()
    yield made
    made.destroy(linger=0)


def test_a_dialing_socket_has_every_option(context: sockets.Context) -> None:
    peer = sockets.dial(context, "tcp://127.0.0.1:9", "node")
    assert {option: peer.getsockopt(option) for option in sockets.DIALING} == sockets.DIALING
    assert sockets.COMMON.items() <= sockets.DIALING.items()
    other = sockets.dial(context, "tcp://127.0.0.1:9", "node")
    assert peer.getsockopt(zmq.ROUTING_ID) != other.getsockopt(zmq.ROUTING_ID)


def test_the_listening_socket_has_every_option(context: sockets.Context) -> None:
    broker = sockets.listener(context)
    write_only = {zmq.ROUTER_MANDATORY, zmq.ROUTER_HANDOVER}
    readable = {option: value for option, value in sockets.LISTENING.items() if option not in write_only}
    assert {option: broker.getsockopt(option) for option in readable} == readable
    assert sockets.COMMON.items() <= sockets.LISTENING.items()
    with pytest.raises(zmq.ZMQError, match="unreachable"):
        broker.send_multipart([b"nobody", b""], zmq.NOBLOCK)


def test_a_try_to_connect_and_unacknowledged_data_both_end_soon() -> None:
    assert 0 < sockets.DIALING[zmq.CONNECT_TIMEOUT] <= 1000
    assert 0 < sockets.DIALING[zmq.RECONNECT_IVL_MAX] <= 1000
    assert 0 < sockets.COMMON[zmq.TCP_MAXRT] <= 3000


@contextlib.contextmanager
def deaf(address: tuple[str, int]) -> Iterator[None]:
    """Have an address drop every SYN, as on a path that is cut: its queue of connections is full."""
    listener = socket.create_server(address, backlog=0)
    queued = []
    try:
        for _ in range(3):
            one = socket.socket()
            queued.append(one)
            one.setblocking(False)
            one.connect_ex(address)
        yield
    finally:
        for one in (listener, *queued):
            one.close()


def test_a_peer_is_back_soon_after_a_path_that_dropped_its_packets_works_again(
    context: sockets.Context,
) -> None:
    address = (own_address(), 7700)
    with deaf(address):
        began = time.monotonic()
        peer = sockets.dial(context, "tcp://{}:{}".format(*address), "node", waits_to_send=True)
        peer.send(b"hello")
        eventually(lambda: time.monotonic() - began > REPEAT_S + 0.3)
    broker = sockets.listener(context)
    broker.bind("tcp://{}:{}".format(*address))
    eventually(lambda: broker.poll(10), within_s=NEXT_REPEAT_S - REPEAT_S - 1)
    assert broker.recv_multipart()[1] == b"hello"


# What comes over the wire, to a listener in a process of its own: libzmq aborts a process by an assertion.

#: Prints its port, then each message that it gets.
LISTENER = """
import zmq
from torchrelay.shared.wire import sockets
context = zmq.Context()
listener = sockets.listener(context)
print(listener.bind_to_random_port("tcp://127.0.0.1"), flush=True)
while True:
    print(listener.recv_multipart(), flush=True)
"""
#: Prints its port, and takes what has come only when it is told to.
BUSY = LISTENER.replace("while True:", "input()\nwhile True:")
#: What an unseeded generator gives first in every process (glibc's, with which libzmq's wheels are built).
FIRST_ID = struct.pack("!BI", 0, 0x6B8B4567)


class Listener:
    """A listening socket in a process of its own."""

    def __init__(self, code: str = LISTENER) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.out = cast("IO[bytes]", self.process.stdout)
        self.port = int(self.out.readline())
        self._peers: list[Peer] = []
        self._serial = 0

    def peer(self) -> Peer:
        """Connect."""
        self._peers.append(Peer(self.port))
        return self._peers[-1]

    def joined(self, routing_id: bytes, *frames: bytes) -> Peer:
        """Connect, go through the handshake, and send."""
        peer = self.peer()
        peer.join(dealer(routing_id))
        peer.send(*frames)
        return peer

    def hears(self) -> None:
        """Send it a message as an honest peer does, and wait until it has got that."""
        self._serial += 1
        said = b"honest %d" % self._serial
        peer = self.joined(b"honest", frame(said))
        for line in self.out:
            if said in line:
                peer.close()
                return
        pytest.fail(f"the listener ended with {self.process.wait(5)}")

    def close(self) -> None:
        for peer in self._peers:
            peer.close()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


@pytest.mark.integration
def test_a_routing_id_that_the_listener_would_have_given_aborts_nothing_when_it_is_claimed(
    listener: Listener,
) -> None:
    listener.joined(FIRST_ID, frame(b"claimed"))
    listener.hears()
    listener.joined(b"", frame(b"given one"))
    listener.hears()


def handshake(*commands: bytes) -> Callable[[Listener], None]:
    """Have a peer send its greeting and these commands."""
    return lambda listener: listener.peer().send(GREETING, *commands)


def after_handshake(*frames: bytes) -> Callable[[Listener], None]:
    """Have a peer join and send these frames."""
    return lambda listener: (listener.joined(b"bad", *frames), None)[1]


def of_old(*chunks: bytes) -> Callable[[Listener], None]:
    """Have a peer of an older ZMTP send these bytes."""
    return lambda listener: listener.peer().send(*chunks)


def take_over(times: int, *frames: bytes) -> Callable[[Listener], None]:
    """Have peers take a routing id over from each other, each in the middle of a message."""
    return lambda listener: [listener.joined(b"same", *frames) for _ in range(times)].clear()


def signature(revision: int) -> bytes:
    return b"\xff" + bytes(8) + b"\x7f" + bytes([revision])


#: Socket types of ZMTP 2.
DEALER_2 = b"\x05"

ATTACKS: dict[str, Callable[[Listener], None]] = {
    "ids of every length": lambda listener: [
        listener.joined(id_, frame(b"x")) for id_ in (b"\0", bytes(5), b"x" * 255, b"x" * 256, b"x" * 70_000)
    ].clear(),
    "taken over": take_over(10, frame(b"whole")),
    "taken over in the middle of a message": take_over(10, frame(b"a", MORE) * 50),
    "ZMTP 1": of_old(b"\x01\x00", b"\x03\x00hi"),
    "ZMTP 1, a long id": of_old(b"\xff" + struct.pack("!Q", 256) + b"\0" + b"y" * 255, b"\x03\x00hi"),
    "ZMTP 1, frames of no and of any length": of_old(b"\x01\x00\xff" + b"\xff" * 8 + b"\0"),
    "ZMTP 2, a long id": of_old(signature(1) + DEALER_2, b"\x00\xff" + bytes(255), b"\x00\x02hi"),
    "ZMTP 2, a frame of any length": of_old(signature(1) + DEALER_2, b"\x00\x00", b"\x02" + b"\xff" * 8),
    "ZMTP 255": of_old(signature(255) + GREETING[11:], dealer(b"255")),
    "half a greeting": of_old(GREETING[:20]),
    "another mechanism": of_old(GREETING[:12] + b"CURVE".ljust(20, b"\0") + GREETING[32:], dealer(b"c")),
    "a message before READY": handshake(frame(b"hi")),
    "READY with nothing": handshake(ready([])),
    "READY twice": handshake(dealer(b"a"), dealer(b"b")),
    "READY of a PUB": handshake(ready([(b"Socket-Type", b"PUB")])),
    "READY with a lie about a length": handshake(frame(b"\x05READY\x01X" + b"\xff" * 4, COMMAND)),
    "READY of 2^63 bytes": handshake(b"\x06" + struct.pack("!Q", 2**63 - 1)),
    "READY with 10,000 properties": handshake(
        ready([(b"Socket-Type", b"DEALER"), *((b"X-%d" % number, b"v") for number in range(10_000))])
    ),
    "ERROR with a lie about its length": handshake(frame(b"\x05ERROR\xffx", COMMAND)),
    "ERROR later": after_handshake(frame(b"\x05ERROR\x01x", COMMAND)),
    "an empty command": after_handshake(frame(b"", COMMAND)),
    "a command with a lie about its name": after_handshake(frame(b"\xffAB", COMMAND)),
    "a large unknown command": after_handshake(frame(b"\x03XXX" + b"z" * 1_000_000, COMMAND)),
    "SUBSCRIBE, CANCEL, JOIN": after_handshake(
        *(frame(command, COMMAND) for command in (b"\x09SUBSCRIBEx", b"\x06CANCELx", b"\x04JOINgroup"))
    ),
    "PING too short": after_handshake(frame(b"\x04PING", COMMAND)),
    "PING with a large context": after_handshake(frame(b"\x04PING\0\1" + b"c" * 1_000_000, COMMAND)),
    "PING in the middle of a message": after_handshake(
        frame(b"a", MORE), frame(b"\x04PING\0\1", COMMAND | MORE), frame(b"b")
    ),
    "reserved flags": after_handshake(b"\xf8\x02hi"),
    "a frame of 2^64-1 bytes": after_handshake(b"\x02" + b"\xff" * 8),
    "a frame above the limit": after_handshake(b"\x02" + struct.pack("!Q", 2**31 + 1)),
    "half a message": after_handshake(frame(b"a", MORE)),
    "an empty message": after_handshake(frame(b"")),
}


@pytest.mark.integration
def test_nothing_that_a_peer_says_in_zmtp_aborts_the_listener(listener: Listener) -> None:
    for name, attack in ATTACKS.items():
        attack(listener)
        listener.hears()
        assert listener.process.poll() is None, name


@pytest.mark.integration
def test_a_peer_that_resets_while_a_busy_listener_has_not_taken_its_messages_aborts_nothing() -> None:
    listener = Listener(BUSY)
    try:
        peer = listener.joined(b"many")
        peer.pour(
            frame(b"x") * sockets.TAKEN_AHEAD, 20_000, within_s=0.5
        )  # 60 MB: more than the kernel holds
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        began = time.monotonic()
        eventually(lambda: time.monotonic() - began > 1.2 * sockets.HEARTBEAT_MS / 1000)
        assert listener.process.stdin is not None
        listener.process.stdin.write(b"\n")
        listener.process.stdin.flush()
        listener.hears()
    finally:
        listener.close()
