"""What an exchange writes and how it drives the application, over a connection of the test's own."""

import asyncio
from typing import Any

import pytest

from tests.gateway.loops import on_a_loop
from torchrelay.gateway.http.exchange import (
    AsgiApp,
    ClientLeft,
    CutShort,
    Exchange,
    Receive,
    Scope,
    Send,
)
from torchrelay.gateway.http.held_writes import PIECE_LIMIT_BYTES, HeldWrites

#: What two pieces of a body without a length are on the wire.
CHUNKS = b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        self.written.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


class Connection:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport = Transport()
        self.writes = HeldWrites()
        self.drained: asyncio.Future[None] | None = None
        self.unwritten_bytes = 0
        self.is_answered = False
        self.is_called_for_more = False

    def resume_reading(self) -> None:
        self.is_called_for_more = True

    def close(self) -> None:
        self.transport.close()

    def answered(self) -> None:
        self.is_answered = True


def begun(
    app: AsgiApp,
    *,
    method: str = "POST",
    version: str = "1.1",
    body: bytes | None = b"",
    connection: Connection | None = None,
) -> tuple[Exchange, Connection, Transport]:
    """An exchange on its way; `body` None has not come yet."""
    connection = connection or Connection()
    scope = {
        "method": method,
        "http_version": version,
        "path": "/",
        "headers": [(b"expect", b"100-Continue")],
        "keep_alive": True,
    }
    exchange = Exchange(connection, scope)
    if body is not None:
        exchange.feed(body)
        exchange.feed_end()
    exchange.run(app)
    transport = connection.transport
    assert isinstance(transport, Transport)
    return exchange, connection, transport


def saying(*pieces: bytes, headers: tuple[tuple[bytes, bytes], ...] = (), **start: Any) -> AsgiApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(headers), **start})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    return app


@on_a_loop
async def test_head_and_a_small_body_are_one_write() -> None:
    sized = ((b"content-length", b"2"),)
    _, connection, transport = begun(saying(b"ok", headers=sized, lines=b"x-more: 1\r\n", reason="Fine"))
    assert transport.written == [b"HTTP/1.1 200 Fine\r\ncontent-length: 2\r\nx-more: 1\r\n\r\nok"]
    assert connection.is_answered


@on_a_loop
async def test_a_large_body_is_not_copied_behind_its_head() -> None:
    body = b"x" * (PIECE_LIMIT_BYTES + 1)
    _, _, transport = begun(saying(body, headers=((b"content-length", b"%d" % len(body)),)))
    assert [len(piece) for piece in transport.written][1:] == [len(body)]


@on_a_loop
async def test_a_body_without_a_length_is_chunked_and_an_empty_piece_does_not_end_it() -> None:
    _, _, transport = begun(saying(b"one", b"", b"two"))
    head, _, body = b"".join(transport.written).partition(b"\r\n\r\n")
    assert head.endswith(b"transfer-encoding: chunked")
    assert body == CHUNKS


@on_a_loop
async def test_head_has_no_body_whatever_is_said() -> None:
    _, connection, transport = begun(saying(b"body"), method="HEAD")
    assert transport.written == [b"HTTP/1.1 200 OK\r\n\r\n"]
    assert connection.is_answered


@on_a_loop
async def test_a_response_that_closes_the_connection_does_so() -> None:
    _, _, transport = begun(saying(headers=((b"content-length", b"0"), (b"connection", b"close"))))
    assert transport.is_closed


@on_a_loop
async def test_pieces_that_are_held_are_one_write_and_come_before_the_end_of_the_connection() -> None:
    for said, is_last in ((), False), (((b"connection", b"close"),), True):
        connection = Connection()
        transport = connection.transport
        assert isinstance(transport, Transport)
        with connection.writes:
            begun(saying(b"one", b"two", headers=said), connection=connection)
            assert (bool(transport.written), transport.is_closed) == (is_last, is_last)
        assert [piece.partition(b"\r\n\r\n")[2] for piece in transport.written] == [CHUNKS]


@on_a_loop
async def test_a_bug_of_the_application_is_a_500_of_ours_and_the_end() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("a bug")

    _, _, transport = begun(app)
    assert transport.written[0].startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert transport.is_closed


@pytest.mark.parametrize("error", [KeyError("a bug"), CutShort()])
def test_a_failure_in_mid_body_closes_the_connection_without_an_end(error: Exception) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        raise error

    async def run() -> Transport:
        return begun(app)[2]

    transport = asyncio.run(run())
    assert b"".join(transport.written).endswith(b"\r\n\r\n3\r\none\r\n")
    assert transport.is_closed


@on_a_loop
async def test_a_response_that_never_starts_is_a_500() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    _, _, transport = begun(app)
    assert transport.written[0].startswith(b"HTTP/1.1 500 ")


@on_a_loop
async def test_a_body_is_received_as_it_comes_and_asked_for_only_when_it_is_wanted() -> None:
    received: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while not received or received[-1]["more_body"]:
            received.append(await receive())
        await saying(b"")(scope, receive, send)

    exchange, connection, transport = begun(app, body=None)
    assert transport.written == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    assert connection.is_called_for_more
    exchange.feed(b"one")
    exchange.wake()
    await asyncio.sleep(0)  # a turn of the loop
    exchange.feed_end()
    exchange.wake()
    await asyncio.sleep(0)
    assert [event["body"] for event in received] == [b"", b"one", b""]
    assert connection.is_answered


@on_a_loop
async def test_a_body_that_is_held_back_need_not_be_asked_for() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "http.request", "body": b"", "more_body": True}
        await saying(headers=((b"content-length", b"0"),))(scope, receive, send)

    exchange, _, transport = begun(app, body=None)
    assert transport.written == [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]
    assert transport.is_closed, "whether a body or a request comes next, nobody knows"
    assert not exchange.scope["keep_alive"]


@on_a_loop
async def test_a_body_that_was_asked_for_leaves_the_connection_as_it_was() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        await saying(headers=((b"content-length", b"0"),))(scope, receive, send)

    for is_asked_for in (False, True):
        exchange, _, transport = begun(app, body=None if is_asked_for else b"unasked")
        if is_asked_for:
            exchange.feed(b"asked")
            exchange.feed_end()
            exchange.wake()
            await asyncio.sleep(0)
        assert transport.written.count(b"HTTP/1.1 100 Continue\r\n\r\n") == is_asked_for
        assert not transport.is_closed


@on_a_loop
async def test_a_client_of_http_1_0_is_not_told_to_continue() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    _, connection, transport = begun(app, body=None, version="1.0")
    assert transport.written == []
    assert connection.is_called_for_more


@on_a_loop
async def test_a_client_that_leaves_ends_what_is_waited_for_and_hears_nothing_more() -> None:
    seen: list[str] = []
    never = asyncio.get_running_loop().create_future()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await never
        except ClientLeft:
            seen.append("left")
        await saying(b"for nobody")(scope, receive, send)

    exchange, _, transport = begun(app)
    exchange.leave()
    never.set_result(None)
    await asyncio.sleep(0)
    assert seen == ["left"]
    assert transport.written == []


@on_a_loop
async def test_a_slow_client_makes_the_application_wait() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)  # what needs a turn of the loop works, too
        await saying(b"one", b"two")(scope, receive, send)

    exchange, connection, transport = begun(app)
    connection.drained = connection.loop.create_future()
    await asyncio.sleep(0)
    assert b"two" not in b"".join(transport.written)
    assert exchange.is_running
    connection.drained.set_result(None)
    connection.drained = None
    await asyncio.sleep(0)
    assert connection.is_answered
