from hypothesis import given
from hypothesis import strategies as st

from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.presence import HELLO_INTERVAL_S, SLOWEST_BYTES_PER_S, UNSENT_INTERVAL_S
from torchrelay.worker.common.peer_session import PeerSession

WELCOME = m.Welcome(beat_interval_ms=500, peer_timeout_ms=3000, is_new=True)
ASSIGN = m.Assign(1, False, ())


def welcomed(now: float = 10.0, epoch: int = 3) -> PeerSession:
    session = PeerSession(now)
    assert session.due(now) == "hello"
    assert session.heard(WELCOME, epoch, now) == WELCOME
    return session


def test_hellos_go_out_every_quarter_of_a_second_until_a_welcome_comes() -> None:
    session = PeerSession(10.0)
    assert session.due(10.0) == "hello"
    assert session.due(10.2) is None
    assert session.next_wake() == 10.0 + HELLO_INTERVAL_S
    assert session.due(10.25) == "hello"
    session.heard(WELCOME, 3, 10.3)
    assert session.state == "welcomed"
    assert session.due(10.6) is None


def test_a_hello_that_found_no_connection_is_tried_again_soon() -> None:
    session = PeerSession(10.0)
    assert session.due(10.0) == "hello"
    session.hello_unsent(10.0)
    assert session.next_wake() == 10.0 + UNSENT_INTERVAL_S
    assert session.due(10.02) == "hello"


def test_beats_are_due_at_the_brokers_interval() -> None:
    session = welcomed(10.0)
    assert session.next_wake() == 10.5
    assert session.due(10.4) is None
    assert session.due(10.5) == "beat"
    assert session.due(10.9) is None
    assert session.due(11.0) == "beat"


def test_a_broker_that_is_silent_for_its_timeout_is_away() -> None:
    session = welcomed(10.0)
    assert session.due(12.9) == "beat"
    assert session.due(13.0) == "hello"
    assert session.state == "away"
    assert session.due(13.2) is None
    assert session.due(13.4) == "hello"


def test_a_broker_that_announced_a_large_message_may_be_silent_for_it() -> None:
    session = welcomed(10.0)
    assert session.heard(m.Announced(10 * SLOWEST_BYTES_PER_S), 3, 11.0) is None
    assert [(session.due(now), session.state)[1] for now in (23.9, 24.0)] == ["welcomed", "away"]


def test_what_is_heard_keeps_the_broker_here() -> None:
    session = welcomed(10.0)
    assert session.heard(m.Beat(), 3, 12.9) is None
    assert session.due(15.0) == "beat"


def test_a_broker_that_was_only_slow_is_taken_up_again() -> None:
    session = welcomed(10.0)
    session.due(14.0)
    assert session.heard(ASSIGN, 3, 14.1) == ASSIGN
    assert session.state == "welcomed"


def test_the_latest_beat_is_known_from_the_welcome_on() -> None:
    session = PeerSession(10.0)
    session.heard(m.Welcome(500, 3000, beat=4), 3, 10.0)
    assert session.heard_beat == 4
    session.heard(m.Beat(5), 3, 10.5)
    session.heard(m.Beat(9), 2, 10.6)
    assert session.heard_beat == 5


def test_messages_of_another_epoch_do_not_count() -> None:
    session = welcomed(epoch=3)
    for epoch in (0, 2, 4):
        assert session.heard(ASSIGN, epoch, 10.1) is None
    assert session.heard(ASSIGN, 3, 10.1) == ASSIGN


def test_a_welcome_of_an_older_broker_does_not_count() -> None:
    session = welcomed(epoch=3)
    assert session.heard(WELCOME, 2, 10.1) is None
    assert session.epoch == 3


def test_a_broker_that_asks_for_an_introduction_gets_one_at_once() -> None:
    session = welcomed(10.0)
    assert session.heard(m.IntroduceYourself(), 4, 10.1) is None
    assert session.heard(ASSIGN, 3, 10.1) is None
    assert session.due(10.1) == "hello"
    session.heard(m.IntroduceYourself(), 4, 10.15)
    assert session.due(10.2) is None
    session.heard(WELCOME, 4, 10.3)
    assert (session.epoch, session.state) == (4, "welcomed")


def test_a_welcome_of_a_new_epoch_is_new_whatever_it_says() -> None:
    session = welcomed(epoch=3)
    again = m.Welcome(500, 3000, is_new=False)
    assert session.heard(again, 4, 10.2) == m.Welcome(500, 3000, is_new=True)


def test_a_welcome_that_says_nothing_new_is_acted_on_once() -> None:
    session = welcomed(10.0)
    again = m.Welcome(500, 3000, is_new=False)
    session.due(14.0)
    assert session.heard(again, 3, 14.1) == again
    assert session.heard(again, 3, 14.2) is None
    assert session.heard(WELCOME, 3, 14.3) == WELCOME


def test_a_peer_without_a_place_is_told_so_even_before_it_is_welcomed() -> None:
    leave = m.Leave("no")
    assert PeerSession(0.0).heard(leave, 3, 0.1) == leave


messages = st.sampled_from(
    [WELCOME, m.Beat(), m.IntroduceYourself(), ASSIGN, m.Leave("x"), m.Misunderstood("y")]
)


@given(st.lists(st.tuples(messages, st.integers(1, 4), st.floats(0, 5)), max_size=40))
def test_whatever_comes_the_epoch_never_goes_back_and_something_is_always_due_in_time(
    steps: list[tuple[m.Message, int, float]],
) -> None:
    session, now, epoch = PeerSession(0.0), 0.0, 0
    for message, message_epoch, pause in steps:
        now += pause
        session.heard(message, message_epoch, now)
        assert session.epoch >= epoch
        epoch = session.epoch
        session.due(now)
        assert now < session.next_wake() <= now + 0.5
        assert (session.epoch > 0) or session.state == "greeting"
