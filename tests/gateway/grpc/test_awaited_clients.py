"""Clients that keep their requests or answers: when they are ended, and when a process is."""

from torchrelay.gateway.grpc.awaited_clients import (
    BEGIN_S,
    LEAST_BYTES_PER_S,
    SHORT_WAIT_S,
    AwaitedClient,
    AwaitedClients,
    UnsentAnswer,
)

LARGEST = 10 * LEAST_BYTES_PER_S
PATIENCE_S = BEGIN_S + 10


def waiting(calls: AwaitedClients, since: float, *, is_stream: bool = False) -> AwaitedClient:
    call = AwaitedClient(lambda: None, since, is_stream)
    calls.wait_for(call)
    return call


def test_a_request_has_as_long_as_its_largest_size_needs_on_a_bad_connection() -> None:
    calls = AwaitedClients(10, 1000, 100, LARGEST)
    call, stream = waiting(calls, 0.0), waiting(calls, 0.0, is_stream=True)
    calls.sweep(PATIENCE_S - 0.1, 0)
    assert call.reason == ""
    calls.sweep(PATIENCE_S, 0)
    assert call.reason
    assert stream.reason == "", "on a stream nothing need come"


def test_what_has_come_is_ended_no_more_and_each_is_ended_once() -> None:
    calls = AwaitedClients(10, 1000, 100, LARGEST)
    cuts: list[str] = []
    first, second = AwaitedClient(lambda: cuts.append("a"), 0.0), AwaitedClient(lambda: cuts.append("b"), 0.0)
    calls.wait_for(first)
    calls.wait_for(second)
    calls.waits_no_more(first)
    for _ in range(3):
        calls.sweep(PATIENCE_S, 0)
    assert cuts == ["b"]


def test_places_are_made_by_ending_those_that_have_sent_nothing_for_a_while() -> None:
    calls = AwaitedClients(2, 1000, 100, LARGEST)
    old, stream, new = waiting(calls, 0.0), waiting(calls, 0.0, is_stream=True), waiting(calls, 2.0)
    calls.calls = 2
    assert calls.has_room(SHORT_WAIT_S)
    calls.calls = 3
    assert not calls.has_room(SHORT_WAIT_S)
    assert (bool(old.reason), bool(stream.reason), bool(new.reason)) == (True, True, False)


def test_memory_is_made_by_ending_those_that_are_being_sent_for_a_while() -> None:
    calls = AwaitedClients(10, 1000, 100, LARGEST)
    calls.sweep(0.0, 5000)
    old, new = waiting(calls, 0.0), waiting(calls, 2.0)
    calls.sweep(SHORT_WAIT_S, 6000)
    assert old.reason == ""
    calls.sweep(SHORT_WAIT_S, 6001)
    assert (bool(old.reason), new.reason) == (True, "")


def test_where_too_much_is_unsent_no_call_is_taken_and_when_it_stays_so_the_process_is_stuck() -> None:
    calls = AwaitedClients(10, 1000, 100, LARGEST)
    first, second = UnsentAnswer(100, 0.0), UnsentAnswer(1, 5.0)
    calls.send(first)
    assert calls.has_room(0.0)
    assert not calls.is_stuck(10_000.0)
    calls.send(second)
    assert not calls.has_room(5.0)
    assert not calls.is_stuck(BEGIN_S)
    assert calls.is_stuck(BEGIN_S + 1)
    calls.sent(first)
    assert calls.has_room(BEGIN_S + 1)
    assert not calls.is_stuck(BEGIN_S + 1)
    assert calls.unsent_bytes == 1
