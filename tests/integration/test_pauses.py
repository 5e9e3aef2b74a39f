"""Processes that stand still under load, as when a host swaps or a VM is stopped, and go on."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.integration.archives import make_store
from tests.integration.fleet import Fleet, fleet
from tests.integration.load import Load
from tests.integration.test_deaths import check
from tests.support import eventually, eventually_async

pytestmark = pytest.mark.integration

PAUSE_S = 8.0
#: More than a model's queue may hold.
BURST = 150


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet in parts: broker, gateway, one node."""
    with fleet(tmp_path, make_store(tmp_path / "models", "echo", "teller")) as made:
        made.broker()
        made.wait_until_up(made.gateway())
        made.node("one")
        eventually(lambda: made.status()["nodes"])
        yield made


@contextmanager
def stopped(pid: int) -> Iterator[float]:
    """Stop a process; gives the time at which it was."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield time.monotonic()
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_broker_that_stood_still_ends_no_worker_and_loses_no_request(parts: Fleet) -> None:
    parts.register("echo.mar", initial_workers=2)
    parts.register("teller.mar", initial_workers=2)
    before = {worker["pid"] for model in ("echo", "teller") for worker in parts.ready(model)}
    with Load(parts, "echo", clients=8) as load:
        eventually(lambda: load.sent > 100)
        with stopped(parts.processes[0].pid) as since:
            eventually(lambda: time.monotonic() - since > PAUSE_S, within_s=PAUSE_S + 5)
        sent = load.sent
        eventually(lambda: load.sent > sent + 100)
        # Longer than a silent worker was given.
        eventually(lambda: time.monotonic() - since > 2 * PAUSE_S)
    check(load)
    after = {worker["pid"] for model in ("echo", "teller") for worker in parts.ready(model)}
    assert after == before
    assert "broker.stood_still" in parts.output()


def test_what_came_while_the_broker_stood_still_is_let_in(parts: Fleet) -> None:
    parts.register("echo.mar", initial_workers=1)

    async def ask(client: httpx2.AsyncClient, number: int) -> bytes:
        headers = {"content-type": "application/octet-stream"}
        url = f"{parts.inference}/predictions/echo"
        response = await client.post(url, content=b"request %d" % number, headers=headers)
        return response.content

    async def burst() -> list[bytes]:
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(timeout=60, limits=limits) as client:
            with stopped(parts.processes[0].pid) as since:
                asked = [asyncio.create_task(ask(client, number)) for number in range(BURST)]
                await eventually_async(lambda: time.monotonic() - since > 2.0)
            return await asyncio.gather(*asked)

    assert asyncio.run(burst()) == [b"request %d" % number for number in range(BURST)]
