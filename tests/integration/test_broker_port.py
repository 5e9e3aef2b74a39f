"""What one connection to the broker's port can make it hold, or make it do."""

import contextlib
import os
import stat
import tempfile
import zipfile
from pathlib import Path

import pytest

from tests.broker.archives.test_store import write_mar
from tests.integration.broker_port import parts, running
from tests.integration.fleet import fleet
from tests.support import eventually
from tests.zmtp import frame
from torchrelay.shared.settings import LoadAtStart
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

pytestmark = pytest.mark.integration

MEGABYTE = 1 << 20


def node(name: str) -> m.HelloNode:
    return m.HelloNode(m.PROTOCOL_VERSION, name, (m.Device("cpu", "cpu"),), 1, ())


def test_chunks_that_a_node_asks_for_and_does_not_read_stay_on_the_disk(tmp_path: Path) -> None:
    store = tmp_path / "models"
    store.mkdir()
    with zipfile.ZipFile(write_mar(store / "m.mar"), "a") as archive:
        archive.writestr("weights.bin", os.urandom(4 * MEGABYTE))
    with running(tmp_path, model_store=str(store), load_models=(LoadAtStart("m.mar"),)) as broker:
        honest = broker.honest(node("honest"))
        sha256 = honest.hear(m.StartWorker).archive
        before = broker.rss
        greedy = broker.raw(b"n" + os.urandom(16), node("greedy"))
        ask = frame(codec.encode(m.FetchArchive(sha256, 0, 4 * MEGABYTE), honest.epoch))
        greedy.send(ask * 100)
        # The honest node gets what it asks for; by then the greedy one's asks have been seen.
        for _ in range(20):
            honest.say(m.FetchArchive(sha256, 0, MEGABYTE))
            assert honest.hear(m.ArchiveChunk).offset == 0
        assert broker.rss - before < 100 * MEGABYTE


def test_a_peer_that_sends_faster_than_it_is_read_is_held_up(tmp_path: Path) -> None:
    with running(tmp_path) as broker:
        honest = broker.honest()
        before = broker.rss
        flood = broker.raw(b"g" + os.urandom(16))
        flood.socket.settimeout(1)
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(100):
                flood.socket.sendall(frame(b"") * 100_000)
        assert honest.is_served()
        assert broker.rss - before < 100 * MEGABYTE


def test_a_message_of_too_many_parts_is_dropped_and_holds_up_nobody_for_long(tmp_path: Path) -> None:
    with running(tmp_path) as broker:
        honest = broker.honest()
        peer = broker.raw(b"g" + os.urandom(16))
        peer.send(parts(b"", 300_000), frame(b""))
        eventually(lambda: "more than 4096 frames" in broker.log)
        assert honest.is_served()
        peer.send(frame(b"after it"))
        eventually(lambda: "a head of 8 bytes" in broker.log)


def test_parts_that_are_told_no_address_meet_on_a_socket_that_is_their_users_alone(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as run, fleet(tmp_path) as made:
        made.prefix = ["env", f"XDG_RUNTIME_DIR={run}", f"HOME={run}"]
        made.run("broker", "--state-dir", str(tmp_path / "state"))
        made.wait_until_up(made.run("gateway", *made.listeners()))
        assert made.run("ping").wait(10) == 0
        folder = Path(run, "torchrelay")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "broker.sock").stat().st_mode) == 0o600
        second = made.run("broker", "--state-dir", str(tmp_path / "second"))
        assert second.wait(20) == 1
        assert "Another broker listens" in made.output()


@pytest.mark.parametrize(
    ("body", "count"), [(b"", 4_000_000), (b"x" * 1000, 150_000), (b"x" * 100_000, 3000)]
)
def test_a_message_that_never_ends_costs_its_sender_the_connection(
    tmp_path: Path, body: bytes, count: int
) -> None:
    with running(tmp_path) as broker:
        honest = broker.honest()
        before = broker.rss
        endless = broker.raw(b"g" + os.urandom(16))
        endless.send(frame(codec.encode(m.HelloGateway(m.PROTOCOL_VERSION, "endless", 1), 0)))
        assert endless.pour(parts(body, count // 100), 100, within_s=60)
        eventually(lambda: "connection.cut" in broker.log)
        assert honest.is_served()
        eventually(lambda: broker.rss - before < 150 * MEGABYTE, within_s=20)
        assert broker.log.count("connection.cut") == 1
