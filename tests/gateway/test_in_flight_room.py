"""Who may add to what is in flight, and that all of them come to an end."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.gateway.in_flight_room import LONG_WAIT_S, RESERVE_BYTES, WAIT_LIMIT_S, IncomingBody, Room
from torchrelay.shared import errors
from torchrelay.shared.settings import GatewaySettings


def test_a_body_counts_with_what_has_come_of_it() -> None:
    room = Room(800)
    announced = [IncomingBody(700) for _ in range(10)]
    for body in announced:
        assert room.grow(body, 0)
    assert room.held_bytes == 0
    room.take(800)
    with pytest.raises(errors.ServiceUnavailable, match="in_flight_limit_bytes"):
        room.take(1)


def test_a_body_takes_a_piece_only_while_its_rest_would_find_room() -> None:
    room = Room(800)
    first, second = IncomingBody(600), IncomingBody(600)
    assert room.grow(first, 100)
    assert room.grow(second, 100)
    assert room.grow(first, 1)
    assert not room.grow(second, 1), "499 are left of the 500 that it may still become"
    assert room.grow(first, 499)


def test_who_took_a_piece_last_is_always_read_to_its_end() -> None:
    room = Room(800)
    first, second = IncomingBody(600), IncomingBody(600)
    assert room.grow(first, 150)
    assert not room.grow(second, 1)
    for _ in range(45):
        assert room.grow(first, 10)
    room.wait(second, 1, now=0.0)
    assert list(room.settled(0.0)) == []
    room.close(first)
    assert list(room.settled(0.0)) == [(second, True)]
    assert room.held_bytes == 1


def test_a_body_waits_for_room_no_longer_than_its_client_waits_for_its_answer() -> None:
    room = Room(800, lambda: 7)
    room.take(200)
    body = IncomingBody(700, answer_by=2.0)
    assert not room.grow(body, 1)
    room.wait(body, 1, now=0.0)
    assert list(room.settled(1.9)) == []
    assert list(room.settled(2.0)) == [(body, False)]
    assert room.full().retry_after_s == 7


def test_who_has_nothing_yet_stands_behind_those_that_wait() -> None:
    room = Room(800)
    room.take(200)
    large, small = IncomingBody(700), IncomingBody(10)
    assert not room.grow(large, 1)
    room.wait(large, 1, now=0.0)
    assert not room.grow(small, 1)
    room.wait(small, 1, now=0.0)
    assert list(room.settled(1.0)) == []
    room.held_bytes -= 200
    assert [body for body, _ in room.settled(1.0)] == [large, small]


def test_a_body_that_finds_no_room_for_long_is_given_up_and_the_next_ones_turn_comes() -> None:
    room = Room(800)
    room.take(200)
    large, small = IncomingBody(700), IncomingBody(10)
    room.wait(large, 1, now=0.0)
    room.wait(small, 1, now=1.0)
    assert list(room.settled(WAIT_LIMIT_S - 1)) == []
    assert list(room.settled(WAIT_LIMIT_S)) == [(large, False), (small, True)]
    assert room.waiting == 0


def test_who_has_waited_long_is_counted() -> None:
    room = Room(800)
    room.take(800)
    for now in (0.0, 1.0, 2.0):
        room.wait(IncomingBody(10), 10, now=now)
    assert [room.waiting_long(LONG_WAIT_S + now) for now in (-0.1, 0.0, 1.0, 2.0)] == [0, 1, 2, 3]


def test_who_leaves_waits_no_more_and_gives_back_what_it_had() -> None:
    room = Room(800)
    body = IncomingBody(700)
    assert room.grow(body, 100)
    room.wait(body, 100, now=0.0)
    room.close(body)
    room.close(body)
    assert (room.waiting, room.held_bytes) == (0, 0)


def test_requests_that_come_whole_find_room_beside_large_ones() -> None:
    room = Room(10 * RESERVE_BYTES)
    body = IncomingBody(room.largest_body_bytes)
    assert room.grow(body, room.largest_body_bytes)
    room.take(RESERVE_BYTES)


@pytest.mark.parametrize("limit", [1, 6_553_500, 1_000_000_000, 2**31 - 1])
def test_the_largest_body_that_is_allowed_has_room_where_nobody_set_a_bound(limit: int) -> None:
    config = GatewaySettings(max_request_size=limit)
    assert Room(config.in_flight_bytes).largest_body_bytes >= limit


def test_a_bound_that_somebody_set_is_taken_as_it_is() -> None:
    assert GatewaySettings(in_flight_limit_bytes=5).in_flight_bytes == 5


@given(
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=12),
    known=st.lists(st.booleans(), min_size=12, max_size=12),
    random=st.randoms(use_true_random=False),
)
def test_all_bodies_are_read_to_their_end_within_the_bound_whatever_order_they_come_in(
    sizes: list[int], known: list[bool], random: Random
) -> None:
    room = Room(115)
    assert room.largest_body_bytes == 101
    rest = {
        IncomingBody(size if is_known else 100): size for size, is_known in zip(sizes, known, strict=False)
    }
    waiting: set[IncomingBody] = set()
    jobs: list[int] = []
    steps = 0
    while rest or jobs:
        steps += 1
        assert steps < 10_000, "they keep each other from their end"
        for body, has_room in room.settled(0.0):
            assert has_room
            waiting.discard(body)
            rest[body] -= body.wanted_bytes
        assert 0 <= room.held_bytes <= 101
        coming = [body for body in rest if body not in waiting]
        if jobs and (not coming or random.random() < 0.2):
            room.held_bytes -= jobs.pop()
        elif coming:
            body = random.choice(coming)
            if not rest[body]:
                size = body.held_bytes
                del rest[body]
                room.close(body)
                room.held_bytes += size
                jobs.append(size)
                continue
            piece = random.randint(1, rest[body])
            if room.grow(body, piece):
                rest[body] -= piece
            else:
                room.wait(body, piece, now=0.0)
                waiting.add(body)
