"""When a process takes requests, and when not yet."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.gateway.fakes import LateLink
from tests.support import eventually_async
from torchrelay.gateway.app import create_app
from torchrelay.shared.settings import GatewaySettings


@asynccontextmanager
async def life(
    link: LateLink, config: GatewaySettings, is_told: Callable[[], bool]
) -> AsyncIterator[list[str]]:
    """Have a process live through its lifespan; what it has said of it so far."""
    said: list[str] = []
    orders: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    async def send(message: dict[str, str]) -> None:
        said.append(message["type"])

    scope = {"type": "lifespan", "state": {"is_told": is_told}}
    living = asyncio.ensure_future(create_app(link, config)(scope, orders.get, send))
    orders.put_nowait({"type": "lifespan.startup"})
    await eventually_async(lambda: link.has_started)
    yield said
    orders.put_nowait({"type": "lifespan.shutdown"})
    await living


KEYED = GatewaySettings(token_authorization=True)


async def test_where_keys_are_asked_for_it_listens_once_they_are_known() -> None:
    link = LateLink(KEYED)
    async with life(link, KEYED, lambda: False) as said:
        for _ in range(10):
            await asyncio.sleep(0)
        assert said == []
        link.is_up = True
        await eventually_async(lambda: said == ["lifespan.startup.complete"])


async def test_a_process_that_is_told_to_stop_waits_for_no_keys() -> None:
    async with life(LateLink(KEYED), KEYED, lambda: True) as said:
        await eventually_async(lambda: said == ["lifespan.startup.complete"])


async def test_without_keys_it_listens_at_once_and_what_comes_waits_for_the_broker() -> None:
    config = GatewaySettings()
    async with life(LateLink(config), config, lambda: False) as said:
        await eventually_async(lambda: said == ["lifespan.startup.complete"])


async def test_a_broker_that_stays_away_is_not_waited_for_without_end() -> None:
    link = LateLink(KEYED)
    await link.until_up(lambda: False, 0.0)
    assert not link.is_up
