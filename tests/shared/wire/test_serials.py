"""Numbered messages: nothing lost, nothing twice, whatever the connection does; bounded on both sides."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.serials import ROW_BITS, InOrder, Unheard

NEXT_ROW = 1 << ROW_BITS

Row = Unheard[m.Completed, bytes]


def say(row: Row, size: int = 1) -> m.Completed:
    message = m.Completed(row.latest, 0, (), serial=row.next_serial())
    row.keep(message, (b"x" * size,), size)
    return message


def serials(sent: Sequence[tuple[m.Completed, object]]) -> list[int]:
    return [message.serial for message, _ in sent]


def test_what_comes_in_order_counts_and_nothing_is_asked_for() -> None:
    heard = InOrder()
    assert [heard.takes(serial) for serial in (1, 2, 3)] == [True] * 3
    assert not heard.has_missed


def test_a_message_that_comes_again_does_not_count() -> None:
    heard = InOrder()
    heard.takes(1)
    assert not heard.takes(1)
    assert not heard.has_missed


def test_behind_a_gap_nothing_counts_and_it_is_asked_for_once() -> None:
    heard = InOrder()
    heard.takes(1)
    assert not heard.takes(3)
    assert heard.has_missed
    heard.has_missed = False
    assert not heard.takes(4)
    assert not heard.has_missed, "each of the messages that are on their way would be sent again many times"


def test_a_beat_tells_of_the_last_message_that_was_lost_and_asks_again_each_time() -> None:
    heard = InOrder()
    for _ in range(2):
        heard.told(1)
        assert heard.has_missed
        heard.has_missed = False
    assert heard.takes(1)
    heard.told(1)
    assert not heard.has_missed


def test_a_peer_that_numbers_nothing_is_heard() -> None:
    heard = InOrder()
    assert heard.takes(0)
    assert heard.takes(0)
    assert heard.latest == 0


def test_what_was_heard_is_kept_no_longer_and_the_rest_can_be_sent_again() -> None:
    row: Row = Unheard(10, 10)
    for _ in range(4):
        say(row)
    row.heard(2)
    assert serials(row.after(2)) == [3, 4]
    assert serials(row.after(3)) == [4]


def test_more_than_the_limits_is_not_kept_but_for_the_latest() -> None:
    row: Row = Unheard(3, 10)
    for _ in range(5):
        say(row)
    assert serials(row.kept) == [3, 4, 5]
    say(row, size=100)
    assert serials(row.kept) == [6]


def test_what_can_not_be_had_any_more_is_passed_over_by_a_new_row() -> None:
    row: Row = Unheard(2, 10)
    for _ in range(4):
        say(row)
    again = row.after(1)
    assert serials(again) == [NEXT_ROW + 1, NEXT_ROW + 2]
    heard = InOrder(1)
    assert [heard.takes(message.serial) for message, _ in again] == [True, True]
    assert say(row).serial == NEXT_ROW + 3


def test_asking_after_a_row_that_is_over_brings_the_present_one_unchanged() -> None:
    row: Row = Unheard(2, 10)
    for _ in range(3):
        say(row)
    first = serials(row.after(0))
    assert serials(row.after(0)) == first


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3)), max_size=40), st.integers(2, 6))
def test_whatever_is_lost_all_comes_once_and_in_order_as_long_as_it_is_kept(
    steps: list[tuple[bool, int]], limit: int
) -> None:
    """Each step says a few messages, which come or are lost; in the end a beat tells of the rest."""
    row: Row = Unheard(100, 1000)
    heard = InOrder()
    said: list[int] = []
    taken: list[int] = []

    def carry(message: m.Completed) -> None:
        if heard.takes(message.serial):
            taken.append(message.lease)

    def answer() -> None:
        if heard.has_missed:
            heard.has_missed = False
            for message, _ in row.after(heard.latest):
                carry(message)

    for arrives, count in steps:
        for _ in range(count):
            message = say(row)
            said.append(message.lease)
            if arrives:
                carry(message)
        answer()
        if len(said) % limit == 0:
            row.heard(heard.latest)
    heard.told(row.latest)
    answer()
    assert taken == said
