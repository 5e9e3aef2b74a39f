"""Whether libzmq's threads wait, by what the kernel says of them, in a process of its own."""

import json
import os
import subprocess
import sys
from itertools import count, cycle
from typing import NoReturn

import pytest
import zmq

from tests.support import eventually
from torchrelay.shared.processes.patient_threads import PatientThreads

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="policies are Linux's"),
]

#: Prints the policies of its own threads and of libzmq's after each look that it is told of.
PROGRAM = """
import json, os, sys, time
from pathlib import Path
import zmq
from torchrelay.shared.processes.patient_threads import PatientThreads

start, looks = json.loads(sys.argv[1])
if start is not None:
    os.sched_setscheduler(0, start, os.sched_param(0))
threads = PatientThreads()

def threads_by_id():
    return {int(one.name): (one / "comm").read_text() for one in Path("/proc/self/task").iterdir()}

with zmq.Context(2) as context, context.socket(zmq.PAIR):
    while sum(name.startswith("ZMQbg/IO") for name in threads_by_id().values()) < 2:
        time.sleep(0.001)  # each takes its name once it runs
    for handler_s, now in looks:
        threads.look(handler_s, now)
        by_kind = [set(), set()]
        for number, name in threads_by_id().items():
            by_kind[name.startswith("ZMQbg/IO")].add(os.sched_getscheduler(number))
        print(json.dumps([sorted(one) for one in by_kind]))
"""
OTHER, BATCH, IDLE = (getattr(os, f"SCHED_{name}", -1) for name in ("OTHER", "BATCH", "IDLE"))


def policies(*looks: tuple[float, float], start: int | None = None) -> list[tuple[list[int], list[int]]]:
    """Return the policies after each look: of the process's own threads, and of libzmq's."""
    told = json.dumps([start, looks])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, told], capture_output=True, text=True, check=True, timeout=60
    )
    return [(own, of_zmq) for own, of_zmq in map(json.loads, done.stdout.splitlines())]


def test_they_wait_while_handlers_are_short_and_go_first_while_they_are_not() -> None:
    assert policies((1.0, 10.0), (0.0001, 11.0), (0.0001, 12.0), (0.005, 13.0)) == [
        ([OTHER], [OTHER]),
        ([OTHER], [BATCH]),
        ([OTHER], [BATCH]),
        ([OTHER], [OTHER]),
    ]


def test_it_is_not_looked_at_each_turn() -> None:
    assert [of_zmq for _, of_zmq in policies((1.0, 10.0), (0.0001, 10.4), (0.0001, 10.5))] == [
        [OTHER],
        [OTHER],
        [BATCH],
    ]


@pytest.mark.parametrize("refused", ["sched_getscheduler", "sched_setscheduler"])
def test_a_sandbox_that_forbids_it_ends_nothing(monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    asked = []

    def refuse(*of: object) -> NoReturn:
        asked.append(of)
        raise PermissionError

    monkeypatch.setattr(os, refused, refuse)
    threads = PatientThreads()
    looks = zip(cycle((0.0001, 0.005)), count(10.0), strict=False)

    def was_refused() -> bool:
        threads.look(*next(looks))
        return bool(asked)

    with zmq.Context() as context, context.socket(zmq.PAIR):
        eventually(was_refused)  # each takes its name once it runs


@pytest.mark.parametrize("chosen", [BATCH, IDLE])
def test_what_an_operator_has_chosen_stays(chosen: int) -> None:
    seen = policies((0.0001, 10.0), (0.005, 11.0), start=chosen)
    assert seen == [([chosen], [chosen]), ([chosen], [chosen])]
