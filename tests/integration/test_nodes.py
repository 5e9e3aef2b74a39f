"""Several nodes: replicas spread over them, and move when one goes."""

import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.archives import make_store
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
        assert one.wait(10) == 0
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
