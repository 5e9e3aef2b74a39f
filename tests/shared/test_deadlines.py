from math import inf

from hypothesis import given
from hypothesis import strategies as st

from torchrelay.shared import deadlines
from torchrelay.shared.deadlines import Deadlines


def test_what_is_due_is_taken_once_in_order_and_what_has_ended_is_not() -> None:
    open_keys = {1, 2, 4}
    found: Deadlines[int] = Deadlines(open_keys.__contains__)
    assert found.next == inf
    for at, key in ((3.0, 1), (1.0, 2), (2.0, 3), (9.0, 4)):
        found.add(at, key)
    assert found.next == 1.0
    assert found.take_due(0.9) == []
    assert found.take_due(3.0) == [2, 1]
    assert found.take_due(3.0) == []
    assert (found.next, len(found)) == (9.0, 1)


@given(st.lists(st.tuples(st.floats(0, 1000), st.booleans())), st.floats(0, 1000))
def test_exactly_what_is_open_and_due_is_taken(entries: list[tuple[float, bool]], now: float) -> None:
    found: Deadlines[int] = Deadlines(lambda key: entries[key][1])
    for key, (at, _) in enumerate(entries):
        found.add(at, key)
    due = [key for key, (at, is_open) in enumerate(entries) if is_open and at <= now]
    assert found.take_due(now) == sorted(due, key=lambda key: (entries[key][0], key))
    assert found.next > now


def test_what_has_ended_takes_no_more_room_than_what_has_not() -> None:
    """A client may say that it waits for a day, a million times a day."""
    newest = 0
    found: Deadlines[int] = Deadlines(lambda key: key > newest - 10)
    for newest in range(20 * deadlines.TIDY_LIMIT):
        found.add(86_400.0 + newest, newest)
        assert len(found) <= deadlines.TIDY_LIMIT
    assert set(range(newest - 9, newest + 1)) <= set(found.take_due(inf))


def test_many_that_are_open_are_all_kept() -> None:
    found: Deadlines[int] = Deadlines(lambda key: True)
    count = 5 * deadlines.TIDY_LIMIT
    for key in range(count):
        found.add(float(-key), key)
    assert found.take_due(inf) == list(reversed(range(count)))


def test_when_to_try_again_is_rounded_up_and_bounded() -> None:
    said = [deadlines.retry_after_s(backlog_s) for backlog_s in (0, 0.2, 1, 1.01, 7, 59.5, 3600, inf)]
    assert said == [1, 1, 1, 2, 7, 60, 60, 60]
