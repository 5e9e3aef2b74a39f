"""A real node beside handlers that print more than it can write, and a console that nobody reads."""

import itertools
import os
import re
import signal
import subprocess

import pytest

from tests.support import eventually
from tests.worker.nodes import Fleet, answers, load, submit
from torchrelay.shared import clock
from torchrelay.shared.wire import messages as m

pytestmark = pytest.mark.integration

PRINTS = """
import sys
def handle(data, context):
    if data:
        sys.stdout.write("\\n" * int(data[0]["body"]))
        sys.stdout.flush()
        return ["done"]
"""
#: The node of a handler that printed so many lines was silent for more than ten seconds.
MANY = 200_000
SILENT_S = 4.0


def test_a_node_beats_while_a_handler_prints_more_than_anybody_can_read(joined: Fleet) -> None:
    talks = load(joined, PRINTS)
    other = load(joined)
    submit(joined, talks.worker, str(MANY).encode())
    beats = [clock.monotonic()]
    lease = 2

    def is_printed() -> bool:
        joined.broker.pump()
        if joined.broker.all(m.NodeBeat):
            joined.broker.heard = [
                item for item in joined.broker.heard if not isinstance(item.message, m.NodeBeat)
            ]
            beats.append(clock.monotonic())
        return any(message.lease == 1 for message in joined.broker.all(m.Completed))

    eventually(is_printed)
    assert max(later - earlier for earlier, later in itertools.pairwise(beats)) < SILENT_S
    assert [answer.body for answer in answers(joined)] == [b"done"]
    submit(joined, other.worker, b"still here", lease=lease)
    assert [answer.body for answer in answers(joined, lease)] == [b"still here"]
    eventually(lambda: _accounted_for(joined.node_log()) >= MANY)


def _accounted_for(log: str) -> int:
    """Count the empty lines in a log, and those of which it says that there was no time to write them."""
    dropped = re.findall(r"log\.lines_dropped count=(\d+)", log)
    return log.count('line=""') + sum(map(int, dropped))


def test_a_console_that_nobody_reads_stops_neither_node_nor_handlers(fleet: Fleet) -> None:
    reader, writer = os.pipe()
    node = fleet.start_node(console=writer)
    os.close(writer)
    fleet.join()
    loaded = load(fleet, PRINTS)
    submit(fleet, loaded.worker, str(MANY).encode())
    assert [answer.body for answer in answers(fleet)] == [b"done"], "what can't be shown is dropped"
    fleet.broker.heard.clear()
    fleet.broker.expect(m.NodeBeat)
    node.send_signal(signal.SIGTERM)
    fleet.broker.until(lambda: node.poll() is not None)
    assert node.returncode == 0
    shown = b""
    while part := os.read(reader, 65536):
        shown += part
    os.close(reader)
    assert b"node.started" in shown


def test_of_lines_that_a_console_did_not_take_in_time_their_number_is_told(fleet: Fleet) -> None:
    reader, writer = os.pipe()
    fleet.start_node(console=writer)
    os.close(writer)
    fleet.join()
    loaded = load(fleet, PRINTS)
    submit(fleet, loaded.worker, str(MANY).encode())
    answers(fleet)
    # Now somebody reads.
    log = (fleet.folder / "shown").open("wb")
    with subprocess.Popen(["cat"], stdin=reader, stdout=log):
        os.close(reader)
        log.close()
        fleet.broker.until(lambda: "log.lines_dropped count=" in (fleet.folder / "shown").read_text())
        fleet.close()
