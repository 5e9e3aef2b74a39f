"""A gateway's arbiter and its processes look after each other."""

import os
import resource
import signal
from types import SimpleNamespace

import pytest

from torchrelay.gateway.main import (
    LATE_LOOK_S,
    NOTIFY_S,
    SPARE_FILES,
    Master,
    ServingProcess,
    with_open_files,
)
from torchrelay.shared.settings import GatewaySettings


@pytest.mark.parametrize("is_orphan", [True, False])
async def test_a_process_whose_arbiter_has_gone_stops(is_orphan: bool) -> None:
    told: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: told.append("stop"))
    try:
        worker = ServingProcess.__new__(ServingProcess)
        worker.ppid = -1 if is_orphan else os.getppid()
        worker.tmp = SimpleNamespace(notify=lambda: told.append("lives"))
        await worker.callback_notify()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told == (["stop", "lives"] if is_orphan else ["lives"])


def test_an_arbiter_that_stood_still_kills_no_process_for_its_silence() -> None:
    arbiter = Master.__new__(Master)
    arbiter.timeout = 4
    assert [arbiter.may_judge(float(now)) for now in range(7)] == [False] * 5 + [True] * 2
    woken_at = 7.0 + LATE_LOOK_S + 60
    assert [arbiter.may_judge(woken_at + now) for now in range(7)] == [False] * 5 + [True] * 2


def test_a_pause_of_the_whole_host_is_too_short_to_be_taken_for_a_hang_or_long_enough_to_be_seen() -> None:
    assert GatewaySettings().stuck_after_s > LATE_LOOK_S + NOTIFY_S


def test_a_process_may_open_as_many_files_as_it_may_have_connections() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1000 * 5 // 4 + SPARE_FILES
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (600, before[1]))
        assert with_open_files(GatewaySettings(connection_limit=1000)).connection_limit == 1000
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == wanted
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_where_that_cannot_be_it_has_fewer_connections(caplog: pytest.LogCaptureFixture) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (600, hard))
        limit = with_open_files(GatewaySettings(connection_limit=hard)).connection_limit
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert limit == (hard - SPARE_FILES) * 4 // 5
    assert "gateway.few_open_files" in caplog.text
