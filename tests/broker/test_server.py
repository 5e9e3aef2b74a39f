"""The broker's shell: what only real sockets and files show."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.broker.cable import Cable
from tests.support import eventually
from torchrelay.broker import server
from torchrelay.broker.fetching import PART_PREFIX, PART_SUFFIX
from torchrelay.broker.registry import SqlRegistry
from torchrelay.broker.store import PACKING_PREFIX
from torchrelay.shared import sockets
from torchrelay.shared.settings import BrokerSettings


def test_one_state_folder_has_one_broker(tmp_path: Path) -> None:
    with server.lock_state(tmp_path), pytest.raises(server.BindFailed, match="--state-dir"):
        server.lock_state(tmp_path)
    server.lock_state(tmp_path).close()


@pytest.mark.parametrize(
    ("in_the_way", "told"),
    [
        ("lock", "let the broker's user write there"),
        ("archives", "archives"),
        ("registry.sqlite", "registry"),
    ],
)
def test_a_broker_that_can_not_start_says_why_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, in_the_way: str, told: str
) -> None:
    (tmp_path / in_the_way).write_bytes(b"junk" * 1000)
    if in_the_way == "lock":
        (tmp_path / in_the_way).unlink()
        (tmp_path / in_the_way).mkdir()
    settings = BrokerSettings(addresses=(f"ipc://{tmp_path}/socket",), state_dir=str(tmp_path))
    assert server.run(settings) == 1
    (record,) = caplog.records
    assert (record.message, record.exc_info) == ("broker.not_started", None)
    assert str(tmp_path / in_the_way) in vars(record)["reason"]
    assert told in vars(record)["reason"]


@pytest.fixture
def router() -> Iterator[tuple["zmq.Context[zmq.Socket[bytes]]", "zmq.Socket[bytes]"]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made = sockets.listener(context)
    yield context, made
    made.close(linger=0)
    context.term()


def test_a_peer_whose_cable_was_pulled_gets_in_again_by_a_new_connection(
    router: tuple["zmq.Context[zmq.Socket[bytes]]", "zmq.Socket[bytes]"],
) -> None:
    context, socket_ = router
    cable = Cable(socket_.bind_to_random_port("tcp://127.0.0.1"))
    peer = context.socket(zmq.DEALER)
    for option, value in ((zmq.ROUTING_ID, b"node-x"), (zmq.LINGER, 0), (zmq.RECONNECT_IVL, 50)):
        peer.setsockopt(option, value)
    peer.connect(f"tcp://{cable.address}")
    peer.send(b"hello")
    eventually(lambda: socket_.poll(10))
    assert socket_.recv_multipart() == [b"node-x", b"hello"]
    cable.pull()

    def gets_through() -> bool:
        peer.send(b"again", zmq.NOBLOCK)
        return bool(socket_.poll(50))

    eventually(gets_through, within_s=5)
    assert socket_.recv_multipart()[0] == b"node-x"
    socket_.send_multipart([b"node-x", b"welcome"])
    eventually(lambda: peer.poll(10))
    peer.close(linger=0)
    cable.close()


def test_a_broker_that_starts_removes_what_a_killed_one_left_half_made(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / f"{PACKING_PREFIX}x").mkdir()
    (tmp_path / "models" / f"{PART_PREFIX}x{PART_SUFFIX}").write_bytes(b"half")
    settings = BrokerSettings(state_dir=str(tmp_path), model_store=str(tmp_path / "models"))
    broker = server.Server(settings, SqlRegistry(tmp_path / "registry.sqlite"))
    broker.stop()
    broker.serve()
    broker.close()
    assert not list((tmp_path / "models").iterdir())
    assert not list(tmp_path.glob(f"{PACKING_PREFIX}*"))
