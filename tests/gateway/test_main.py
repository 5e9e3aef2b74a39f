"""A gateway's process looks after its arbiter."""

import os
import signal
from types import SimpleNamespace

import pytest

from torchrelay.gateway.main import Worker


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
