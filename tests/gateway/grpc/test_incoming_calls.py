"""Calls whose request doesn't come: when they are ended, and for what."""

from torchrelay.gateway.grpc.incoming_calls import (
    BEGIN_S,
    LEAST_BYTES_PER_S,
    SHORT_WAIT_S,
    IncomingCall,
    IncomingCalls,
)

LARGEST = 10 * LEAST_BYTES_PER_S
PATIENCE_S = BEGIN_S + 10


def waiting(calls: IncomingCalls, since: float, *, is_stream: bool = False) -> IncomingCall:
    call = IncomingCall(lambda: None, since, is_stream)
    calls.wait(call)
    return call


def test_a_request_has_as_long_as_its_largest_size_needs_on_a_bad_connection() -> None:
    calls = IncomingCalls(10, 1000, LARGEST)
    call, stream = waiting(calls, 0.0), waiting(calls, 0.0, is_stream=True)
    calls.sweep(PATIENCE_S - 0.1, 0)
    assert call.reason == ""
    calls.sweep(PATIENCE_S, 0)
    assert call.reason
    assert stream.reason == "", "on a stream nothing need come"


def test_what_has_come_is_ended_no_more_and_each_is_ended_once() -> None:
    calls = IncomingCalls(10, 1000, LARGEST)
    cuts: list[str] = []
    first, second = IncomingCall(lambda: cuts.append("a"), 0.0), IncomingCall(lambda: cuts.append("b"), 0.0)
    calls.wait(first)
    calls.wait(second)
    calls.arrived(first)
    for _ in range(3):
        calls.sweep(PATIENCE_S, 0)
    assert cuts == ["b"]


def test_places_are_made_by_ending_those_that_have_sent_nothing_for_a_while() -> None:
    calls = IncomingCalls(2, 1000, LARGEST)
    old, stream, new = waiting(calls, 0.0), waiting(calls, 0.0, is_stream=True), waiting(calls, 2.0)
    calls.calls = 2
    assert calls.has_room(SHORT_WAIT_S)
    calls.calls = 3
    assert not calls.has_room(SHORT_WAIT_S)
    assert (bool(old.reason), bool(stream.reason), bool(new.reason)) == (True, True, False)


def test_memory_is_made_by_ending_those_that_are_being_sent_for_a_while() -> None:
    calls = IncomingCalls(10, 1000, LARGEST)
    calls.sweep(0.0, 5000)
    old, new = waiting(calls, 0.0), waiting(calls, 2.0)
    calls.sweep(SHORT_WAIT_S, 6000)
    assert old.reason == ""
    calls.sweep(SHORT_WAIT_S, 6001)
    assert (bool(old.reason), new.reason) == (True, "")
