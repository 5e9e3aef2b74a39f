"""Large bodies go by memory that the parts of a host share: each request has its own, whoever is killed."""

import os
import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.integration.archives import make
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually

pytestmark = pytest.mark.integration

SIZE = 300_000
#: Waits where the body says so, until the file that it names is there.
REVERSES = """
import os, time

def reversed_body(body):
    name = bytes(body[:200]).split(b"|")[0]
    if name.startswith(b"/"):
        with open(name + b".begun", "w"):
            pass
        while not os.path.exists(name):
            time.sleep(0.01)
    return bytes(body[::-1])

def handle(data, context):
    return data and [reversed_body(row["body"]) for row in data]
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Fleet]:
    store = tmp_path / "models"
    store.mkdir()
    make(store, "reverses", code=REVERSES, config="batchSize: 4\nmaxBatchDelay: 5\nminWorkers: 1\n")
    with fleet(tmp_path, store) as made:
        config = tmp_path / "config.properties"
        config.write_text("default_workers_per_model=1\n")
        made.serve("--models", "all", "--preload", "none", "--ts-config", str(config))
        eventually(lambda: made.ready("reverses"))
        yield made


def bodies(seed: int, count: int) -> list[bytes]:
    drawn = random.Random(seed)
    return [drawn.randbytes(SIZE + drawn.randrange(100_000)) for _ in range(count)]


def lent_bytes(server: Fleet) -> dict[int, int]:
    """Return how much is in each memory that any process has open, by the number of its inode."""
    found: dict[int, int] = {}
    for process in server.descendants():
        with suppress(OSError):
            for fd in Path(f"/proc/{process.pid}/fd").iterdir():
                with suppress(OSError):
                    if os.readlink(fd).startswith("/memfd:torchrelay"):
                        memory = os.stat(fd)
                        found[memory.st_ino] = 512 * memory.st_blocks
    return found


def own_answers(server: Fleet, sent: list[bytes]) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda body: server.predict("reverses", body), sent))
    for body, answer in zip(sent, answers, strict=True):
        assert (answer.status_code, answer.content == body[::-1]) == (200, True)


def held(
    server: Fleet, threads: ThreadPoolExecutor, gate: Path, count: int = 4
) -> list[tuple[bytes, "Future[httpx2.Response]"]]:
    """Send large requests that wait for a file, and return them once one of them runs."""
    sent = [os.fsencode(gate) + b"|" + body for body in bodies(7, count)]
    waiting = [(body, threads.submit(server.predict, "reverses", body)) for body in sent]
    eventually(gate.with_name(gate.name + ".begun").exists)
    return waiting


def processes(server: Fleet, *words: str) -> list[psutil.Process]:
    """Return those whose command line has these words, parents first."""
    found = []
    for process in server.descendants():
        with suppress(psutil.Error):
            if all(word in " ".join(process.cmdline()) for word in words):
                found.append(process)
    return sorted(found, key=lambda one: one.pid)


@pytest.mark.timeout(120)
def test_large_bodies_are_lent_and_come_back_to_who_has_sent_them(server: Fleet) -> None:
    own_answers(server, bodies(1, 4))
    own_answers(server, bodies(2, 40))
    lent = lent_bytes(server)
    assert len(lent) == 2, "a gateway process and a worker lend"
    assert min(lent.values()) > SIZE


@pytest.mark.timeout(120)
def test_a_worker_that_is_killed_has_its_large_requests_run_by_the_next(
    server: Fleet, tmp_path: Path
) -> None:
    own_answers(server, bodies(3, 4))
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(8) as threads:
        waiting = held(server, threads, gate)
        (before,) = [worker["pid"] for worker in server.ready("reverses")]
        psutil.Process(before).kill()
        gate.touch()
        for body, answer in waiting:
            assert (answer.result().status_code, answer.result().content == body[::-1]) == (200, True)
    (after,) = [worker["pid"] for worker in server.ready("reverses")]
    assert after != before
    own_answers(server, bodies(4, 8))
    assert min(lent_bytes(server).values()) > SIZE
    eventually(lambda: len(lent_bytes(server)) == 2)


@pytest.mark.timeout(120)
def test_a_broker_that_is_killed_loses_no_large_request(server: Fleet, tmp_path: Path) -> None:
    own_answers(server, bodies(5, 4))
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(8) as threads:
        waiting = held(server, threads, gate, count=6)
        (broker,) = processes(server, "torchrelay broker")
        broker.kill()
        gate.touch()
        for body, answer in waiting:
            assert (answer.result().status_code, answer.result().content == body[::-1]) == (200, True)
    own_answers(server, bodies(6, 8))


@pytest.mark.timeout(120)
def test_a_gateway_that_is_killed_leaves_its_memory_to_nobody(server: Fleet) -> None:
    own_answers(server, bodies(8, 4))
    before = lent_bytes(server)
    _, gateway = processes(server, "torchrelay gateway")
    gateway.kill()

    def is_back() -> bool:
        with suppress(httpx2.TransportError):
            return server.predict("reverses", b"x").status_code == 200
        return False

    eventually(lambda: not gateway.is_running() and is_back())
    own_answers(server, bodies(9, 8))
    # The worker's, and that of the gateway that is there now.
    eventually(lambda: len(lent_bytes(server)) == 2)
    assert len(lent_bytes(server).keys() & before.keys()) == 1
