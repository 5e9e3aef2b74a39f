"""A gateway's arbiter and its processes look after each other."""

import os
import signal
from types import SimpleNamespace

import pytest

from torchrelay.gateway.main import LATE_LOOK_S, Master, Worker


@pytest.mark.parametrize("is_orphan", [True, False])
async def test_a_process_whose_arbiter_has_gone_stops(is_orphan: bool) -> None:
    told: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: told.append("stop"))
    try:
        worker = Worker.__new__(Worker)
        worker.ppid = -1 if is_orphan else os.getppid()
        worker.tmp = SimpleNamespace(notify=lambda: told.append("lives"))
        await worker.callback_notify()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told == (["stop", "lives"] if is_orphan else ["lives"])


def test_an_arbiter_that_stood_still_kills_no_process_for_its_silence() -> None:
    arbiter = Master.__new__(Master)
    arbiter.timeout = 30
    assert [arbiter.may_judge(float(now)) for now in range(33)] == [False] * 31 + [True] * 2
    woken_at = 33.0 + LATE_LOOK_S + 60
    assert [arbiter.may_judge(woken_at + now) for now in range(33)] == [False] * 31 + [True] * 2
