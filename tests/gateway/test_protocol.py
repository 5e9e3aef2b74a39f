"""How long a connection is kept, and for whom: over a transport and a clock of the test's own."""

import asyncio
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from tests.gateway.loops import let_pass, on_a_loop, turns
from torchrelay.gateway.exchange import ClientLeft, Receive, Scope, Send
from torchrelay.gateway.protocol import STALLED_S, GatewayProtocol

KEPT_S = 75
HEAD = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


class Transport(asyncio.Transport):
    """What a slow client's kernel would do is said by the test."""

    def __init__(self, protocol: GatewayProtocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.written = b""
        self.unsent_bytes = 0
        self.reads = True
        self.is_aborted = False
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        """End once all is sent."""
        self._is_closing = True
        if not self.unsent_bytes:
            self.protocol.loop.call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.is_aborted = True
        self.unsent_bytes = 0
        self.close()


class Application:
    """Reads a body while it has room for it, and answers once it is told to."""

    def __init__(self, *, reads: bool = True) -> None:
        self._reads = reads
        self.running = 0
        self.left = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.running += 1
        try:
            while self._reads and (await receive())["more_body"]:
                pass
            while not self.may_answer.is_set():
                await asyncio.sleep(0)
        except ClientLeft:
            self.left += 1
            raise
        finally:
            self.running -= 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


def connected(application: Application) -> tuple[GatewayProtocol, Transport]:
    config = Config(
        cast(Any, application),  # uvicorn has types of its own for scopes and messages
        interface="asgi3",
        timeout_keep_alive=KEPT_S,
        log_config=None,
    )
    config.load()
    protocol = GatewayProtocol(config, ServerState(), {})
    transport = Transport(protocol)
    protocol.connection_made(transport)
    return protocol, transport


@on_a_loop
async def test_a_connection_without_a_request_is_closed_after_its_time_and_not_before() -> None:
    _, transport = connected(Application())
    await let_pass(KEPT_S - 1)
    assert not transport.is_closing()
    await let_pass(2)
    assert transport.is_closing()


@on_a_loop
async def test_a_connection_is_kept_from_its_last_answer_on() -> None:
    protocol, transport = connected(Application())
    await let_pass(KEPT_S - 1)
    protocol.data_received(HEAD % 1 + b"x")
    assert transport.written.endswith(b"ok")
    await let_pass(KEPT_S - 1)
    assert not transport.is_closing()
    await let_pass(2)
    assert transport.is_closing()


@on_a_loop
async def test_a_request_that_is_being_answered_keeps_its_connection_however_long_that_takes() -> None:
    application = Application()
    application.may_answer.clear()
    protocol, transport = connected(application)
    protocol.data_received(HEAD % 1 + b"x")
    for _ in range(5):
        await let_pass(KEPT_S)
    assert not transport.is_closing()
    application.may_answer.set()
    await turns()
    assert transport.written.endswith(b"ok")


@on_a_loop
async def test_a_body_that_stops_coming_ends_its_connection_and_who_waits_for_it() -> None:
    application = Application()
    protocol, transport = connected(application)
    protocol.data_received(HEAD % 100 + b"x")
    assert application.running == 1
    for _ in range(3):
        await let_pass(KEPT_S - 1)
        protocol.data_received(b"slow")
    assert not transport.is_closing()
    await let_pass(KEPT_S - 1)
    assert not transport.is_closing()
    await let_pass(2)
    assert transport.is_closing()
    assert (application.running, application.left) == (0, 1)


@on_a_loop
async def test_a_body_that_we_do_not_read_on_is_not_held_against_its_client() -> None:
    application = Application(reads=False)
    application.may_answer.clear()
    protocol, transport = connected(application)
    protocol.data_received(HEAD % 1_000_000 + b"x" * 100_000)
    assert not transport.reads
    for _ in range(3):
        await let_pass(KEPT_S)
    assert not transport.is_closing()


@on_a_loop
async def test_a_client_that_stops_reading_is_cut() -> None:
    protocol, transport = connected(Application())
    transport.unsent_bytes = 1000
    protocol.pause_writing()
    await let_pass(STALLED_S - 1)
    assert not transport.is_aborted
    await let_pass(2)
    assert transport.is_aborted


@on_a_loop
async def test_a_client_that_reads_slowly_is_waited_for_until_it_stops() -> None:
    protocol, transport = connected(Application())
    transport.unsent_bytes = 1000
    protocol.pause_writing()
    for _ in range(3):
        transport.unsent_bytes -= 1
        await let_pass(STALLED_S + 1)
        assert not transport.is_aborted
    await let_pass(STALLED_S + 1)
    assert transport.is_aborted


@on_a_loop
async def test_a_client_that_has_taken_all_is_watched_no_longer() -> None:
    protocol, transport = connected(Application())
    transport.unsent_bytes = 1000
    protocol.pause_writing()
    protocol.resume_writing()
    await let_pass(STALLED_S + 1)
    assert not transport.is_aborted


@on_a_loop
async def test_requests_behind_an_answer_that_is_not_read_wait_and_their_client_too() -> None:
    application = Application()
    protocol, transport = connected(application)
    protocol.pause_writing()
    protocol.data_received((HEAD % 1 + b"x") * 2)
    await turns()
    assert transport.written == b""
    assert not transport.reads
    protocol.resume_writing()
    await turns()
    assert transport.written.count(b"ok") == 2
    assert transport.reads
