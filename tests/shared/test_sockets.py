"""What all sockets between the parts have in common, and what that does when packets are lost."""

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest
import zmq

from tests.integration.fleet import own_address
from tests.support import eventually
from torchrelay.shared import sockets

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
        eventually(lambda: time.monotonic() - began > REPEAT_S + 0.3, within_s=15)
    broker = sockets.listener(context)
    broker.bind("tcp://{}:{}".format(*address))
    eventually(lambda: broker.poll(10), within_s=NEXT_REPEAT_S - REPEAT_S - 1)
    assert broker.recv_multipart()[1] == b"hello"
