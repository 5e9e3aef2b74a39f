"""How fast clients have to be, and whom it hits when too much is kept for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.gateway.http.client_pace import (
    SLOW_AFTER_S,
    SLOW_BYTES_PER_S,
    ClientBacklog,
    ClientPace,
    Unsent,
)

MODEM_BYTES_PER_S = 4000


class Kept(ClientBacklog):
    def __init__(self, size: int) -> None:
        super().__init__(lambda: self.size, self._empty)
        self.size = size

    def _empty(self) -> None:
        self.size = 0


def test_who_stops_is_late_after_the_time_for_that_and_not_before() -> None:
    pace = ClientPace(500, 60, now=100.0)
    assert not pace.is_late(159.9)
    assert pace.is_late(160.1)


def test_a_byte_now_and_then_does_not_renew_the_time() -> None:
    pace = ClientPace(500, 60, now=0.0)
    for second in range(1, 62):
        pace.move(1, now=float(second))
    assert pace.is_late(61.0)


def test_what_was_fast_may_stop_no_longer_than_others() -> None:
    pace = ClientPace(500, 60, now=0.0)
    pace.move(100_000_000, now=1.0)
    assert not pace.is_late(60.9)
    assert pace.is_late(61.1)


def test_a_modem_may_send_100_mb_with_pauses() -> None:
    pace, now, left = ClientPace(500, 60, now=0.0), 0.0, 100_000_000
    while left > 0:
        now += 40.0  # the line is down
        assert not pace.is_late(now)
        for _ in range(60):
            now += 1.0
            pace.move(MODEM_BYTES_PER_S, now=now)
            left -= MODEM_BYTES_PER_S
            assert not pace.is_late(now)


def test_somebody_is_slow_by_what_moved_of_late() -> None:
    pace = ClientPace(500, 60, now=0.0)
    assert pace.slowness(SLOW_AFTER_S - 0.1) is None
    assert pace.slowness(10.0) == 0
    pace.move(100_000_000, now=1.0)
    slow_since = next(second for second in range(2, 60) if _is_slow(pace, float(second)))
    assert SLOW_AFTER_S < slow_since <= 3 * SLOW_AFTER_S
    for second in range(60, 80):
        pace.move(2 * SLOW_BYTES_PER_S, now=float(second))
    assert pace.slowness(80.0) is None


def _is_slow(pace: ClientPace, now: float) -> bool:
    pace.move(0, now=now)
    return pace.slowness(now) is not None


def test_the_slowest_are_cut_first_and_no_more_than_it_takes() -> None:
    unsent = Unsent(100)
    stopped, slow, fast = Kept(40), Kept(40), Kept(20)
    for one in (stopped, slow, fast):
        assert unsent.keep(one, 0.0) == []
    slow.size, fast.size = 39, 10
    new = Kept(20)
    assert unsent.keep(new, 10.0) == [stopped]
    stopped.cut()
    assert unsent.keep(stopped, 10.0) == []
    assert unsent.held_bytes == 69


def test_who_took_much_once_and_stopped_is_slower_than_who_goes_on() -> None:
    unsent = Unsent(100)
    stopped, slow = Kept(100), Kept(0)
    unsent.keep(stopped, 0.0)
    stopped.size = 45
    unsent.keep(stopped, 1.0)
    slow.size = 50
    for second in range(2, 30):
        slow.size -= 1
        assert unsent.keep(slow, float(second)) == []
        assert unsent.keep(stopped, float(second)) == []
    assert unsent.keep(Kept(60), 30.0) == [stopped]


def test_what_was_taken_meanwhile_counts_before_anybody_is_cut() -> None:
    unsent = Unsent(100)
    one, other = Kept(60), Kept(40)
    unsent.keep(one, 0.0)
    unsent.keep(other, 0.0)
    one.size = 10
    assert unsent.keep(Kept(50), 10.0) == []


def test_what_has_just_begun_is_cut_after_what_has_stopped() -> None:
    unsent = Unsent(100)
    stopped, new, newer = Kept(60), Kept(40), Kept(60)
    unsent.keep(stopped, 0.0)
    unsent.keep(new, 9.9)
    assert unsent.keep(newer, 10.0) == [stopped]


def test_an_answer_above_the_limit_is_not_cut_for_being_the_only_one() -> None:
    unsent = Unsent(100)
    assert unsent.keep(Kept(1000), 0.0) == []
    stopped = Kept(1)
    assert len(unsent.keep(stopped, 10.0)) == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60)), max_size=60))
def test_the_sum_is_that_of_what_is_kept_and_ends_within_the_limit(steps: list[tuple[int, int]]) -> None:
    unsent, kept = Unsent(100), [Kept(0) for _ in range(6)]
    for now, (number, size) in enumerate(steps):
        kept[number].size = size
        going = unsent.keep(kept[number], float(now))
        for one in going:
            one.cut()
        for one in going:
            assert unsent.keep(one, float(now)) == []
        assert unsent.held_bytes == sum(one.size for one in kept) <= 100


@pytest.mark.parametrize("count", [2, 50])
def test_of_many_at_once_all_but_what_fits_are_cut(count: int) -> None:
    unsent = Unsent(100)
    kept = [Kept(60) for _ in range(count)]
    for one in kept:
        for slowest in unsent.keep(one, 0.0):
            slowest.cut()
            unsent.keep(slowest, 0.0)
    assert unsent.held_bytes == 60
