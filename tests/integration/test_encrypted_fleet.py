"""A fleet over tcp with keys, as between hosts: it works, shows nothing, and comes back by itself."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.integration.archives import make_store
from tests.integration.fleet import Fleet, fleet
from tests.integration.load import Load
from tests.support import HANG_S, eventually
from torchrelay.shared import member_credentials
from torchrelay.shared.member_credentials import Credentials
from torchrelay.shared.settings import GatewaySettings, NodeSettings, Settings
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.fields import MemberRole
from torchrelay.shared.wire.redial_policy import BrokerPlace
from torchrelay.shared.wire.sockets import new_key_pair
from torchrelay.worker.common.broker_socket import BrokerSocket

pytestmark = pytest.mark.integration

RUN_NODE = """
import sys, msgspec
from torchrelay.shared.settings import NodeSettings
from torchrelay.worker.node import node
sys.exit(node.run(msgspec.json.decode(sys.argv[1], type=NodeSettings)))
"""
RUN_GATEWAY = """
import sys, msgspec
from torchrelay.gateway import main
from torchrelay.shared.settings import GatewaySettings
sys.exit(main.run(msgspec.json.decode(sys.argv[1], type=GatewaySettings)))
"""
SAID = b"a body that nobody on the way shall read"


class Wire(threading.Thread):
    """Passes bytes on between parts and the broker, and keeps them."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(daemon=True)
        self._to = host, port
        self._listening = socket.create_server((host, 0))
        self.address = f"tcp://{host}:{self._listening.getsockname()[1]}"
        self.passed = bytearray()
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = self._listening.accept()
                try:
                    other = socket.create_connection(self._to)
                except OSError:
                    one.close()  # the broker is away
                    continue
                for source, sink in ((one, other), (other, one)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.passed += data
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


class Encrypted:
    """A broker on tcp with keys, two gateway processes and a node; all reach it over `wire`."""

    def __init__(self, parts: Fleet) -> None:
        self.parts = parts
        self.wire = Wire(parts.address, 7700)
        self.start_broker()
        self.gateway = parts.run(
            "gateway", "--join", self.invite("gateway"), "--credentials", str(parts.folder / "gateway.json"),
            "--broker", self.wire.address, "--processes", "2", "--enable-model-api", *parts.listeners(),
        )  # fmt: skip
        parts.wait_until_up(self.gateway)
        self.node = self.start_node("one")
        eventually(lambda: parts.status()["nodes"])

    def start_broker(self) -> None:
        self.broker = self.parts.run(
            "broker", "--address", self.parts.broker_address, "--enable-model-api",
            "--state-dir", str(self.parts.folder / "state"), "--model-store", str(self.parts.store),
        )  # fmt: skip

    def restart_broker(self) -> None:
        self.broker.kill()
        self.broker.wait()
        self.start_broker()

    def start_node(self, name: str) -> Any:  # Any: a process
        return self.parts.run(
            "worker", "--join", self.invite("node", name), "--credentials", str(self.credentials(name)),
            "--broker", self.wire.address, "--name", name,
            "--cache-dir", str(self.parts.folder / f"cache-{name}"),
        )  # fmt: skip

    def credentials(self, name: str) -> Path:
        return self.parts.folder / f"{name}.json"

    def broker_keys(self, name: str) -> list[str]:
        kept = json.loads(self.credentials(name).read_bytes())["broker_keys"]
        assert isinstance(kept, list)
        return kept

    def invite(self, role: Any, name: str = "") -> str:  # Any: one of the roles
        """Ask on the broker's own host, over its unix socket."""
        place = BrokerPlace((f"ipc://{self.parts.folder}/state/broker.sock",))
        operator = BrokerSocket(place, "gateway")
        invited: list[m.Invited] = []

        def is_answered() -> bool:
            operator.send(m.HelloGateway(m.PROTOCOL_VERSION, "operator", 1), 0)
            operator.wait(0.2)
            while (received := operator.receive()) is not None:
                message, epoch, _ = received
                if isinstance(message, m.Welcome):
                    operator.send(m.Invite(1, role, name), epoch)
                elif isinstance(message, m.Invited):
                    invited.append(message)
            return bool(invited)

        try:
            eventually(is_answered)
        finally:
            operator.send(m.Bye(), 0)
            operator.close(0.5)
        return invited[-1].text

    def rotate_key(self) -> str:
        """Have the broker take another key at its next start; return it once it is kept."""
        (old,) = self.broker_keys("one")[:1]
        answer = self.parts.http.post(f"{self.parts.management}/broker/key/rotate")
        assert answer.status_code == 200, answer.text
        following = answer.json()["nextKey"]
        for member in ("one", "gateway"):
            eventually(partial(lambda name: self.broker_keys(name) == [old, following], member))
        assert isinstance(following, str)
        return following

    def pids(self, model: str) -> set[int]:
        return {worker["pid"] for worker in self.parts.ready(model)}

    def log(self, part: str) -> str:
        return "\n".join(path.read_text() for path in sorted(self.parts.folder.glob(f"{part}-*.log")))

    def answers(self, model: str) -> bool:
        answer = self.parts.predict(model, SAID)
        return answer.status_code == 200 and answer.content == SAID


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    folder = tmp_path_factory.mktemp("e")
    store = make_store(folder / "models", "echo", "tells_what_it_was_given", "waits_for_a_file")
    with fleet(folder, store) as parts:
        made = Encrypted(parts)
        parts.register("echo.mar", initial_workers=1)
        eventually(lambda: made.answers("echo"))
        try:
            yield made
        finally:
            made.wire.close()


def test_predictions_are_answered_and_nothing_of_them_is_seen_on_the_way(encrypted: Encrypted) -> None:
    before = len(encrypted.wire.passed)
    for _ in range(20):
        assert encrypted.answers("echo")
    passed = bytes(encrypted.wire.passed)
    assert len(passed) - before > 20 * 4 * len(SAID), "they go another way"
    for clear in (SAID, b"echo", b"application/octet-stream", b"one", b"cpu", b"x-request-id"):
        assert passed.count(clear) <= 1, clear  # three letters may come about by chance
    assert SAID not in passed


def test_after_the_brokers_death_all_parts_come_back_and_no_model_is_loaded_anew(
    encrypted: Encrypted,
) -> None:
    pids = encrypted.pids("echo")
    with Load(encrypted.parts, "echo", clients=4) as load:
        eventually(lambda: load.sent > 50)
        encrypted.restart_broker()
        before, began = load.sent, time.monotonic()
        eventually(lambda: load.sent > before + 50)
        took_s = time.monotonic() - began
    assert set(load.statuses) == {200}, load.statuses
    assert not load.wrong
    assert took_s < HANG_S
    eventually(lambda: encrypted.pids("echo") == pids)
    print(f"took {took_s:.2f} s")  # noqa: T201  # shown with -s


def test_the_brokers_key_is_rotated_over_a_restart_and_all_parts_follow(encrypted: Encrypted) -> None:
    pids = encrypted.pids("echo")
    following = encrypted.rotate_key()
    encrypted.restart_broker()
    eventually(lambda: encrypted.answers("echo"))
    for member in ("one", "gateway"):
        eventually(partial(lambda name: encrypted.broker_keys(name) == [following], member))
    eventually(lambda: encrypted.pids("echo") == pids)


def test_a_worker_that_is_busy_while_the_key_is_rotated_follows_when_it_has_time(
    encrypted: Encrypted, tmp_path: Path
) -> None:
    encrypted.parts.register("waits_for_a_file.mar", initial_workers=1)
    (pid,) = encrypted.pids("waits_for_a_file")
    until = tmp_path / "until"
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(encrypted.parts.predict, "waits_for_a_file", str(until).encode())
        eventually(Path(f"{until}.begun").exists)
        encrypted.rotate_key()
        encrypted.restart_broker()
        eventually(lambda: encrypted.answers("echo"))
        until.touch()
        assert answer.result(HANG_S).text == str(pid)
    assert encrypted.pids("waits_for_a_file") == {pid}
    encrypted.parts.scale("waits_for_a_file", min_worker=0, synchronous=True)


def test_a_worker_is_given_neither_its_nodes_key_nor_the_way_to_it(encrypted: Encrypted) -> None:
    encrypted.parts.register("tells_what_it_was_given.mar", initial_workers=1)
    eventually(lambda: encrypted.parts.ready("tells_what_it_was_given"))
    given = encrypted.parts.predict("tells_what_it_was_given").text
    assert "'PATH': " in given
    kept = json.loads(encrypted.credentials("one").read_bytes())
    for secret in (kept["secret_key"], *kept["broker_keys"], "one.json", "torchrelay-join"):
        assert secret not in given


@pytest.mark.parametrize("role", ["node", "gateway"])
def test_a_part_whose_key_is_refused_ends_where_it_is_told_to(
    encrypted: Encrypted, tmp_path: Path, role: MemberRole
) -> None:
    kept = msgspec.json.decode(encrypted.credentials("one").read_bytes(), type=Credentials)
    unknown = msgspec.structs.replace(kept, secret_key=new_key_pair().secret, role=role)
    member_credentials.write(tmp_path / "c.json", unknown)
    file, settings = str(tmp_path / "c.json"), Settings()
    if role == "node":
        code = RUN_NODE
        settings = NodeSettings(
            name="n", cache_dir=f"{tmp_path}/cache", credentials_file=file, ends_when_refused=True
        )
    else:
        code = RUN_GATEWAY
        settings = GatewaySettings(
            inference_address=f"unix:{tmp_path}/i", management_address=f"unix:{tmp_path}/m",
            enable_metrics_api=False, credentials_file=file, ends_when_refused=True,
        )  # fmt: skip
    ended = subprocess.run([sys.executable, "-c", code, settings.to_json()], timeout=HANG_S, check=False)
    assert ended.returncode == member_credentials.REFUSED_STATUS


def test_a_revoked_nodes_work_moves_and_its_link_says_what_to_do(encrypted: Encrypted) -> None:
    parts = encrypted.parts
    second = encrypted.start_node("two")
    eventually(lambda: len(parts.status()["nodes"]) == 2)
    with Load(parts, "echo", clients=4) as load:
        parts.scale("echo", min_worker=2, synchronous=True)
        of_two = [worker for worker in parts.workers("echo") if worker["node"] == "two"]
        assert of_two
        answer = parts.http.post(f"{parts.management}/nodes/two/revoke")
        assert answer.status_code == 200, answer.text
        eventually(lambda: {worker["node"] for worker in parts.ready("echo")} == {"one"})
        eventually(lambda: len(parts.ready("echo")) == 2)
    assert set(load.statuses) == {200}, load.statuses
    assert not load.wrong
    assert second.wait(HANG_S) == 1, "its invitation, by which it would join anew, is used up"
    assert "doesn't know this host's key" in encrypted.log("worker")
    assert "it has been used" in encrypted.log("worker")
    assert "torchrelay nodes invite" in encrypted.log("worker")
    parts.scale("echo", min_worker=1, synchronous=True)
