"""Clients that are too slow, and too many: on transports and a clock of the test's own."""

from typing import cast

import pytest
from uvicorn.server import ServerState

from tests.gateway.http.test_connection import (
    HEAD,
    KEPT_S,
    Application,
    Echo,
    Refusing,
    Transport,
    clients,
    connected,
)
from tests.gateway.loops import let_pass, on_a_loop, turns
from torchrelay.gateway.http.client_pace import ClientBacklog, Unsent
from torchrelay.gateway.http.clients import MUCH_KEPT_BYTES, SWEEP_S, Clients
from torchrelay.gateway.http.connection import GatewayProtocol
from torchrelay.shared.settings import GatewaySettings

STRICT = GatewaySettings(head_timeout_s=30, client_least_rate=500, client_stall_s=60)
CHUNKED = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def seconds(count: int) -> None:
    for _ in range(count):
        await let_pass(1.0)


def busy(*, reads: bool = True) -> Application:
    """Make an application that answers once it may."""
    application = Application(reads=reads)
    application.may_answer.clear()
    return application


async def drip(protocol: GatewayProtocol, count: int, piece: bytes = b"x") -> None:
    """Send a piece a second."""
    for _ in range(count):
        await let_pass(1.0)
        protocol.data_received(piece)


def not_reading(unsent_bytes: int) -> tuple[GatewayProtocol, Transport]:
    """Connect a client that has left so much of its answers unread."""
    protocol, transport = connected(Application(), clients(STRICT))
    transport.unsent_bytes = unsent_bytes
    protocol.pause_writing()
    return protocol, transport


@on_a_loop
async def test_a_head_that_drips_is_answered_408_and_closed() -> None:
    protocol, transport = connected(Echo(), clients(STRICT))
    protocol.data_received(b"GET /p HTTP/1.1\r\nX: ")
    await drip(protocol, 29)
    assert not transport.written
    await seconds(3)
    assert transport.written.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert transport.is_half_closed


@on_a_loop
async def test_each_head_has_its_own_time_and_none_runs_while_nothing_comes() -> None:
    application = Echo()
    protocol, transport = connected(application, clients(STRICT))
    for _ in range(3):
        protocol.data_received(b"GET /p HTTP/1.1\r\n")
        await seconds(25)
        protocol.data_received(b"Host: x\r\n\r\n")
        await seconds(40)
    assert len(application.seen) == 3
    assert not transport.is_closing()


@pytest.mark.parametrize("head", [HEAD % 1_000_000, CHUNKED])
@on_a_loop
async def test_a_body_that_drips_is_answered_408_and_ends_who_waits_for_it(head: bytes) -> None:
    application = Application()
    protocol, transport = connected(application, clients(STRICT))
    protocol.data_received(head)
    assert application.running == 1
    for second in range(75):
        await let_pass(1.0)
        if not transport.written:
            protocol.data_received(b"1\r\nx\r\n" if head == CHUNKED else b"x" * 50)
        assert not transport.written or second > 58
    assert transport.written.startswith(b"HTTP/1.1 408 ")
    assert transport.written.count(b"HTTP/1.1 ") == 1
    assert (application.running, application.left) == (0, 1)


@pytest.mark.parametrize(
    ("begun", "still_s"), [(b"GET /p HTTP/1.1\r\nX: ", 40), (HEAD % 1_000_000 + b"x" * 1000, 10 * KEPT_S)]
)
@on_a_loop
async def test_a_time_in_which_the_gateway_stood_still_is_held_against_no_client(
    begun: bytes, still_s: float
) -> None:
    protocol, transport = connected(Application(), clients(STRICT))
    protocol.data_received(begun)
    await seconds(5)
    await let_pass(still_s)
    protocol.data_received(b"x")
    await seconds(3)
    assert not transport.written
    await seconds(60)
    assert transport.written.startswith(b"HTTP/1.1 408 ")


@on_a_loop
async def test_a_client_that_reads_is_not_cut_for_a_time_in_which_the_gateway_stood_still() -> None:
    _, transport = not_reading(1000)
    await seconds(20)
    await let_pass(90)
    await seconds(30)
    assert not transport.is_aborted
    await seconds(12)
    assert transport.is_aborted


@on_a_loop
async def test_a_slow_but_steady_body_is_taken_however_long_it_takes() -> None:
    application = Echo()
    protocol, _ = connected(application, clients(STRICT))
    protocol.data_received(HEAD % 600_000)
    await drip(protocol, 1000, b"x" * 600)
    await turns()
    assert len(application.seen[0][3]) == 600_000


@on_a_loop
async def test_a_body_that_nobody_reads_is_not_held_against_its_client() -> None:
    application = busy(reads=False)
    protocol, transport = connected(application, clients(STRICT))
    protocol.data_received(HEAD % 1_000_000 + b"x")
    await seconds(70)
    assert not transport.written
    application.may_answer.set()
    await turns()
    assert transport.written.endswith(b"ok")


@on_a_loop
async def test_a_body_that_drips_behind_its_answer_ends_its_connection_without_another_word() -> None:
    protocol, transport = connected(Refusing(closes=False), clients(STRICT))
    protocol.data_received(HEAD % 1_000_000 + b"x")
    await drip(protocol, 63)
    assert transport.is_closing()
    assert transport.written.count(b"HTTP/1.1 ") == 1


@on_a_loop
async def test_while_bodies_wait_for_room_the_slowest_gives_up_its_own() -> None:
    waiting = 0
    among = clients(STRICT, lambda: waiting)
    application = Application()
    lines = [connected(application, among) for _ in range(3)]
    for protocol, _ in lines:
        protocol.data_received(HEAD % 10_000_000 + b"x")
    rates = (2000, 1000, 30_000)
    for second in range(20):
        waiting = int(second == 15)
        await let_pass(1.0)
        for (protocol, transport), rate in zip(lines, rates, strict=True):
            if not transport.written:
                protocol.data_received(b"x" * rate)
                await turns()
    assert [transport.written[9:12] for _, transport in lines] == [b"", b"408", b""]


@on_a_loop
async def test_a_client_that_stops_reading_is_cut() -> None:
    _, transport = not_reading(1000)
    await seconds(59)
    assert not transport.is_aborted
    await seconds(3)
    assert transport.is_aborted


@on_a_loop
async def test_a_byte_read_now_and_then_renews_no_time() -> None:
    _, transport = not_reading(1_000_000)
    for _ in range(7):
        assert not transport.is_aborted
        transport.unsent_bytes -= 1
        await seconds(9)
    assert transport.is_aborted


@on_a_loop
async def test_a_client_that_reads_slowly_is_waited_for_until_it_stops() -> None:
    _, transport = not_reading(1_000_000)
    for _ in range(5):
        transport.unsent_bytes -= 50_000
        await seconds(50)
        assert not transport.is_aborted
    await seconds(65)
    assert transport.is_aborted


@on_a_loop
async def test_a_client_that_has_taken_all_is_watched_no_longer() -> None:
    protocol, transport = not_reading(1000)
    transport.unsent_bytes = 0
    protocol.resume_writing()
    await seconds(70)
    assert not transport.is_aborted


@on_a_loop
async def test_who_does_not_read_the_last_answer_of_a_connection_is_cut_all_the_same() -> None:
    protocol, transport = connected(Refusing(), clients(STRICT))
    transport.unsent_bytes = 1_000_000
    protocol.data_received(HEAD % 1 + b"x")
    protocol.pause_writing()
    assert transport.is_closing()
    await seconds(63)
    assert transport.is_aborted


@on_a_loop
async def test_an_idle_connection_whose_client_left_a_little_unread_is_not_kept_for_ever() -> None:
    _, transport = connected(Application(), clients(STRICT))
    transport.unsent_bytes = 1000
    await let_pass(KEPT_S + 1)
    assert transport.is_closing()
    await seconds(63)
    assert transport.is_aborted


@on_a_loop
async def test_of_answers_that_are_not_taken_the_slowest_go_first() -> None:
    among = clients(GatewaySettings(unsent_limit_bytes=1_000_000))
    lines = [connected(Application(), among) for _ in range(12)]
    for number, (protocol, transport) in enumerate(lines):
        transport.unsent_bytes = 100_000
        protocol.pause_writing()
        await let_pass(1.0)
        if number % 2:
            transport.unsent_bytes = 90_000
    gone = [number for number, (_, transport) in enumerate(lines) if transport.is_aborted]
    assert gone
    assert not any(number % 2 for number in gone)
    assert sum(transport.unsent_bytes for _, transport in lines) <= 1_000_000


@on_a_loop
async def test_requests_that_wait_behind_each_other_count_as_well() -> None:
    among = clients(GatewaySettings(unsent_limit_bytes=1_000_000))
    application = busy()
    lines = [connected(application, among) for _ in range(20)]
    for protocol, _ in lines:
        protocol.data_received(b"GET /p HTTP/1.1\r\n\r\n" * 5000)
        await let_pass(1.0)
    kept = sum(not transport.is_aborted for _, transport in lines)
    assert 1 <= kept <= 5
    application.may_answer.set()


def line(among: object, state: ServerState, application: object = None) -> tuple[GatewayProtocol, Transport]:
    return connected(application or Echo(), among, state)  # type: ignore[arg-type]  # shortened for the tests


@on_a_loop
async def test_for_one_connection_too_many_those_go_that_asked_for_nothing_and_then_the_idle() -> None:
    among, state = clients(GatewaySettings(connection_limit=4)), ServerState()
    busy_application = busy()
    answering = line(among, state, busy_application)
    answering[0].data_received(HEAD % 1 + b"x")
    idle = line(among, state)
    idle[0].data_received(HEAD % 1 + b"x")
    silent = line(among, state)
    dripping = line(among, state)
    dripping[0].data_received(b"GET ")
    everybody = [answering, idle, silent, dripping]

    def gone() -> list[bool]:
        return [transport.is_aborted for _, transport in everybody]

    assert gone() == [False, False, False, False]
    for expected in ([False, False, True, False], [False, False, True, True], [False, True, True, True]):
        await let_pass(1.0)
        new = line(among, state)
        new[0].data_received(HEAD % 1 + b"x")
        assert gone() == expected
        await turns()
    assert len(state.connections) == 4
    busy_application.may_answer.set()
    await turns()
    assert answering[1].written.endswith(b"ok")


@on_a_loop
async def test_where_all_are_being_answered_one_more_is_told_so() -> None:
    among, state = clients(GatewaySettings(connection_limit=2)), ServerState()
    application = busy()
    for _ in range(2):
        protocol, _ = line(among, state, application)
        protocol.data_received(HEAD % 1 + b"x")
    _, transport = line(among, state, application)
    assert transport.written.startswith(b"HTTP/1.1 503 ")
    assert b"connection_limit" in transport.written
    assert transport.is_closing()
    assert application.running == 2
    application.may_answer.set()


class Busy:
    """A client that is being answered, and counts how often it is asked for its rank."""

    def __init__(self) -> None:
        self.looks = 0

    def rank(self, _now: float) -> tuple[int, float] | None:
        self.looks += 1
        return None

    def drop(self) -> None:
        raise AssertionError("its request is being answered")


@on_a_loop
async def test_a_thousand_connections_too_many_look_at_the_others_a_few_times() -> None:
    among = clients(GatewaySettings(connection_limit=100))
    all_of_them = [Busy() for _ in range(101)]
    everybody = cast(list[GatewayProtocol], all_of_them)
    for number in range(1000):
        assert not among.make_room(everybody, everybody[-1], number / 10_000)
    assert sum(client.looks for client in all_of_them) <= 3 * 100
    idle, _ = connected(Echo(), among)
    assert among.make_room([idle, *everybody], everybody[-1], 0.2)


@on_a_loop
async def test_slow_bodies_go_for_others_before_idle_connections_do() -> None:
    among, state = clients(GatewaySettings(connection_limit=2)), ServerState()
    idle = line(among, state)
    idle[0].data_received(HEAD % 1 + b"x")
    slow = line(among, state, Application())
    slow[0].data_received(HEAD % 1000 + b"x")
    await seconds(10)
    line(among, state)
    assert (idle[1].is_aborted, slow[1].is_aborted) == (False, True)


@on_a_loop
async def test_nothing_runs_while_nobody_is_slow() -> None:
    among = clients(STRICT)
    protocol, _ = connected(Echo(), among)
    for _ in range(3):
        protocol.data_received(HEAD % 1 + b"x")
        assert among._timer is None
    protocol.data_received(b"GET ")
    assert among._timer is not None
    protocol.data_received(b"/p HTTP/1.1\r\n\r\n")
    await let_pass(SWEEP_S + 0.1)
    assert among._timer is None
    assert KEPT_S > SWEEP_S


class Buffers:
    """What is kept for a client, as the test says."""

    def __init__(self) -> None:
        self.held_bytes = 0

    def keep(self, one: ClientBacklog, now: float) -> list[ClientBacklog]:
        return []


@on_a_loop
async def test_memory_is_given_back_once_when_many_slow_clients_have_gone() -> None:
    given_back: list[int] = []
    buffers = Buffers()
    among = Clients(STRICT, cast(Unsent, buffers), lambda: 0, lambda: given_back.append(buffers.held_bytes))
    protocol, _ = connected(Echo(), among)
    for held_bytes in (MUCH_KEPT_BYTES // 2, 0, 2 * MUCH_KEPT_BYTES, MUCH_KEPT_BYTES):
        buffers.held_bytes = held_bytes
        protocol.data_received(b"GET /p HTTP/1.1\r\nX: " if not protocol._is_in_head else b"x")
        among.keep(cast(ClientBacklog, None), 0.0)
        await seconds(2)
    assert not given_back
    buffers.held_bytes = 1000
    await seconds(5)
    assert given_back == [1000]
