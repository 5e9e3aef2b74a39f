"""Several nodes: replicas spread over them, and move when one goes."""

import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.archives import make, make_store
from tests.integration.fleet import fleet
from tests.support import eventually

pytestmark = pytest.mark.integration


def test_replicas_spread_over_nodes_and_move_when_one_stops(tmp_path: Path) -> None:
    with fleet(tmp_path, make_store(tmp_path / "models", "echo")) as parts:
        parts.broker()
        parts.wait_until_up(parts.gateway())
        one = parts.node("one")
        parts.node("two")
        eventually(lambda: len(parts.status()["nodes"]) == 2)
        assert parts.register("echo.mar").status_code == 200
        assert parts.scale("echo", min_worker=4, synchronous=True).status_code == 200
        assert Counter(worker["node"] for worker in parts.ready("echo")) == {"one": 2, "two": 2}
        one.send_signal(signal.SIGTERM)
        assert one.wait(60) == 0
        eventually(lambda: Counter(worker["node"] for worker in parts.ready("echo")) == {"two": 4})
        assert parts.predict("echo").content == b"hello"
        eventually(lambda: {node["name"] for node in parts.status()["nodes"]} == {"two"})


def test_a_node_may_come_before_its_broker_and_workers_wait_for_one(tmp_path: Path) -> None:
    with fleet(tmp_path, make_store(tmp_path / "models", "echo")) as parts:
        gateway = parts.gateway()
        node = parts.node("early")
        parts.broker()
        parts.wait_until_up(gateway)
        eventually(lambda: parts.status()["nodes"])
        assert parts.register("echo.mar", initial_workers=1).status_code == 200
        node.kill()
        node.wait()
        eventually(lambda: "no node has joined" in parts.status()["models"][0]["explanation"])


def test_a_model_runs_where_its_labels_are_and_says_what_is_missing_elsewhere(tmp_path: Path) -> None:
    store = tmp_path / "models"
    store.mkdir()
    make(store, "echo", config="placement: {labels: {zone: b}, memory: 50MiB, strategy: pack}\n")
    make(store, "teller", config="placement: {labels: {zone: a}, memory: 9000TiB}\n")
    with fleet(tmp_path, store) as parts:
        broker = parts.broker()
        parts.wait_until_up(parts.gateway())
        parts.node("one", "--label", "zone=a", "--label", "rack=3")
        parts.node("two", "--label", "zone=b")
        eventually(lambda: len(parts.status()["nodes"]) == 2)
        assert [node["labels"] for node in parts.status()["nodes"]] == [
            {"rack": "3", "zone": "a"},
            {"zone": "b"},
        ]
        assert parts.register("echo.mar", initial_workers=3, synchronous=True).status_code == 200
        assert {worker["node"] for worker in parts.ready("echo")} == {"two"}
        assert parts.predict("echo").content == b"hello"
        assert parts.register("teller.mar", initial_workers=1, synchronous=False).status_code == 202
        eventually(lambda: parts.describe("teller")["explanation"])
        why = parts.describe("teller")["explanation"]
        assert "needs 9216000 GiB and the label zone=a; cpu of one has " in why
        assert "two lacks the label zone=a" in why
        broker.kill()
        broker.wait()
        parts.broker()

        def taken() -> list[int]:
            nodes = parts.status().get("nodes", [])
            return [node["devices"][0].get("memoryTakenBytes", 0) for node in nodes]

        eventually(lambda: taken() == [0, 3 * (50 << 20)])
        eventually(lambda: len(parts.ready("echo")) == 3)
        eventually(lambda: parts.describe("teller")["explanation"] == why)
