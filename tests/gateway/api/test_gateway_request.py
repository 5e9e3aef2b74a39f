"""Bodies are read within the limit of a body, and within the room that the process has for all of them."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from tests.gateway.fakes import FakeLink
from tests.gateway.loops import on_a_loop, turns
from torchrelay.gateway.api.gateway_request import Body, GatewayRequest
from torchrelay.gateway.in_flight_room import WAIT_LIMIT_S
from torchrelay.shared import clock, errors
from torchrelay.shared.settings import GatewaySettings


class Client:
    """A client that sends a body in pieces, and what reads it."""

    def __init__(self, link: FakeLink, pieces: Iterable[bytes], length: int | None = None) -> None:
        self._link = link
        self._pieces = list(pieces)
        self._length = length
        self.taken = 0

    async def _receive(self) -> dict[str, Any]:
        piece = self._pieces.pop(0)
        self.taken += 1
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}

    async def read(self, limit: int = 1000) -> Body:
        headers = [] if self._length is None else [(b"content-length", b"%d" % self._length)]
        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "query_string": b"",
            "headers": headers,
        }
        scope["headers_by_name"] = dict(headers)
        request = GatewayRequest(scope, self._receive, await self._receive())
        return await request.read_body(limit, self._link)


async def link_with_room(limit_bytes: int) -> FakeLink:
    link = FakeLink(GatewaySettings(in_flight_limit_bytes=limit_bytes))
    await link.start()
    return link


async def waiting_for_room() -> tuple[FakeLink, Client, asyncio.Task[Body]]:
    """Begin to read a body of 500 bytes where 300 of 800 are taken; it waits after its first piece."""
    link = await link_with_room(800)
    link._session.room.take(300)
    client = Client(link, [b"x" * 100] * 5, length=500)
    reading = asyncio.create_task(client.read())
    await turns()
    return link, client, reading


@on_a_loop
async def test_a_body_waits_for_room_and_is_then_read_on() -> None:
    link, client, reading = await waiting_for_room()
    room = link._session.room
    assert (client.taken, room.waiting, reading.done()) == (1, 1, False)
    room.held_bytes -= 300
    link._let_in(clock.monotonic())
    assert await reading == b"x" * 500
    assert room.held_bytes == 0


@on_a_loop
async def test_a_body_that_waits_in_vain_is_refused_and_forgotten() -> None:
    link, _, reading = await waiting_for_room()
    link._let_in(clock.monotonic() + WAIT_LIMIT_S + 1)
    with pytest.raises(errors.ServiceUnavailable, match="busy"):
        await reading
    assert (link._session.room.held_bytes, link._session.room.waiting) == (300, 0)


@on_a_loop
async def test_a_client_that_leaves_while_its_body_waits_gives_its_place_back() -> None:
    link, _, reading = await waiting_for_room()
    reading.cancel()
    await turns()
    assert reading.cancelled()
    assert link._session.room.waiting == 0
    link._let_in(clock.monotonic())


@on_a_loop
async def test_bodies_without_a_length_take_no_more_room_than_they_have() -> None:
    link = await link_with_room(1200)
    clients = [Client(link, [b"x" * 10] * 5) for _ in range(10)]
    assert await asyncio.gather(*(client.read() for client in clients)) == [b"x" * 50] * 10


@pytest.mark.parametrize("length", [None, 900])
@on_a_loop
async def test_a_body_that_could_never_have_room_is_refused_at_once(length: int | None) -> None:
    link = await link_with_room(800)
    client = Client(link, [b"x" * 90] * 10, length=length)
    with pytest.raises(errors.ServiceUnavailable) as refused:
        await client.read()
    assert "in_flight_limit_bytes" in refused.value.details
    assert (link._session.room.held_bytes, client.taken) == (0, 8 if length is None else 1)


@pytest.mark.parametrize("length", [None, 1001])
@on_a_loop
async def test_a_body_above_the_limit_is_refused_by_its_length_or_once_it_is(length: int | None) -> None:
    link = await link_with_room(10_000)
    client = Client(link, [b"x" * 100] * 20, length=length)
    with pytest.raises(errors.RequestTooLarge):
        await client.read()
    assert (link._session.room.held_bytes, client.taken) == (0, 11 if length is None else 1)
