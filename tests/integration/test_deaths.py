"""Processes killed under load: every accepted request is answered once, and service comes back."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.archives import make_store
from tests.integration.fleet import Fleet, fleet
from tests.integration.load import Load
from tests.support import eventually

pytestmark = pytest.mark.integration


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet in parts: broker, gateway, one node."""
    with fleet(tmp_path, make_store(tmp_path / "models", "echo", "teller", "dies_of_a_word")) as made:
        made.broker()
        made.wait_until_up(made.gateway())
        made.node("one")
        eventually(lambda: made.status()["nodes"])
        yield made


def check(load: Load) -> None:
    assert set(load.answers.values()) == {1}, "a request was answered more or less than once"
    assert len(load.answers) == load.sent
    assert not load.wrong
    assert set(load.statuses) == {200}, load.statuses


def test_a_killed_worker_is_replaced_and_no_request_is_lost(parts: Fleet) -> None:
    parts.register("echo.mar", initial_workers=2)
    with Load(parts, "echo", clients=8) as load:
        for _ in range(3):
            served = load.sent
            eventually(lambda served=served: load.sent > served + 100)  # type: ignore[misc]  # bound now
            victim = parts.ready("echo")[0]["pid"]
            os.kill(victim, signal.SIGKILL)
            eventually(
                lambda victim=victim: len({w["pid"] for w in parts.ready("echo")} - {victim}) == 2,  # type: ignore[misc]
            )
    check(load)


def test_a_killed_broker_forgets_nothing_and_its_workers_are_adopted(parts: Fleet) -> None:
    parts.register("echo.mar", initial_workers=2)
    parts.register("teller.mar", initial_workers=1)
    parts.register("echo.mar", model_name="idle", initial_workers=0)
    models = parts.http.get(f"{parts.management}/models").json()
    loaded = parts.predict("teller").json()
    pids = {worker["pid"] for worker in parts.ready("echo")}
    with Load(parts, "echo", clients=8) as load:
        eventually(lambda: load.sent > 100)
        parts.processes[0].kill()
        parts.processes[0].wait()
        parts.broker()
        before, began = load.sent, time.monotonic()
        eventually(lambda: load.sent > before + 100)
        assert time.monotonic() - began < 8  # what the docs promise is less; machines of tests are slow
    check(load)
    assert parts.http.get(f"{parts.management}/models").json() == models
    eventually(lambda: len(parts.ready("echo")) == 2 and len(parts.ready("teller")) == 1)
    assert {worker["pid"] for worker in parts.ready("echo")} == pids
    assert parts.predict("teller").json() == loaded
    assert parts.describe("idle")["minWorkers"] == 0


def test_a_killed_node_leaves_no_worker_and_another_takes_over(parts: Fleet) -> None:
    parts.register("echo.mar", initial_workers=2)
    parts.node("two")
    eventually(lambda: len(parts.status()["nodes"]) == 2)
    old = {worker["pid"] for worker in parts.ready("echo")}
    with Load(parts, "echo", clients=4) as load:
        eventually(lambda: load.sent > 50)
        parts.processes[2].kill()
        eventually(lambda: {worker["node"] for worker in parts.ready("echo")} == {"two"})
        eventually(lambda: len(parts.ready("echo")) == 2)
    check(load)
    eventually(lambda: not old & {process.pid for process in parts.descendants()})


def test_a_stuck_worker_is_replaced_and_its_request_answered(parts: Fleet) -> None:
    parts.register("teller.mar", initial_workers=1, response_timeout=2)
    first = parts.predict("teller").json()["pid"]
    os.kill(first, signal.SIGSTOP)
    response = parts.predict("teller")
    assert response.status_code == 500
    assert response.json()["message"] == "Worker died."
    assert "response_timeout" in response.json()["details"]
    eventually(lambda: parts.predict("teller").status_code == 200)
    assert parts.predict("teller").json()["pid"] != first


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (1, 2), (8, 1), (8, 2)])
def test_a_request_that_ends_workers_fails_alone_and_its_like_is_refused(
    parts: Fleet, batch_size: int, workers: int
) -> None:
    parts.register("dies_of_a_word.mar", initial_workers=workers, batch_size=batch_size, max_batch_delay=5)
    with Load(parts, "dies_of_a_word", clients=8) as load:
        eventually(lambda: load.sent > 50)
        poisoned = [parts.predict("dies_of_a_word", b"crash") for _ in range(4)]
        served = load.sent
        eventually(lambda: load.sent > served + 50)
    check(load)
    assert [answer.status_code for answer in poisoned] == [500] * 4
    first, *refused = [answer.json() for answer in poisoned]
    assert first["message"] == "Worker died."
    assert "signal 11" in first["details"]
    assert first.keys() == refused[0].keys() == {"code", "type", "message", "details"}
    for body in refused:
        assert "Requests with this content are refused" in body["message"]
        assert poisoned[0].headers["x-request-id"] in body["details"]
    (model,) = parts.status()["models"]
    (shown,) = model["quarantined"]
    assert (shown["workersLost"], shown["refused"]) == (2, 3)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_requests_that_end_workers_and_are_never_the_same_take_no_other_along(
    parts: Fleet, batch_size: int
) -> None:
    parts.register("dies_of_a_word.mar", initial_workers=2, batch_size=batch_size, max_batch_delay=5)
    with Load(parts, "dies_of_a_word", clients=8) as load:
        for number in range(6):
            served = load.sent
            eventually(lambda served=served: load.sent > served + 20)  # type: ignore[misc]  # bound now
            answer = parts.predict("dies_of_a_word", b"exit %d" % number)
            assert answer.json()["message"] == "Worker died."
    check(load)
    eventually(lambda: len(parts.ready("dies_of_a_word")) == 2)


def test_a_killed_gateway_process_is_replaced_by_its_arbiter(parts: Fleet) -> None:
    parts.register("echo.mar", initial_workers=1)
    arbiter = parts.processes[1].pid
    (process,) = [p for p in parts.descendants() if p.ppid() == arbiter]
    process.kill()
    eventually(lambda: parts.predict("echo").status_code == 200)
    eventually(lambda: parts.status()["gateways"] == 1)
