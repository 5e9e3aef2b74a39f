"""The broker's shell: what only real sockets and files show."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from tests.broker.cable import Cable
from tests.support import eventually
from torchrelay.broker import server
from torchrelay.broker.archives.fetching import PART_PREFIX, PART_SUFFIX
from torchrelay.broker.archives.store import PACKING_PREFIX
from torchrelay.broker.models.records import Change, Snapshot, VersionRecord
from torchrelay.broker.storage.registry import Registry
from torchrelay.shared import clock
from torchrelay.shared.settings import BrokerSettings
from torchrelay.shared.wire import codec, sockets
from torchrelay.shared.wire import messages as m


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

    eventually(gets_through)
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
    broker = server.BrokerServer(settings, Registry(tmp_path / "registry.sqlite"))
    broker.stop()
    broker.serve()
    broker.close()
    assert not list((tmp_path / "models").iterdir())
    assert not list(tmp_path.glob(f"{PACKING_PREFIX}*"))


class OddRegistry(Registry):
    """Has a model whose texts nothing can encode, and takes no change."""

    def __init__(self) -> None:
        pass

    def begin_epoch(self) -> int:
        return 1

    def load(self) -> Snapshot:
        record = VersionRecord(
            "m", "1.0", "m.mar", "ab", 1, "handler", "python", 0, 0, 1, 100, 120, 120, False
        )
        odd = replace(record, model="odd", url="half a character: \ud800", archive_bytes=2**70)
        return Snapshot((record, odd), (("m", "1.0"), ("odd", "1.0")))

    def apply(self, change: Change) -> None:
        raise OverflowError("Python int too large to convert to SQLite INTEGER")

    def close(self) -> None:
        pass


class OneModel(OddRegistry):
    """Has a model that anybody may ask for."""

    def load(self) -> Snapshot:
        whole = super().load()
        return replace(whole, versions=whole.versions[:1], defaults=whole.defaults[:1])


class Peer:
    """Speaks to a broker of a test."""

    def __init__(self, context: sockets.Context, address: str, role: str) -> None:
        self._socket = sockets.dial(context, address, role, waits_to_send=True)

    def close(self) -> None:
        self._socket.close(linger=0)

    def say(self, message: m.Message, epoch: int = 1) -> None:
        self._socket.send(codec.encode(message, epoch))

    def hears(self) -> m.Message:
        """Return the next message that is no beat."""
        while self._socket.poll(10_000):
            message, _ = codec.decode(self._socket.recv())
            if not isinstance(message, m.Beat):
                return message
        raise AssertionError("nothing came")

    def hears_answer(self) -> m.FleetRead:
        """Return the next message, which tells of the fleet."""
        message = self.hears()
        assert isinstance(message, m.FleetRead)
        return message


@contextmanager
def serving(folder: Path, registry: Registry) -> Iterator[Peer]:
    """Serve by a thread; a gateway has joined."""
    address = f"ipc://{folder}/socket"
    broker = server.BrokerServer(BrokerSettings(addresses=(address,), state_dir=str(folder)), registry)
    broker.bind()
    thread = threading.Thread(target=broker.serve)
    thread.start()
    context: sockets.Context = zmq.Context()
    try:
        with closing(Peer(context, address, "gateway")) as gateway:
            gateway.say(m.HelloGateway(m.PROTOCOL_VERSION, "g", 1), 0)
            assert isinstance(gateway.hears(), m.Welcome)
            yield gateway
            assert thread.is_alive()
    finally:
        context.term()
        broker.stop()
        thread.join(10)
        broker.close()


def test_an_answer_that_cannot_be_written_is_a_refusal_and_the_broker_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(tmp_path, OddRegistry()) as gateway:
        gateway.say(m.DescribeModel(1, "odd", None))
        refused = gateway.hears()
        assert isinstance(refused, m.AskRefused)
        assert (refused.ask, refused.error) == (1, "InternalError")
        gateway.say(m.DescribeModel(2, "m", None))
        assert isinstance(gateway.hears(), m.ModelDescribed)
    (record,) = [record for record in caplog.records if record.message == "broker.effect_failed"]
    assert len(vars(record)["content"]) == 200


def test_faults_without_end_are_a_line_of_the_log_each_second(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    began = clock.monotonic()
    with serving(tmp_path, OddRegistry()) as gateway:
        for ask in range(1, 200):
            gateway.say(m.DescribeModel(ask, "odd", None))
        for _ in range(1, 200):
            assert isinstance(gateway.hears(), m.AskRefused)
    lines = [record for record in caplog.records if record.message == "broker.effect_failed"]
    assert len(lines) <= min(2 + clock.monotonic() - began, 198)
    assert vars(lines[0])["faults"] == 1


def test_questions_that_are_left_for_the_next_turn_are_answered(tmp_path: Path) -> None:
    with serving(tmp_path, OneModel()) as gateway:
        for ask in range(1, 30):
            gateway.say(m.ReadFleet(ask))
        assert {gateway.hears_answer().ask for _ in range(1, 30)} == set(range(1, 30))


def test_a_change_that_cannot_be_stored_is_refused_and_the_broker_goes_on(tmp_path: Path) -> None:
    with serving(tmp_path, OddRegistry()) as gateway:
        for ask in (1, 2):
            gateway.say(m.ScaleWorkers(ask, "m", None, 1, 1, False))
            refused = gateway.hears()
            assert isinstance(refused, m.AskRefused)
            assert (refused.ask, refused.error) == (ask, "InternalError")


def test_the_memory_limit_is_half_of_what_there_is_or_room_for_full_queues() -> None:
    gib = 1 << 30
    settings = BrokerSettings(state_dir="s")
    assert server.memory_limit_bytes(settings, 64 * gib) == 32 * gib
    assert server.memory_limit_bytes(settings, 3 * gib) == 2 * gib
    assert server.memory_limit_bytes(settings, gib) == 9 * gib // 10
    assert server.memory_limit_bytes(BrokerSettings(state_dir="s", memory_limit_bytes=5), gib) == 5


def test_the_secret_of_workers_claims_is_kept_and_drawn_anew_where_it_was_cut_short(tmp_path: Path) -> None:
    """Empty files are what a host without power leaves; claims made with nothing could be made by anybody."""

    def start() -> bytes:
        settings = BrokerSettings(addresses=(f"ipc://{tmp_path}/socket",), state_dir=str(tmp_path))
        server.BrokerServer(settings, Registry(tmp_path / "registry.sqlite")).close()
        return (tmp_path / "worker_claims").read_bytes()

    first = start()
    assert len(first) >= server.SECRET_BYTES_MIN
    assert start() == first
    (tmp_path / "worker_claims").write_bytes(b"")
    assert len(start()) >= server.SECRET_BYTES_MIN
    assert (tmp_path / "worker_claims").stat().st_mode & 0o77 == 0


@pytest.mark.parametrize("is_told_twice", [False, True])
def test_a_broker_that_is_told_to_stop_waits_for_what_runs_and_when_told_twice_for_nothing(
    tmp_path: Path, is_told_twice: bool
) -> None:
    settings = BrokerSettings(
        addresses=(f"ipc://{tmp_path}/socket",), state_dir=str(tmp_path), leave_grace_s=600
    )
    broker = server.BrokerServer(settings, OneModel())
    broker.bind()
    core = broker._core
    is_busy = threading.Event()
    core.is_at_rest = lambda: not is_busy.is_set()  # type: ignore[method-assign]  # a worker, for short
    is_busy.set()
    thread = threading.Thread(target=broker.serve)
    thread.start()
    broker.leave()
    eventually(broker._results.empty)
    assert thread.is_alive()
    if is_told_twice:
        broker.leave()
    else:
        is_busy.clear()
    thread.join(30)
    assert not thread.is_alive()
    broker.close()
