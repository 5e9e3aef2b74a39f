"""How requests are told apart and how long connections live: on a transport and clock of the test's own."""

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from tests.gateway.fakes import INFERENCE, FakeLink
from tests.gateway.loops import let_pass, on_a_loop, run_for, turns
from torchrelay.gateway.app import create_app
from torchrelay.gateway.http import framing
from torchrelay.gateway.http.client_pace import Unsent
from torchrelay.gateway.http.clients import Clients
from torchrelay.gateway.http.connection import (
    LINGER_LIMIT_BYTES,
    LINGER_LIMIT_S,
    LINGER_STEP_S,
    MORE_HEAD_LIMIT_BYTES,
    STEP_BYTES,
    GatewayProtocol,
)
from torchrelay.gateway.http.exchange import AsgiApp, ClientLeft, Receive, Scope, Send
from torchrelay.shared.settings import GatewaySettings

KEPT_S = 75
HEAD = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


class Transport(asyncio.Transport):
    """What a slow client's kernel would do is said by the test."""

    def __init__(self, protocol: GatewayProtocol) -> None:
        super().__init__({"sockname": ("127.0.0.1", INFERENCE)})
        self.protocol = protocol
        self.written = b""
        self.unsent_bytes = 0
        self.reads = True
        self.is_aborted = False
        self.is_half_closed = False
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Take what the test says."""

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return self._is_closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_half_closed = True

    def close(self) -> None:
        """End once all is sent."""
        if self._is_closing:
            return
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


class Echo:
    """Answers at once with what it was asked, and notes it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, list[bytes], bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            event = await receive()
            body += event["body"]
            more = event["more_body"]
        self.seen.append((scope["method"], scope["path"], list(scope["raw_headers"]), body))
        told = b"answer %d" % len(self.seen)
        headers = [(b"content-length", b"%d" % len(told))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": told})


class Refusing:
    """Answers at once with a status, whatever comes, and closes the connection unless told otherwise."""

    def __init__(self, *, closes: bool = True) -> None:
        self._more_headers = [(b"connection", b"close")] if closes else []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"0"), *self._more_headers]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body"})


#: Leaves how fast a client has to be out of it.
PATIENT = GatewaySettings(head_timeout_s=1e6, client_stall_s=1e6)


def clients(settings: GatewaySettings = PATIENT, waiting: Callable[[], int] = lambda: 0) -> Clients:
    return Clients(settings, Unsent(settings.unsent_bytes), waiting)


def connected(
    application: AsgiApp, among: Clients | None = None, state: ServerState | None = None
) -> tuple[GatewayProtocol, Transport]:
    config = Config(
        cast(Any, application),  # uvicorn has types of its own for scopes and messages
        interface="asgi3",
        timeout_keep_alive=KEPT_S,
        log_config=None,
    )
    config.load()
    protocol = GatewayProtocol(config, state or ServerState(), {"clients": among or clients()})
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
        await run_for(KEPT_S - 1)
        protocol.data_received(b"slow")
    assert not transport.is_closing()
    await run_for(KEPT_S - 1)
    assert not transport.is_closing()
    await run_for(2)
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
async def test_a_client_whose_large_body_was_taken_is_seen_to_leave_before_its_answer() -> None:
    application = Application()
    application.may_answer.clear()
    protocol, transport = connected(application)
    protocol.data_received(HEAD % 200_001 + b"x")
    protocol.data_received(b"x" * 200_000)
    assert not transport.reads
    await turns()
    assert (application.running, transport.reads) == (1, True)


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


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\n"
WEBSOCKET = b"Upgrade: websocket\r\nSec-WebSocket-Key: x\r\nConnection: keep-alive, upgrade\r\n"
SIZED = b"Content-Length: 9\r\n\r\nGET / HTT"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n5\r\nGET /\r\n4;x=1\r\n HTT\r\n0\r\n\r\n"
BEHIND = b"POST /behind HTTP/1.1\r\nHost: y\r\nContent-Length: 2\r\n\r\nok"


async def seen_of(*pieces: bytes) -> tuple[list[tuple[str, str, list[bytes], bytes]], Transport]:
    application = Echo()
    protocol, transport = connected(application)
    for piece in pieces:
        if not transport.is_closing():
            protocol.data_received(piece)
        await turns()
    await turns(5)
    return application.seen, transport


@pytest.mark.parametrize("offer", [H2C, WEBSOCKET, b"Connection: upgrade\r\n", b"Upgrade: h2c\r\n"])
@pytest.mark.parametrize(
    ("rest", "body"),
    [(SIZED, b"GET / HTT"), (CHUNKED, b"GET / HTT"), (b"\r\n", b""), (b"Content-Length: 0\r\n\r\n", b"")],
)
@on_a_loop
async def test_an_offered_upgrade_changes_nothing_however_the_request_is_cut(
    offer: bytes, rest: bytes, body: bytes
) -> None:
    first = b"POST /offer?a=b HTTP/1.1\r\nHost: x\r\n" + offer
    stream = first + rest + BEHIND + first + rest + first + rest + BEHIND
    offered = offer.replace(b"\r\n", b": ").split(b": ")[:-1]
    framing = rest.partition(b"\r\n\r\n")[0].split(b": ") if b": " in rest else []
    one = ("POST", "/offer", [b"Host", b"x", *offered, *framing], body)
    behind = ("POST", "/behind", [b"Host", b"y", b"Content-Length", b"2"], b"ok")
    cuts: Iterable[list[bytes]] = [
        [stream],
        [stream[i : i + 1] for i in range(len(stream))],
        *([stream[:cut], stream[cut:]] for cut in range(1, len(stream))),
    ]
    for pieces in cuts:
        seen, transport = await seen_of(*pieces)
        assert seen == [one, behind, one, one, behind], pieces
        assert transport.written.count(b"HTTP/1.1 200 OK") == 5
        assert not transport.is_closing()


@pytest.mark.parametrize(
    "last", [b"Connection: upgrade, close\r\nUpgrade: h2c\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n"]
)
@on_a_loop
async def test_what_ends_a_connection_does_so_beside_an_offer(last: bytes) -> None:
    version = b"1.1" if b"close" in last else b"1.0"
    seen, transport = await seen_of(b"POST /p HTTP/" + version + b"\r\n" + last + SIZED + BEHIND)
    assert [(path, body) for _, path, _, body in seen] == [("/p", b"GET / HTT")]
    assert transport.written.count(b"HTTP/1.1 ") == 1


@on_a_loop
async def test_connect_is_read_as_any_method_and_nothing_behind_it() -> None:
    stream = b"CONNECT /p HTTP/1.1\r\nHost: x\r\n" + SIZED + BEHIND
    for cut in range(1, len(stream)):
        seen, transport = await seen_of(stream[:cut], stream[cut:])
        assert [(method, path, body) for method, path, _, body in seen] == [("CONNECT", "/p", b"GET / HTT")]
        assert transport.is_closing() or transport.is_half_closed


@pytest.mark.parametrize(
    "framing", [b"Transfer-Encoding: gzip\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n"]
)
@on_a_loop
async def test_a_body_that_has_no_end_is_refused_beside_an_offer_as_without_one(framing: bytes) -> None:
    for offer in (b"", H2C):
        seen, transport = await seen_of(b"POST /p HTTP/1.1\r\n" + offer + framing + BEHIND)
        assert seen == []
        assert transport.written.startswith(b"HTTP/1.1 400 ")
        assert transport.written.count(b"HTTP/1.1 ") == 1


@on_a_loop
async def test_many_offers_in_one_piece_are_all_answered() -> None:
    one = b"GET /p HTTP/1.1\r\n" + H2C + b"\r\n"
    seen, _ = await seen_of(one * 2000)
    for _ in range(2000):
        await turns(1)
    assert len(seen) == 2000


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 3\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3",
        b"Content-Length: 3\r\nContent-Length: 3",
        b"Content-Length: 3, 3",
        b"Content-Length: +3",
        b"Content-Length: 3\r\n 3",
        b"Content-Length: 99999999999999999999",
        b"Content-Length:",
        b"Content-Length : 3",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: ,chunked",
        b"Transfer-Encoding: chunked,",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding:\r\n chunked",
        b"Transfer-Encoding : chunked",
        b"X: a\r\n b",
        b"X: a\nTransfer-Encoding: chunked",
        b"X: a\rTransfer-Encoding: chunked",
        b"X: a\r\r\nTransfer-Encoding: chunked",
        b"X: a\0b",
        b"no colon",
        b": no name",
        b"X\x01: y",
        b"Host: y",
    ],
)
@on_a_loop
async def test_a_head_that_others_may_read_otherwise_is_refused_and_ends_its_connection(
    framing: bytes,
) -> None:
    for offer in (b"", H2C):
        head = b"POST /p HTTP/1.1\r\nHost: x\r\n" + offer + framing + b"\r\n\r\n"
        seen, transport = await seen_of(head + b"3\r\nabc\r\n0\r\n\r\n" + BEHIND)
        assert seen == []
        assert transport.written.startswith(b"HTTP/1.1 400 ")
        assert transport.written.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "line", [b"GET /p", b"GET /p HTTP/0.9", b"GET /p HTTP/2.0", b"GET /p HTTP/1.2", b"GET /p\tHTTP/1.1"]
)
@on_a_loop
async def test_other_versions_are_no_requests(line: bytes) -> None:
    seen, transport = await seen_of(line + b"\r\nConnection: keep-alive\r\n\r\n" + BEHIND)
    assert seen == []
    assert transport.written.count(b"HTTP/1.1 400 ") == 1


@pytest.mark.parametrize(
    "chunk",
    [
        b"0x1\r\na",
        b"+1\r\na",
        b" 1\r\na",
        b"1 \r\na",
        b"1\na",
        b"1;x\na",
        b"1\r\nab",
        b"1%s1\r\n" % (b"0" * 16),
    ],
)
@on_a_loop
async def test_chunks_are_sized_in_one_way_alone(chunk: bytes) -> None:
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    seen, transport = await seen_of(head + chunk + b"\r\n0\r\n\r\n" + BEHIND)
    assert seen == []
    assert transport.written.count(b"HTTP/1.1 400 ") == 1


@on_a_loop
async def test_of_requests_sent_without_waiting_few_are_parsed_before_their_turn() -> None:
    application = Echo()
    protocol, transport = connected(application)
    protocol.pause_writing()  # nothing is answered before it is resumed
    protocol.data_received(b"GET /p HTTP/1.1\r\n\r\n" * 10_000)
    assert len(protocol._exchanges) < 250
    assert not transport.reads
    protocol.resume_writing()
    for _ in range(30_000):
        await turns(1)
        if transport.reads:
            break
    assert len(application.seen) == 10_000
    assert transport.written.count(b"HTTP/1.1 200 OK") == 10_000


@on_a_loop
async def test_a_large_read_is_taken_whole_wherever_bodies_end_in_it() -> None:
    bodies = [b"x" * size for size in (0, 1, 4000, 4095, 5000, 65_536, 70_000, 1, 0)]
    stream = b"".join(HEAD % len(body) + body for body in bodies)
    application = Echo()
    protocol, transport = connected(application)
    for _ in range(2):
        protocol.data_received(stream)
        for _ in range(100):
            await turns(1)
    assert [body for _, _, _, body in application.seen] == bodies * 2
    assert transport.reads


@on_a_loop
async def test_a_body_in_chunks_of_a_byte_lets_others_have_their_turn_between() -> None:
    application = Echo()
    protocol, transport = connected(application)
    protocol.data_received(b"POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    count, steps = 40_000, 0
    for last in (b"", b"0\r\n\r\n"):
        protocol.data_received(b"1\r\na\r\n" * count + last)
        while not transport.reads:
            came = protocol._came_bytes
            await turns(1)
            steps += 1
            assert protocol._came_bytes - came <= STEP_BYTES
    for _ in range(10):
        await turns(1)
    assert [body for _, _, _, body in application.seen] == [b"a" * count * 2]
    assert steps > 80
    # The next body is taken as if nothing had been.
    protocol.data_received(HEAD % 500_000 + b"x" * 500_000)
    for _ in range(10):
        await turns(1)
    assert transport.reads
    assert application.seen[-1][3] == b"x" * 500_000


@on_a_loop
async def test_what_follows_a_request_that_ends_its_connection_is_dropped_even_if_it_was_read() -> None:
    stream = b"GET /last HTTP/1.1\r\nConnection: close\r\n\r\n" + BEHIND * 1000
    seen, transport = await seen_of(stream)
    assert [path for _, path, _, _ in seen] == ["/last"]
    assert transport.is_half_closed
    await let_pass(LINGER_STEP_S + 1)
    await let_pass(LINGER_STEP_S + 1)
    assert transport.is_closing()


@on_a_loop
async def test_what_stands_behind_a_body_is_no_header_of_this_request_nor_of_the_next() -> None:
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    stream = head + b"1\r\na\r\n0\r\nAuthorization: late\r\nX: y\r\n\r\n" + BEHIND
    for cut in range(1, len(stream)):
        seen, _ = await seen_of(stream[:cut], stream[cut:])
        assert [headers for _, _, headers, _ in seen] == [
            [b"Host", b"x", b"Transfer-Encoding", b"chunked"],
            [b"Host", b"y", b"Content-Length", b"2"],
        ]
    assert not framing.TRAILERS


@pytest.mark.parametrize("endless", [b"GET /", b"GET /p HTTP/1.1\r\nX: ", b"GET /p HTTP/1.1\r\n"])
@on_a_loop
async def test_a_head_has_a_bound_though_it_never_ends(endless: bytes) -> None:
    piece = b"X: y\r\n" * 200 if endless.endswith(b"\n") else b"x" * 1000
    protocol, transport = connected(Echo())
    protocol.data_received(endless)
    sent = 0
    while not transport.written and sent < 10 * MORE_HEAD_LIMIT_BYTES:
        protocol.data_received(piece)
        sent += len(piece)
        await turns()
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    assert sent <= MORE_HEAD_LIMIT_BYTES + 2 * len(piece)


@pytest.mark.parametrize("endless", [b"0\r\nX: ", b"1;x="])
@on_a_loop
async def test_what_stands_around_chunks_has_a_bound(endless: bytes) -> None:
    protocol, transport = connected(Echo())
    protocol.data_received(b"POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n" + endless)
    for _ in range(12):
        protocol.data_received(b"x" * 1000)
    assert not transport.written
    protocol.data_received(b"x" * 1000)
    await turns()
    assert transport.written.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("chunk", "is_taken"),
    [
        (b"1\r\na\r\n", True),
        (b"001;a=b\r\na\r\n", True),
        (b"1;" + b"x" * 4000 + b"\r\na\r\n", False),
        (b"%b1\r\na\r\n" % (b"0" * 30), False),
    ],
)
@on_a_loop
async def test_chunks_are_more_than_what_stands_around_them(chunk: bytes, is_taken: bool) -> None:
    application = Echo()
    protocol, transport = connected(application)
    count = 1 + 100_000 // len(chunk)
    protocol.data_received(b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in (chunk * count, b"0\r\n\r\n"):
        protocol.data_received(piece)
        await turns(5)
    assert transport.written.startswith(b"HTTP/1.1 200 " if is_taken else b"HTTP/1.1 400 ")
    assert [body for _, _, _, body in application.seen] == ([b"a" * count] if is_taken else [])


@on_a_loop
async def test_what_cannot_be_parsed_is_refused_behind_the_answers_to_what_came_before() -> None:
    application = Application()
    application.may_answer.clear()
    protocol, transport = connected(application)
    protocol.data_received((HEAD % 1 + b"x") * 2 + b"NONSENSE\r\n\r\n")
    await turns()
    assert not transport.written
    application.may_answer.set()
    await turns(10)
    told = transport.written
    assert [told[i + 9 : i + 12] for i in range(len(told)) if told[i:].startswith(b"HTTP/1.1 ")] == [
        b"200",
        b"200",
        b"400",
    ]
    assert transport.is_half_closed


@on_a_loop
async def test_a_body_that_turns_into_nonsense_ends_who_waits_for_it() -> None:
    application = Application()
    protocol, transport = connected(application)
    protocol.data_received(b"POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    assert application.running == 1
    protocol.data_received(b"nonsense")
    await turns()
    assert (application.running, application.left) == (0, 1)
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    assert transport.is_half_closed


@on_a_loop
async def test_a_refused_body_is_read_to_its_end_so_that_the_refusal_can_be() -> None:
    protocol, transport = connected(Refusing())
    protocol.data_received(HEAD % 10_000_000_000 + b"x")
    assert transport.written.startswith(b"HTTP/1.1 503 ")
    assert transport.is_half_closed
    for _ in range(10):
        protocol.data_received(b"x" * 100_000)
        await let_pass(LINGER_STEP_S - 1)
        assert not transport.is_closing()
    await let_pass(2 * LINGER_STEP_S)
    await let_pass(LINGER_STEP_S)
    assert transport.is_closing()
    assert transport.written.count(b"HTTP/1.1 ") == 1


@on_a_loop
async def test_a_refused_body_is_not_read_for_ever() -> None:
    protocol, transport = connected(Refusing())
    protocol.data_received(HEAD % 10_000_000_000 + b"x")
    passed_s = 0.0
    while not transport.is_closing():
        protocol.data_received(b"x" * 100_000)
        await let_pass(1)
        passed_s += 1
        assert passed_s < 2 * LINGER_LIMIT_S
    assert passed_s > LINGER_LIMIT_S / 2


@on_a_loop
async def test_of_what_is_not_http_little_is_read() -> None:
    protocol, transport = connected(Refusing())
    protocol.data_received(b"NONSENSE\r\n\r\n")
    protocol.data_received(b"x" * LINGER_LIMIT_BYTES)
    assert not transport.is_closing()
    protocol.data_received(b"x")
    assert transport.is_closing()


@on_a_loop
async def test_a_connection_whose_client_waits_for_its_answer_is_closed_at_once_behind_it() -> None:
    protocol, transport = connected(Refusing())
    protocol.data_received(HEAD % 1 + b"x")
    assert transport.is_closing()


@on_a_loop
async def test_a_process_that_stops_does_not_wait_for_clients_that_have_their_answer() -> None:
    protocol, transport = connected(Refusing())
    protocol.data_received(HEAD % 1000 + b"x")
    protocol.shutdown()
    assert transport.is_closing()


@on_a_loop
async def test_a_body_that_is_dropped_behind_its_answer_keeps_the_connection_while_it_comes() -> None:
    protocol, transport = connected(Refusing(closes=False))
    protocol.data_received(HEAD % 1_000_000 + b"x")
    assert transport.written.startswith(b"HTTP/1.1 503 ")
    for _ in range(3):
        await run_for(KEPT_S - 1)
        protocol.data_received(b"x")
    assert not transport.is_closing()
    await run_for(KEPT_S - 1)
    await run_for(2)
    assert transport.is_closing()


@on_a_loop
async def test_a_process_that_stops_closes_behind_a_body_that_it_had_not_asked_for_yet() -> None:
    may_ask = asyncio.Event()

    async def asking_late(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        while not may_ask.is_set():
            await asyncio.sleep(0)
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    protocol, transport = connected(asking_late)
    protocol.data_received(b"POST /p HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
    protocol.shutdown()
    may_ask.set()
    await turns()
    protocol.data_received(b"x")
    await turns()
    assert b"HTTP/1.1 200 OK" in transport.written
    assert transport.is_closing()


class Unanswered(FakeLink):
    """Has nothing answered."""

    def _flush_soon(self) -> None:
        """Send nothing."""


PREDICTION = HEAD.replace(b"/p", b"/predictions/m").replace(b"Host: x", b"Host: localhost")


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (PREDICTION[:30],),
        (PREDICTION % 100,),
        (PREDICTION % 100, b"x"),
        (PREDICTION % 100 + b"x", b"more"),
        (PREDICTION % 200_000 + b"x", b"x" * 100_000),
        (PREDICTION % 1 + b"x",),
        ((PREDICTION % 1 + b"x") * 3,),
        (PREDICTION % 1 + b"xno HTTP\r\n\r\n",),
        (PREDICTION.replace(b"Host", b"Expect: 100-continue\r\nHost") % 100, b"x"),
        (PREDICTION.replace(b"Host", b"Connection: upgrade\r\nUpgrade: it\r\nHost") % 100, b"x"),
        (PREDICTION.replace(b"Host", b"Origin: http://evil\r\nHost") % 100, b"x"),
        (b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n",),
        (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n",),
    ],
)
@on_a_loop
async def test_a_connection_that_ends_goes_with_all_that_it_holds_and_not_when_the_collector_comes(
    pieces: tuple[bytes, ...],
) -> None:
    link = Unanswered(GatewaySettings())
    await link.start()
    protocol, transport = connected(create_app(link, GatewaySettings()))
    gc.disable()
    try:
        for piece in pieces:
            protocol.data_received(piece)
            await turns()
        ended = weakref.ref(protocol)
        transport.abort()
        await turns()
        del transport.protocol  # as asyncio's own do
        del protocol, transport
        assert ended() is None
    finally:
        gc.enable()
