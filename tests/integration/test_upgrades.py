"""Every part of a fleet is replaced while clients ask: no request fails."""

import contextlib
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.integration.archives import make
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually

pytestmark = pytest.mark.integration

#: A handler that echoes, once it has loaded.
SLOW_TO_LOAD = """
import time

class Echo:
    def initialize(self, context):
        time.sleep(4)

    def handle(self, data, context):
        return [bytes(row.get("body") or b"") for row in data]
"""
CLIENTS = 4
#: Answers of the others between two steps of an upgrade: what a step breaks shows in the next ones.
ANSWERS_BETWEEN = 50


class Balancer:
    """What stands before several gateways: asks in turn those whose /readyz says that they are ready."""

    def __init__(self, *gateways: tuple[str, str]) -> None:
        """Take (inference, management) urls."""
        self._gateways = gateways
        self._ready: list[str] = []
        self._turn = 0
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._prober = threading.Thread(target=self._probe)

    def __enter__(self) -> "Balancer":
        self._prober.start()
        eventually(lambda: self._ready)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._prober.join()

    def has(self, inference: str) -> bool:
        return inference in self._ready

    def choose(self) -> str:
        with self._lock:
            self._turn += 1
            return self._ready[self._turn % len(self._ready)]

    def _probe(self) -> None:
        with httpx2.Client(timeout=5) as client:
            while not self._is_over.wait(0.1):
                ready = []
                for inference, management in self._gateways:
                    with contextlib.suppress(httpx2.TransportError):
                        if client.get(f"{management}/readyz").status_code == 200:
                            ready.append(inference)
                self._ready = ready or self._ready


class Clients:
    """Clients that never let go; every request's outcome is kept."""

    def __init__(self, balancer: Balancer, model: str = "echo") -> None:
        self._balancer = balancer
        self._model = model
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._sent = 0
        self.outcomes: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a request was never answered"

    def go_on(self) -> None:
        """Wait until so many more have been answered."""
        wanted = self.outcomes.total() + ANSWERS_BETWEEN
        eventually(lambda: self.outcomes.total() >= wanted)

    def _run(self) -> None:
        with httpx2.Client(timeout=60) as client:
            while not self._is_over.is_set():
                with self._lock:
                    self._sent += 1
                    body = b"request %d" % self._sent
                outcome = self._ask(client, body)
                with self._lock:
                    self.outcomes[outcome] += 1

    def _ask(self, client: httpx2.Client, body: bytes) -> str:
        headers = {"content-type": "application/octet-stream"}
        try:
            url = f"{self._balancer.choose()}/predictions/{self._model}"
            response = client.post(url, content=body, headers=headers)
        except httpx2.TransportError as error:
            return repr(error)
        return "ok" if response.content == body else f"{response.status_code} {response.text}"


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Fleet]:
    store = tmp_path / "models"
    store.mkdir()
    make(store, "echo", code=SLOW_TO_LOAD)
    with fleet(tmp_path, store) as made:
        yield made


def start_up(parts: Fleet, *nodes: str, workers: int = 2, response_timeout: int = 120) -> None:
    """Start broker, gateway, nodes, and workers of a model that are spread over them."""
    parts.broker()
    parts.wait_until_up(parts.gateway("--lead", "1"))
    eventually(lambda: len(parts.status()["nodes"]) == len(nodes))
    answer = parts.register(
        "echo.mar", initial_workers=workers, synchronous=True, response_timeout=response_timeout
    )
    assert answer.status_code == 200, answer.text


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def spread(parts: Fleet) -> Counter[str]:
    """Count the workers that are ready by their nodes; none where the fleet can't be asked just now."""
    workers = (worker for entry in parts.status().get("models", ()) for worker in entry["workers"])
    return Counter(worker["node"] for worker in workers if worker["state"] == "ready")


def test_nodes_are_restarted_one_by_one_and_each_has_its_share_again(parts: Fleet) -> None:
    """The worker takes longer to load than its requests may wait: it serves until another is ready."""
    nodes = {name: parts.node(name) for name in ("a", "b")}
    start_up(parts, *nodes, workers=1, response_timeout=2)
    before = spread(parts)
    with Balancer((parts.inference, parts.management)) as balancer, Clients(balancer) as clients:
        for name, node in nodes.items():
            clients.go_on()
            stop(node)
            clients.go_on()
            parts.node(name)
            eventually(lambda: spread(parts) == before)
        clients.go_on()
    assert set(clients.outcomes) == {"ok"}, clients.outcomes


def test_gateways_are_restarted_one_by_one(parts: Fleet) -> None:
    second = Fleet(parts.folder, parts.store)
    urls = [(one.inference, one.management) for one in (parts, second)]

    def gateway(listeners: Fleet) -> subprocess.Popen[bytes]:
        return parts.run("gateway", "--broker", parts.broker_address, "--insecure", "--lead", "2",
                         *listeners.listeners())  # fmt: skip

    parts.node("a")
    start_up(parts, "a")
    first = parts.processes[-1]
    processes = {parts: first, second: gateway(second)}
    with Balancer(*urls) as balancer, Clients(balancer) as clients:
        for listeners, process in processes.items():
            eventually(lambda: all(balancer.has(inference) for inference, _ in urls))
            clients.go_on()
            stop(process)
            clients.go_on()
            gateway(listeners)
        eventually(lambda: all(balancer.has(inference) for inference, _ in urls))
        clients.go_on()
    second.http.close()
    assert set(clients.outcomes) == {"ok"}, clients.outcomes


def test_the_broker_is_restarted_and_callers_wait_for_it(parts: Fleet) -> None:
    parts.node("a")
    start_up(parts, "a")
    broker = parts.processes[1]
    with Balancer((parts.inference, parts.management)) as balancer, Clients(balancer) as clients:
        for _ in range(2):
            clients.go_on()
            stop(broker)
            broker = parts.broker()
            clients.go_on()
    assert set(clients.outcomes) == {"ok"}, clients.outcomes


def test_a_version_is_replaced(parts: Fleet) -> None:
    assert parts.store is not None
    make(parts.store, "echo", version="2.0", file_name="echo-2.mar", code=SLOW_TO_LOAD)
    parts.node("a")
    start_up(parts, "a")
    with Balancer((parts.inference, parts.management)) as balancer, Clients(balancer) as clients:
        clients.go_on()
        assert parts.register("echo-2.mar", initial_workers=2, synchronous=True).status_code == 200
        clients.go_on()
        assert parts.http.put(f"{parts.management}/models/echo/2.0/set-default").status_code == 200
        assert parts.http.delete(f"{parts.management}/models/echo/1.0").status_code == 200
        clients.go_on()
    assert set(clients.outcomes) == {"ok"}, clients.outcomes
