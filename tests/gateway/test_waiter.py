"""What a request awaits: refusals that hold nothing, tasks that are cancelled."""

import asyncio
import contextlib
import gc
import weakref

import pytest

from tests.gateway.fakes import FakeLink
from torchrelay.gateway.link import Link
from torchrelay.gateway.session import Answer
from torchrelay.gateway.waiter import Waiter
from torchrelay.shared import errors
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import messages as m


class Request:
    """Stands for all that a request holds while it waits."""


async def test_a_request_that_is_refused_goes_at_once_and_not_when_the_collector_comes() -> None:
    waiter = Waiter(Link(GatewaySettings()), Answer)
    waiter.tell(errors.ServiceUnavailable("full"))

    async def refused() -> weakref.ref[Request]:
        request = Request()
        with contextlib.suppress(errors.ServiceUnavailable):
            await waiter
        return weakref.ref(request)

    gc.disable()
    try:
        assert (await refused())() is None
    finally:
        gc.enable()


async def test_a_task_that_waits_can_be_cancelled_and_its_job_is_too() -> None:
    link = FakeLink(GatewaySettings(), lambda ask: m.HealthRead(ask.ask, healthy=True))
    await link.start()
    link._flush_soon = lambda: None  # type: ignore[method-assign]  # nothing is answered
    waiting: list[Waiter[Answer]] = []

    async def ask() -> None:
        waiting.append(link.submit("m", None, b"", ()))
        await waiting[0]

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    assert task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert link._session.waiting == 0
