"""What broker and workers have libzmq's threads do, by how long handlers take."""

import os
import sys
from pathlib import Path

import pytest

from tests.integration.archives import make
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("preloaded_torch"),
    pytest.mark.skipif(sys.platform != "linux", reason="policies are Linux's"),
]

#: Takes as many seconds as it is told.
SLEEPS = """
import time

def handle(data, context):
    if data:
        time.sleep(float(data[0]["body"]))
        return ["done"]
"""


def policies(server: Fleet, title: str) -> set[int]:
    """Return the policies of libzmq's threads in the processes of a title."""
    return {
        os.sched_getscheduler(int(task.name))
        for process in server.descendants()
        if " ".join(process.cmdline()).startswith(title)
        for task in Path(f"/proc/{process.pid}/task").iterdir()
        if (task / "comm").read_text().startswith("ZMQbg/IO")
    }


def test_they_wait_for_broker_and_worker_while_handlers_take_no_time(tmp_path: Path) -> None:
    store = tmp_path / "models"
    store.mkdir()
    make(store, "sleeps", code=SLEEPS, config="minWorkers: 1\nmaxWorkers: 1\n")
    with fleet(tmp_path, store) as server:
        server.serve("--models", "all")
        eventually(lambda: server.ready("sleeps"))

        def all_are(policy: int, body: bytes, count: int) -> bool:
            for _ in range(count):
                assert server.predict("sleeps", body).content == b"done"
            return policies(server, "torchrelay broker") == policies(server, "torchrelay worker") == {policy}

        assert all_are(os.SCHED_OTHER, b"0", 1)
        eventually(lambda: all_are(os.SCHED_BATCH, b"0", 100))
        eventually(lambda: all_are(os.SCHED_OTHER, b"0.02", 10))
