import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tests.attacks import plan, zmtp
from tests.attacks.attacker import Attacker, Line
from tests.secured_broker import OURS, OWN, SecuredBroker
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

TARGET = plan.Target(address="127.0.0.1", broker_port=0, store="", scratch="")


def attacker() -> Attacker:
    return Attacker(plan.AttackRun("none", TARGET, 5.0))


@pytest.fixture
def broker() -> Iterator[SecuredBroker]:
    made = SecuredBroker(zmq.Context(), OURS, "tcp://127.0.0.1:*")
    is_over = threading.Event()

    def let_in() -> None:
        while not is_over.is_set():
            assert made.gatekeeper is not None
            made.gatekeeper.poll(20)
            made.turn()

    gatekeeping = threading.Thread(target=let_in)
    gatekeeping.start()
    try:
        yield made
    finally:
        is_over.set()
        gatekeeping.join()
        made.close()


def dialled(broker: SecuredBroker, **how: Any) -> zmtp.Peer | None:  # Any: what dial takes
    one = attacker()
    port = int(broker.address.rpartition(":")[2])
    one.target = plan.Target(
        address="127.0.0.1", broker_port=port, store="", scratch="", broker_key=OURS.public,
        gateway_key=OWN.secret,
    )  # fmt: skip
    return zmtp.dial(one, **how)


def test_a_peer_of_raw_bytes_is_understood_and_understands(broker: SecuredBroker) -> None:
    peer = dialled(broker)
    assert peer is not None
    assert peer.say(m.RegisterModel(1, "a" * 300), b"x" * 1000)
    assert broker.socket.poll(5000)
    identity, head, frame = broker.socket.recv_multipart()
    assert frame == b"x" * 1000
    assert codec.decode(head) == (m.RegisterModel(1, "a" * 300), 0)
    broker.socket.send_multipart([identity, codec.encode(m.ModelUnregistered(1, "a" * 100), 7), b"a frame"])
    broker.socket.send_multipart([identity, codec.encode(m.Welcome(1, 2), 7)])
    assert peer.hear(m.Welcome) == m.Welcome(1, 2)
    assert peer.epoch == 7
    broker.socket.send_multipart([identity, codec.encode(m.Leave("no use"), 7)])
    assert peer.hear(m.Welcome) is None
    peer.close()


def test_nobody_is_let_in_by_a_key_that_is_not_known(broker: SecuredBroker) -> None:
    assert dialled(broker, secret="11" * 32) is None


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
