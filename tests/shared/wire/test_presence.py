"""A peer's presence: what is due when, and when its broker counts as silent."""

from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire import presence
from torchrelay.shared.wire.presence import Presence

WELCOME = m.Welcome(beat_interval_ms=500, peer_timeout_ms=3000, beat=7)


def welcomed() -> Presence:
    one = Presence(10.0)
    one.be_welcomed(WELCOME, 3, 10.0)
    return one


def test_hellos_are_due_until_the_broker_welcomes_and_then_beats() -> None:
    one = Presence(10.0)
    assert [one.due(now) for now in (10.0, 10.1, 10.25)] == ["hello", None, "hello"]
    one.be_welcomed(WELCOME, 3, 10.3)
    assert (one.state, one.epoch, one.heard_beat) == ("welcomed", 3, 7)
    assert [one.due(now) for now in (10.7, 10.8, 11.2, 11.3)] == [None, "beat", None, "beat"]


def test_a_hello_that_went_nowhere_is_due_again_soon() -> None:
    one = Presence(10.0)
    one.due(10.0)
    one.hello_unsent(10.0)
    assert one.next_wake() == 10.0 + presence.UNSENT_INTERVAL_S


def test_a_broker_is_silent_after_its_timeout_whatever_it_said_last() -> None:
    one = welcomed()
    one.note(m.Beat(8), 11.0)
    assert one.heard_beat == 8
    assert [one.is_silent(now) for now in (13.9, 14.0)] == [False, True]
    one.note(m.Misunderstood("what"), 14.0)
    assert [one.is_silent(now) for now in (16.9, 17.0)] == [False, True]


def test_a_message_that_was_announced_may_take_its_time_and_no_more() -> None:
    one = welcomed()
    one.note(m.Announced(10 * presence.SLOWEST_BYTES_PER_S), 11.0)
    assert [one.is_silent(now) for now in (23.9, 24.0)] == [False, True]
    longest_s = presence.ANNOUNCED_LIMIT_BYTES / presence.SLOWEST_BYTES_PER_S
    assert presence.silence_s(m.Announced(1 << 62)) == longest_s


def test_who_is_not_welcomed_waits_for_nobody_and_says_hello_at_once() -> None:
    one = welcomed()
    one.greet("away", 13.0)
    assert (one.state, one.next_wake(), one.is_silent(99.0)) == ("away", 13.0, False)
    assert one.due(13.0) == "hello"


def test_only_large_messages_are_announced() -> None:
    half = bytes(presence.ANNOUNCED_ABOVE_BYTES // 2)
    assert presence.announcement(()) is None
    assert presence.announcement((half, half)) is None
    assert presence.announcement((half, half, b"x")) == m.Announced(presence.ANNOUNCED_ABOVE_BYTES + 1)
