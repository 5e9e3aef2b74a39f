import socket
import time

import pytest
import zmq

from tests.attacks import plan, zmtp
from tests.attacks.attacker import Attacker, Line
from torchrelay.shared.wire import codec, sockets
from torchrelay.shared.wire import messages as m

TARGET = plan.Target(address="127.0.0.1", broker_port=0, store="", scratch="")


def attacker() -> Attacker:
    return Attacker(plan.AttackRun("none", TARGET, 5.0))


def test_a_peer_of_raw_bytes_is_understood_and_understands() -> None:
    context = zmq.Context()
    router = sockets.listener(context)
    try:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        one = attacker()
        one.target = plan.Target(address="127.0.0.1", broker_port=port, store="", scratch="")
        peer = zmtp.dial(one, b"raw")
        assert peer is not None
        assert peer.say(m.RegisterModel(1, "a" * 300), b"x" * 1000)
        assert router.poll(5000)
        identity, head, frame = router.recv_multipart()
        assert (identity, frame) == (b"raw", b"x" * 1000)
        assert codec.decode(head) == (m.RegisterModel(1, "a" * 300), 0)
        router.send_multipart([b"raw", codec.encode(m.ModelUnregistered(1, "a" * 100), 7), b"a frame"])
        router.send_multipart([b"raw", codec.encode(m.Welcome(1, 2), 7)])
        assert peer.hear(m.Welcome) == m.Welcome(1, 2)
        assert peer.epoch == 7
        router.send_multipart([b"raw", codec.encode(m.Leave("no use"), 7)])
        assert peer.hear(m.Welcome) is None
        peer.close()
    finally:
        router.close(linger=0)
        context.term()


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "400"), (b"", "closed")],
)
def test_an_attacker_says_how_it_was_answered(sent: bytes, status: str) -> None:
    ours, server = socket.socketpair()
    server.sendall(sent)
    server.close()
    line = Line(attacker(), ours)
    assert line.status(5.0) == status
    line.close()


def test_an_attacker_sends_no_faster_than_it_was_told() -> None:
    ours, server = socket.socketpair()
    slow = Attacker(plan.AttackRun("none", TARGET, 5.0, bytes_per_s=10_000_000))
    line = Line(slow, ours)
    began_at = time.monotonic()
    for _ in range(20):
        assert line.send(b"a" * 50_000)
        server.recv(50_000, socket.MSG_WAITALL)
    # All but the last piece, which is paid for when the next one is due.
    assert time.monotonic() - began_at >= 0.09
    assert slow.sent_bytes == 1_000_000
    line.close()
    server.close()
