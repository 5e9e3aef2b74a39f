from hypothesis import given
from hypothesis import strategies as st

from torchrelay.shared.wire import messages as m
from torchrelay.worker.common.peer_session import (
    HELLO_INTERVAL_S,
    UNSENT_INTERVAL_S,
    Batch,
    Leases,
    Session,
    State,
)

WELCOME = m.Welcome(beat_interval_ms=500, peer_timeout_ms=3000, is_new=True)
ASSIGN = m.Assign(1, False, ())


def welcomed(now: float = 10.0, epoch: int = 3) -> Session:
    session = Session(now)
    assert session.due(now) == "hello"
    assert session.heard(WELCOME, epoch, now) == WELCOME
    return session


def test_hellos_go_out_every_quarter_of_a_second_until_a_welcome_comes() -> None:
    session = Session(10.0)
    assert session.due(10.0) == "hello"
    assert session.due(10.2) is None
    assert session.next_wake() == 10.0 + HELLO_INTERVAL_S
    assert session.due(10.25) == "hello"
    session.heard(WELCOME, 3, 10.3)
    assert session.state is State.WELCOMED
    assert session.due(10.6) is None


def test_a_hello_that_found_no_connection_is_tried_again_soon() -> None:
    session = Session(10.0)
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
    assert session.state is State.AWAY
    assert session.due(13.2) is None
    assert session.due(13.4) == "hello"


def test_a_broker_that_announced_a_large_message_may_be_silent_for_it() -> None:
    session = welcomed(10.0)
    assert session.heard(m.Announced(10 * m.SLOWEST_BYTES_PER_S), 3, 11.0) is None
    assert [(session.due(now), session.state)[1] for now in (23.9, 24.0)] == [State.WELCOMED, State.AWAY]


def test_what_is_heard_keeps_the_broker_here() -> None:
    session = welcomed(10.0)
    assert session.heard(m.Beat(), 3, 12.9) is None
    assert session.due(15.0) == "beat"


def test_a_broker_that_was_only_slow_is_taken_up_again() -> None:
    session = welcomed(10.0)
    session.due(14.0)
    assert session.heard(ASSIGN, 3, 14.1) == ASSIGN
    assert session.state is State.WELCOMED


def test_the_latest_beat_is_known_from_the_welcome_on() -> None:
    session = Session(10.0)
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
    assert (session.epoch, session.state) == (4, State.WELCOMED)


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
    assert Session(0.0).heard(leave, 3, 0.1) == leave


messages = st.sampled_from(
    [WELCOME, m.Beat(), m.IntroduceYourself(), ASSIGN, m.Leave("x"), m.Misunderstood("y")]
)


@given(st.lists(st.tuples(messages, st.integers(1, 4), st.floats(0, 5)), max_size=40))
def test_whatever_comes_the_epoch_never_goes_back_and_something_is_always_due_in_time(
    steps: list[tuple[m.Message, int, float]],
) -> None:
    session, now, epoch = Session(0.0), 0.0, 0
    for message, message_epoch, pause in steps:
        now += pause
        session.heard(message, message_epoch, now)
        assert session.epoch >= epoch
        epoch = session.epoch
        session.due(now)
        assert now < session.next_wake() <= now + 0.5
        assert (session.epoch > 0) or session.state is State.GREETING


def batch(lease: int) -> Batch:
    return Batch(lease, False, [])


def sent(leases: Leases) -> list[m.Completed | m.Streamed]:
    messages = []
    while first := leases.first():
        messages.append(first[0])
        leases.sent()
    return messages


def test_batches_are_begun_in_the_order_they_came() -> None:
    leases = Leases()
    leases.assigned(batch(1))
    leases.assigned(batch(2))
    begun = [leases.next_batch(), leases.next_batch(), leases.next_batch()]
    assert [item and item.lease for item in begun] == [1, 2, None]


def test_a_lease_is_held_from_its_batch_until_its_answer_is_sent() -> None:
    leases = Leases()
    leases.assigned(batch(1))
    leases.assigned(batch(2))
    assert (leases.held, leases.has_waiting, leases.has_begun) == ((1, 2), True, False)
    leases.next_batch()
    assert (leases.held, leases.has_waiting, leases.has_begun) == ((1, 2), True, True)
    leases.completed(1, 7, (), [b"frame"])
    assert (leases.held, leases.has_begun) == ((1, 2), False)
    assert leases.first() == (m.Completed(1, 7, ()), [b"frame"])
    leases.sent()
    assert leases.held == (2,)


def test_parts_are_numbered_by_lease_and_the_answer_says_how_many_there_were() -> None:
    leases = Leases()
    leases.assigned(batch(1))
    leases.assigned(batch(2))
    leases.next_batch()
    leases.next_batch()
    part = (m.StreamedItem(0, b""),)
    for lease in (1, 2, 1):
        leases.streamed(lease, part, [])
    leases.completed(1, 0, (), [])
    leases.completed(2, 0, (), [])
    assert sent(leases) == [
        m.Streamed(1, part, 0),
        m.Streamed(2, part, 0),
        m.Streamed(1, part, 1),
        m.Completed(1, 0, (), 2),
        m.Completed(2, 0, (), 1),
    ]


def test_a_broker_that_holds_nothing_of_a_worker_makes_it_forget_all() -> None:
    leases = Leases()
    for lease in (1, 2, 3):
        leases.assigned(batch(lease))
    leases.next_batch()
    leases.next_batch()
    leases.completed(2, 0, (), [])
    leases.forget()
    leases.streamed(1, (), [])
    leases.completed(1, 0, (), [])
    assert (leases.held, leases.next_batch(), leases.first()) == ((), None, None)


def test_a_client_that_has_gone_is_remembered_as_long_as_its_job_is_open() -> None:
    leases = Leases()
    leases.assigned(batch(1))
    leases.cancelled(1, (0, 2))
    assert [leases.is_gone(1, index) for index in range(3)] == [True, False, True]
    leases.next_batch()
    leases.cancelled(1, (1,))
    assert all(leases.is_gone(1, index) for index in range(3))
    leases.completed(1, 0, (), [])
    leases.cancelled(1, (0,))  # it crossed the answer
    leases.cancelled(2, (0,))
    assert not leases.is_gone(1, 0)
    leases.assigned(batch(2))
    assert not leases.is_gone(2, 0)
    leases.cancelled(2, (0,))
    leases.forget()
    leases.assigned(batch(2))
    assert not leases.is_gone(2, 0)


def test_a_batch_that_comes_twice_is_held_once_whether_it_waits_or_was_begun() -> None:
    leases = Leases()
    leases.assigned(batch(1))
    leases.assigned(batch(1))
    assert leases.next_batch() == batch(1)
    leases.assigned(batch(1))
    assert leases.next_batch() is None
    assert leases.held == (1,)
