"""The session's machine: what waits is settled once, whatever the broker does."""

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.gateway.facts import key
from torchrelay.gateway.in_flight_room import IncomingBody
from torchrelay.gateway.session import (
    ASK_LIMIT,
    LATE_GRACE_S,
    SUBMIT_LIMIT_JOBS,
    Answer,
    GatewaySession,
    Outcome,
    Pending,
)
from torchrelay.shared import errors
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import codec, messages, presence

EPOCH = 7
WELCOME = messages.Welcome(500, 3000)
CONFIG = GatewaySettings(broker_outage_limit_s=30.0)


class Named(Pending):
    """What waits, equal to what has the same name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


def make(config: GatewaySettings = CONFIG) -> GatewaySession[Named]:
    return GatewaySession(config, name="host", pid=1, now=0.0)


def welcomed(config: GatewaySettings = CONFIG) -> GatewaySession[Named]:
    session = make(config)
    session.hear(WELCOME, EPOCH, (), now=0.0)
    drain(session)
    return session


def submit(
    session: GatewaySession[Named],
    name: str,
    *,
    now: float = 0.0,
    meta: bytes = b"m",
    frames: Sequence[bytes] = (),
) -> int:
    return submitted(session, name, now=now, meta=meta, frames=frames).number


def submitted(
    session: GatewaySession[Named],
    name: str,
    *,
    now: float = 0.0,
    meta: bytes = b"m",
    frames: Sequence[bytes] = (),
    answer_by: float | None = None,
) -> Named:
    pending = Named(name)
    session.submit(pending, "model", None, meta, frames, is_describe=False, answer_by=answer_by, now=now)
    return pending


def drain(session: GatewaySession[Named], now: float = 0.0) -> list[Any]:
    return [message for message, _ in session.outgoing(now)]


def jobs_in(sent: list[Any]) -> list[int]:
    return [item.job for message in sent if isinstance(message, messages.Submit) for item in message.items]


def answered(*jobs: int) -> messages.Answered:
    return messages.Answered(tuple(messages.AnsweredItem(job, b"meta") for job in jobs))


def scale() -> messages.ScaleWorkers:
    return messages.ScaleWorkers(0, "model", None, 1, 1, True)


# Keys


KEYED = messages.Welcome(500, 3000, asks_for_keys=True)


def test_what_waited_for_a_broker_that_has_keys_is_never_sent() -> None:
    """It was let in by a gateway that had not been told to ask for any."""
    session = make()
    assert not session.asks_for_keys
    submit(session, "predicts")
    session.ask(Named("registers"), messages.RegisterModel(0, "http://evil.example/m.mar"), now=0.0)
    settled = session.hear(KEYED, EPOCH, (), now=0.0)
    assert [pending.name for pending, _ in settled] == ["predicts", "registers"]
    assert {type(outcome) for _, outcome in settled} == {errors.ServiceUnavailable}
    assert session.asks_for_keys
    assert [type(message) for message in drain(session)] == [messages.GatewayBeat]
    assert session.waiting == 0


def test_a_broker_that_comes_back_with_keys_gets_nothing_that_came_before() -> None:
    session = welcomed()
    sent, unsent = submit(session, "sent"), None
    drain(session)
    unsent = submit(session, "unsent")
    session.lose(1.0)
    settled = session.hear(KEYED, EPOCH + 1, (), now=2.0)
    assert {pending.number for pending, _ in settled} == {sent, unsent}
    assert jobs_in(drain(session, 2.0)) == []
    assert session.asks_for_keys


def test_where_keys_were_asked_for_all_along_what_waits_is_sent_again() -> None:
    session = make(GatewaySettings(token_authorization=True))
    assert session.asks_for_keys
    waiting = submit(session, "held")
    assert session.hear(KEYED, EPOCH, (), now=0.0) == []
    assert jobs_in(drain(session)) == [waiting]
    session.lose(1.0)
    assert session.hear(KEYED, EPOCH + 1, (), now=1.0) == []
    assert jobs_in(drain(session, 1.0)) == [waiting]


def test_a_gateway_that_was_told_to_ask_for_keys_does_so_whatever_the_broker_has() -> None:
    session = make(GatewaySettings(token_authorization=True))
    session.hear(WELCOME, EPOCH, (), now=0.0)
    assert session.asks_for_keys
    assert not session.has_broker_keys


def test_a_gateway_that_was_told_nothing_does_as_its_broker() -> None:
    session = make()
    session.hear(KEYED, EPOCH, (), now=0.0)
    session.lose(1.0)
    assert session.asks_for_keys  # while it is away nothing changes
    session.hear(WELCOME, EPOCH + 1, (), now=1.0)
    assert not session.asks_for_keys


def test_keys_that_were_long_on_their_way_end_in_time() -> None:
    session = make()
    drain(session, 0.0)
    told = messages.KeysChanged((key("inference", "k", 3000),))
    session.hear(KEYED, EPOCH, (), now=4.0)
    session.hear(told, EPOCH, (), now=4.5)
    assert not session.keys.opens("inference", "k", now=4.5)
    session.hear(messages.KeysChanged((key("inference", "new", 3000),)), EPOCH, (), now=10.0)
    assert session.keys.opens("inference", "new", now=12.5)


def test_wrong_keys_are_told_with_the_next_beat_and_once() -> None:
    session = welcomed()
    session.count_wrong_key()
    session.count_wrong_key()
    assert drain(session, 0.5)[-1] == messages.GatewayBeat({}, wrong_keys=2)
    assert drain(session, 1.0)[-1] == messages.GatewayBeat({})


# Joining


def test_it_says_hello_at_once_and_again_until_it_is_welcomed() -> None:
    session = make()
    assert isinstance(drain(session, 0.0)[0], messages.HelloGateway)
    assert drain(session, 0.2) == []
    assert len(drain(session, 0.25)) == 1
    session.hear(WELCOME, EPOCH, (), now=0.3)
    assert (session.state, session.epoch) == ("welcomed", EPOCH)
    assert not any(isinstance(message, messages.HelloGateway) for message in drain(session, 1.0))


def test_requests_wait_for_the_first_welcome() -> None:
    session = make()
    job = submit(session, "a")
    assert jobs_in(drain(session)) == []
    session.hear(WELCOME, EPOCH, (), now=1.0)
    assert jobs_in(drain(session, 1.0)) == [job]


def test_a_second_welcome_of_the_same_broker_sends_nothing_again() -> None:
    session = welcomed()
    submit(session, "a")
    drain(session)
    session.hear(WELCOME, EPOCH, (), now=0.1)
    assert jobs_in(drain(session)) == []


def test_beats_carry_responses_and_what_has_waited_too_long() -> None:
    session = welcomed()
    job = submit(session, "a", now=1.0)
    session.ask(Named("b"), scale(), now=1.0)
    session.count_response(200)
    session.count_response(204)
    session.count_response(503)
    first = drain(session, 1.0)[-1]
    assert first == messages.GatewayBeat({"2xx": 2, "5xx": 1})
    assert drain(session, 4.0)[-1] == messages.GatewayBeat({}, (job,), (job + 1,))


# Grouping


def test_whoever_reads_metrics_finds_every_answer_that_has_gone_out_before() -> None:
    session = welcomed()
    drain(session)
    session.count_response(200)
    session.count_response(999)
    session.ask(Named("scraper"), messages.ReadMetrics(0), now=0.0)
    counts, read = drain(session)
    assert counts == messages.GatewayBeat({"2xx": 1, "5xx": 1})
    assert isinstance(read, messages.ReadMetrics)
    assert drain(session) == []


def test_answers_from_before_the_fleet_was_there_do_not_count_those_of_an_outage_do() -> None:
    session = make()
    session.count_response(503)
    session.hear(messages.Welcome(500, 3000), 1, (), now=0.0)
    assert drain(session, 1.0)[-1] == messages.GatewayBeat({})
    session.lose(1.0)
    session.count_response(503)
    session.hear(messages.Welcome(500, 3000), 2, (), now=2.0)
    assert drain(session, 2.0)[-1] == messages.GatewayBeat({"5xx": 1})


def test_jobs_of_one_turn_leave_in_one_message() -> None:
    session = welcomed()
    jobs = [submit(session, str(number)) for number in range(SUBMIT_LIMIT_JOBS)]
    (message,) = drain(session)
    assert jobs_in([message]) == jobs


def test_it_has_enough_to_send_only_where_there_is_a_broker_to_take_it() -> None:
    session = make()
    jobs = [submitted(session, str(number)) for number in range(SUBMIT_LIMIT_JOBS)]
    assert not session.has_enough_to_send
    session.hear(WELCOME, EPOCH, (), now=0.0)
    assert session.has_enough_to_send
    drain(session)
    assert not session.has_enough_to_send
    for number, job in enumerate(jobs):
        assert not session.has_enough_to_send, number
        session.forget(job)
    assert session.has_enough_to_send


@pytest.mark.parametrize(("in_flight", "enough"), [(0, 8), (16, 8), (48, 16), (96, 32), (1000, 64)])
def test_it_has_enough_with_a_few_jobs_or_with_a_part_of_those_in_flight(in_flight: int, enough: int) -> None:
    session = welcomed()
    for number in range(in_flight):
        submit(session, str(number))
    drain(session)
    for number in range(enough - 1):
        submit(session, str(number))
        assert not session.has_enough_to_send
    submit(session, "the last")
    assert session.has_enough_to_send


def test_a_submit_is_bounded_in_jobs_bytes_and_frames() -> None:
    session = welcomed()
    for number in range(SUBMIT_LIMIT_JOBS + 1):
        submit(session, str(number))
    assert [len(message.items) for message in drain(session)] == [SUBMIT_LIMIT_JOBS, 1]
    for number in range(3):
        submit(session, str(number), meta=b"x" * 100_000)
    assert [len(message.items) for message in drain(session)] == [2, 1]
    for number in range(3):
        submit(session, str(number), frames=[b"f"] * (codec.FRAMES_LIMIT // 2))
    sent = list(session.outgoing(0.0))
    assert [len(frames) for _, frames in sent] == [codec.FRAMES_LIMIT, codec.FRAMES_LIMIT // 2]


def test_asks_get_numbers_of_their_own() -> None:
    session = welcomed()
    session.ask(Named("a"), scale(), now=0.0)
    session.ask(Named("b"), scale(), now=0.0)
    assert [message.ask for message in drain(session)] == [1, 2]


# Answers


def test_an_answer_settles_its_job_once() -> None:
    session = welcomed()
    job = submit(session, "a")
    drain(session)
    reply = messages.Answered((messages.AnsweredItem(job, b"meta", 1), messages.AnsweredItem(99, b"", 1)))
    assert session.hear(reply, EPOCH, [b"one", b"two"], now=0.1) == [(Named("a"), Answer(b"meta", (b"one",)))]
    assert session.hear(reply, EPOCH, [b"one", b"two"], now=0.1) == []
    assert session.waiting == 0


def test_refusals_are_rebuilt_as_errors() -> None:
    session = welcomed()
    job = submit(session, "a")
    session.ask(Named("b"), scale(), now=0.0)
    refused = messages.Refused((messages.RefusedItem(job, "ModelNotFound", "no model", ""),))
    ((waiter, error),) = session.hear(refused, EPOCH, (), now=0.0)
    assert (waiter, type(error), str(error)) == (Named("a"), errors.ModelNotFound, "no model")
    ((waiter, error),) = session.hear(
        messages.AskRefused(job + 1, "Conflict", "taken", ""), EPOCH, (), now=0.0
    )
    assert (waiter, type(error)) == (Named("b"), errors.Conflict)


def test_a_reply_settles_its_ask() -> None:
    session = welcomed()
    session.ask(Named("a"), messages.ReadHealth(0), now=0.0)
    reply = messages.HealthRead(1, True)
    assert session.hear(reply, EPOCH, (), now=0.0) == [(Named("a"), reply)]


def test_a_reply_in_parts_settles_its_ask_with_the_last_one() -> None:
    session = welcomed()
    session.ask(Named("a"), messages.ReadMetrics(0), now=0.0)
    some, others = (messages.MetricFamily(name, "gauge", "help", ()) for name in "ab")
    first = messages.MetricsRead(1, (some,), is_last=False)
    last = messages.MetricsRead(1, (others,), 1)
    assert session.hear(first, EPOCH, (), now=0.0) == []
    assert session._waiting
    whole = messages.MetricsRead(1, (some, others))
    assert session.hear(last, EPOCH, (), now=0.0) == [(Named("a"), whole)]
    assert session.hear(first, EPOCH, (), now=0.0) == []
    assert session._reply_parts._parts == {}


def test_what_has_come_of_a_reply_is_dropped_with_its_ask() -> None:
    session = welcomed()
    session.ask(Named("a"), messages.ReadFleet(0), now=0.0)
    assert session.hear(messages.FleetRead(1, 1, 0.0, 1, (), (), is_last=False), EPOCH, (), now=0.0) == []
    session.settle_all(errors.InternalError("x"))
    assert session._reply_parts._parts == {}


def test_answers_of_another_epoch_are_dropped() -> None:
    session = welcomed()
    job = submit(session, "a")
    assert session.hear(answered(job), EPOCH - 1, (), now=0.0) == []
    assert session.waiting == 1


def test_frames_that_do_not_add_up_are_a_wire_error_and_settle_nothing() -> None:
    session = welcomed()
    job = submit(session, "a")
    with pytest.raises(codec.WireError):
        session.hear(answered(job), EPOCH, [b"stray"], now=0.0)
    assert session.waiting == 1


# Clients that leave


def test_a_client_that_leaves_is_told_to_the_broker_if_it_knows_the_job() -> None:
    session = welcomed()
    sent = submitted(session, "a")
    drain(session)
    unsent = submitted(session, "b")
    for gone in (sent, unsent, sent):
        session.forget(gone)
    assert drain(session) == [messages.Cancel((sent.number,))]
    assert session.waiting == 0


def test_a_change_goes_on_without_the_client_that_asked_for_it() -> None:
    session = welcomed()
    asked = Named("a")
    session.ask(asked, scale(), now=0.0)
    drain(session)
    session.forget(asked)
    assert (drain(session), session.waiting) == ([], 0)


# Answers in parts


def part(job: int, number: int, *, is_final: bool = False) -> messages.Answered:
    return messages.Answered((messages.AnsweredItem(job, b"%d" % number, 0, is_final, number),))


def test_parts_come_one_by_one_and_the_last_one_settles() -> None:
    session = welcomed()
    job = submit(session, "a")
    drain(session)
    for number in (0, 1):
        assert session.hear(part(job, number), EPOCH, (), now=0.0) == [
            (Named("a"), Answer(b"%d" % number, (), False))
        ]
        assert session.waiting == 1
    assert session.hear(part(job, 2, is_final=True), EPOCH, (), now=0.0) == [(Named("a"), Answer(b"2", ()))]
    assert session.waiting == 0


def test_a_part_that_comes_twice_counts_once() -> None:
    session = welcomed()
    job = submit(session, "a")
    drain(session)
    session.hear(part(job, 0), EPOCH, (), now=0.0)
    assert session.hear(part(job, 0), EPOCH, (), now=0.0) == []
    assert session.waiting == 1


def test_a_part_that_is_missing_ends_the_answer_and_cancels_the_rest() -> None:
    session = welcomed()
    job = submit(session, "a")
    drain(session)
    session.hear(part(job, 0), EPOCH, (), now=0.0)
    ((waiter, error),) = session.hear(part(job, 2), EPOCH, (), now=0.0)
    assert (waiter, type(error)) == (Named("a"), errors.BrokerUnreachable)
    assert drain(session) == [messages.Cancel((job,))]
    assert session.waiting == 0


@pytest.mark.parametrize("epoch", [EPOCH, EPOCH + 1])
def test_an_answer_that_has_begun_is_not_begun_again(epoch: int) -> None:
    session = welcomed()
    job = submit(session, "a")
    untouched = submit(session, "b")
    drain(session)
    session.hear(part(job, 0), EPOCH, (), now=0.0)
    session.tick(3.0)
    ((waiter, error),) = session.hear(WELCOME, epoch, (), now=3.1)
    assert (waiter, type(error)) == (Named("a"), errors.BrokerUnreachable)
    assert jobs_in(drain(session, 3.1)) == [untouched]


# A broker that goes away


def test_a_part_of_an_earlier_sending_is_passed_over_by_what_is_to_be_sent_again() -> None:
    session = welcomed()
    job = submit(session, "a")
    drain(session)
    session.lose(1.0)
    session.hear(WELCOME, EPOCH, (), now=1.0)
    assert session.hear(part(job, 0), EPOCH, (), now=1.0) == []
    drain(session, now=1.0)
    ((_, outcome),) = session.hear(answered(job), EPOCH, (), now=1.0)
    assert isinstance(outcome, Answer)
    assert outcome.is_final


def test_silence_counts_as_away_and_a_new_epoch_gets_everything_again_in_order() -> None:
    session = welcomed()
    jobs = [submit(session, "a"), submit(session, "b")]
    drain(session)
    session.tick(2.9)
    assert not any(isinstance(message, messages.HelloGateway) for message in drain(session, 2.9))
    session.tick(3.0)
    assert isinstance(drain(session, 3.0)[0], messages.HelloGateway)
    jobs.append(submit(session, "c", now=3.1))
    session.hear(WELCOME, EPOCH + 1, (), now=3.2)
    assert jobs_in(drain(session, 3.2)) == jobs


def test_what_a_broker_before_this_one_said_changes_nothing_when_it_comes_late() -> None:
    session = welcomed()
    job = submit(session, "a")
    drain(session)
    for message in (WELCOME, messages.IntroduceYourself()):
        assert session.hear(message, EPOCH - 1, (), now=1.0) == []
    assert drain(session, 1.0) == [messages.GatewayBeat({}, jobs=(job,))]
    assert (session.state, session.epoch) == ("welcomed", EPOCH)


def test_a_broker_whose_registry_was_put_back_is_taken_for_one_once_the_other_is_silent() -> None:
    session = welcomed()
    job = submit(session, "a")
    drain(session)
    session.tick(3.0)
    drain(session, 3.0)
    session.hear(WELCOME, EPOCH - 1, (), now=3.1)
    assert jobs_in(drain(session, 3.1)) == [job]


def test_a_broker_that_announced_a_large_message_may_be_silent_for_it() -> None:
    session = welcomed()
    session.hear(messages.Announced(10 * presence.SLOWEST_BYTES_PER_S), EPOCH, (), now=1.0)
    assert [session.tick(now) or session.state for now in (13.9, 14.0)] == ["welcomed", "away"]


def test_a_broker_that_still_knows_us_gets_only_what_it_was_not_sent() -> None:
    session = welcomed()
    submit(session, "a")
    drain(session)
    session.tick(3.0)
    job = submit(session, "b", now=3.1)
    session.hear(messages.Welcome(500, 3000, is_new=False), EPOCH, (), now=3.2)
    assert jobs_in(drain(session, 3.2)) == [job]


def test_a_message_that_cannot_be_sent_counts_as_away_and_is_sent_after_the_welcome() -> None:
    session = welcomed()
    job = submit(session, "a")
    next(session.outgoing(0.0))
    session.lose(0.0)
    assert session.state == "away"
    session.hear(WELCOME, EPOCH, (), now=0.1)
    assert jobs_in(drain(session)) == [job]


def test_a_stranger_introduces_itself_and_sends_all_again() -> None:
    session = welcomed()
    job = submit(session, "a")
    drain(session)
    session.hear(messages.IntroduceYourself(), EPOCH + 1, (), now=0.5)
    assert isinstance(drain(session, 0.5)[0], messages.HelloGateway)
    session.hear(WELCOME, EPOCH + 1, (), now=0.6)
    assert jobs_in(drain(session, 0.6)) == [job]


def test_what_the_broker_forgot_is_sent_again() -> None:
    session = welcomed()
    jobs = [submit(session, "a"), submit(session, "b")]
    drain(session)
    assert session.hear(messages.Forgotten((jobs[1], 99), ()), EPOCH, (), now=4.0) == []
    assert jobs_in(drain(session)) == [jobs[1]]


def test_register_and_unregister_are_not_repeated_since_they_may_have_happened() -> None:
    session = welcomed()
    session.ask(Named("register"), messages.RegisterModel(0, "a.mar"), now=0.0)
    session.ask(Named("unregister"), messages.UnregisterModel(0, "m", None), now=0.0)
    session.ask(Named("scale"), scale(), now=0.0)
    drain(session)
    session.tick(3.0)
    settled = session.hear(WELCOME, EPOCH + 1, (), now=3.5)
    assert [(waiter, type(error)) for waiter, error in settled] == [
        (Named("register"), errors.BrokerUnreachable),
        (Named("unregister"), errors.BrokerUnreachable),
    ]
    assert all(
        "may have been made" in error.details for _, error in settled if isinstance(error, errors.RelayError)
    )
    assert isinstance(drain(session, 3.5)[0], messages.ScaleWorkers)


def test_a_register_that_was_never_sent_survives_a_restart() -> None:
    session = make()
    session.ask(Named("register"), messages.RegisterModel(0, "a.mar"), now=0.0)
    assert session.hear(WELCOME, EPOCH, (), now=1.0) == []
    assert isinstance(drain(session, 1.0)[0], messages.RegisterModel)


def test_questions_of_the_moment_do_not_wait_for_a_broker_that_is_away() -> None:
    session = welcomed()
    session.ask(Named("ping"), messages.ReadHealth(0), now=0.0)
    drain(session)
    ((waiter, error),) = session.tick(3.0)
    assert (waiter, type(error)) == (Named("ping"), errors.BrokerUnreachable)
    with pytest.raises(errors.BrokerUnreachable):
        session.ask(Named("scrape"), messages.ReadMetrics(0), now=3.0)


def heard_of(session: GatewaySession[Named], now: float = 0.0) -> dict[int, int]:
    """Return what is sent for each job that it was taken in before which beat."""
    return {item.job: message.heard for message in drain(session, now)
            if isinstance(message, messages.Submit) for item in message.items}  # fmt: skip


def test_jobs_say_which_beat_had_come_and_those_that_were_held_say_so() -> None:
    session = make()
    early = submit(session, "early")
    session.hear(messages.Welcome(500, 3000, beat=6), EPOCH, (), now=0.0)
    new = submit(session, "new")
    assert heard_of(session) == {early: messages.HELD, new: 6}
    session.hear(messages.Beat(7), EPOCH, (), now=0.5)
    newer = submit(session, "newer")
    assert heard_of(session, 0.5) == {newer: 7}


def test_what_waited_for_a_broker_that_was_away_is_held_and_so_is_what_was_lost() -> None:
    session = welcomed()
    sent = submit(session, "sent")
    drain(session)
    session.tick(3.0)
    held = submit(session, "held", now=3.1)
    session.hear(messages.Welcome(500, 3000, is_new=False, beat=9), EPOCH, (), now=4.0)
    assert heard_of(session, 4.0) == {held: messages.HELD}
    session.hear(messages.Forgotten((sent,), ()), EPOCH, (), now=4.1)
    new = submit(session, "new", now=4.1)
    assert heard_of(session, 4.1) == {sent: messages.HELD, new: 9}


def test_a_process_that_stood_still_itself_holds_it_against_nobody() -> None:
    session = welcomed()
    session.ask(Named("ping"), messages.ReadHealth(0), now=0.0)
    drain(session)
    session.stood_still(7.5, now=8.0)
    assert session.tick(8.0) == []
    assert session.state == "welcomed"
    assert session.tick(10.4) == []
    assert session.tick(10.6) != [], "a broker that stays silent is noticed"


def test_an_outage_is_not_over_for_a_process_that_stood_still_meanwhile() -> None:
    session = welcomed()
    submit(session, "a")
    drain(session)
    session.tick(3.0)
    session.stood_still(100.0, now=104.0)
    assert session.tick(129.9) == []
    assert session.tick(130.1) != []


def test_an_outage_ends_at_its_limit_for_those_who_wait_and_those_who_come() -> None:
    """A cut that nobody is told of is noticed late, and yet counts from the broker's last word."""
    session = welcomed()
    submit(session, "a")
    drain(session)
    session.tick(3.0)
    submit(session, "b", now=29.0)
    assert session.tick(29.9) == []
    settled = session.tick(30.0)
    assert [(waiter, type(error)) for waiter, error in settled] == [
        (Named("a"), errors.BrokerUnreachable),
        (Named("b"), errors.BrokerUnreachable),
    ]
    with pytest.raises(errors.BrokerUnreachable):
        submit(session, "c", now=33.0)
    session.hear(WELCOME, EPOCH, (), now=34.0)
    assert submit(session, "d", now=34.0)


def test_a_message_that_was_not_understood_leaves_nobody_waiting() -> None:
    session = welcomed()
    submit(session, "a")
    drain(session)
    ((waiter, error),) = session.hear(messages.Misunderstood("not a Submit"), EPOCH, (), now=0.1)
    assert (waiter, type(error)) == (Named("a"), errors.InternalError)


def test_leave_is_remembered() -> None:
    session = make()
    session.hear(messages.Leave("unknown protocol"), EPOCH, (), now=0.1)
    assert session.dismissed == "unknown protocol"


# Bounds


def test_in_flight_is_bounded_in_jobs() -> None:
    session = welcomed(GatewaySettings(in_flight_limit_jobs=1))
    job = submit(session, "a")
    with pytest.raises(errors.ServiceUnavailable, match="in_flight_limit_jobs"):
        submit(session, "b")
    session.hear(answered(job), EPOCH, (), now=0.0)
    assert submit(session, "c")


def test_in_flight_is_bounded_in_bytes_of_jobs_and_of_bodies_being_read() -> None:
    session = welcomed(GatewaySettings(in_flight_limit_bytes=10))
    job = submitted(session, "a", meta=b"123", frames=[b"4567"])
    with pytest.raises(errors.ServiceUnavailable, match="in_flight_limit_bytes"):
        submitted(session, "b", frames=[b"4567"])
    body = IncomingBody(9)
    assert not session.room.grow(body, 1)
    session.forget(job)
    assert session.room.grow(body, 9)
    with pytest.raises(errors.ServiceUnavailable):
        submitted(session, "c", frames=[b"45"])
    session.room.close(body)
    assert submitted(session, "c", frames=[b"45"])


def test_what_finds_no_place_is_told_when_those_before_it_will_have_their_answers() -> None:
    session = welcomed(GatewaySettings(in_flight_limit_jobs=30, in_flight_limit_bytes=1000))
    jobs = [submit(session, str(number)) for number in range(30)]
    session.hear(answered(*jobs[:10]), EPOCH, (), now=0.0)
    session.tick(2.0)  # five in a second
    for number in range(10):
        submit(session, str(number))
    with pytest.raises(errors.ServiceUnavailable) as refusal:
        submit(session, "one more")
    assert refusal.value.retry_after_s == 6
    session.hear(answered(jobs[10]), EPOCH, (), now=0.0)
    with pytest.raises(errors.ServiceUnavailable, match="in_flight_limit_bytes") as refusal:
        submit(session, "one more", meta=b"x" * 1000)
    assert refusal.value.retry_after_s == 6


# How long clients wait


def left_ms(sent: list[Any]) -> dict[int, int]:
    items = [item for message in sent if isinstance(message, messages.Submit) for item in message.items]
    return {item.job: item.left_ms for item in items}


def test_a_job_goes_out_with_the_time_that_its_client_still_waits() -> None:
    session = make()
    first = submitted(session, "a", answer_by=10.0)
    second = submitted(session, "b")
    session.hear(WELCOME, EPOCH, (), now=4.0)
    assert left_ms(drain(session, 4.0)) == {first.number: 6000, second.number: 0}
    session.hear(WELCOME, EPOCH + 1, (), now=7.5)
    assert left_ms(drain(session, 7.5)) == {first.number: 2500, second.number: 0}
    assert first.message == messages.SubmitItem(first.number, "model", None, False, b"m", left_ms=10_000)


def test_a_job_that_comes_back_too_late_is_not_sent_as_one_that_waits_for_ever() -> None:
    session = make()
    job = submitted(session, "a", answer_by=3.0)
    session.hear(WELCOME, EPOCH, (), now=3.2)
    assert left_ms(drain(session, 3.2)) == {job.number: 1}


def test_a_request_that_took_all_its_time_to_come_is_not_sent() -> None:
    session = welcomed()
    with pytest.raises(errors.PredictionTimeout, match="x-request-timeout-ms"):
        submitted(session, "a", now=5.0, answer_by=5.0)
    assert (session.waiting, session.room.held_bytes) == (0, 0)
    assert drain(session, 5.0) == [messages.GatewayBeat({})]


def test_the_deadline_of_a_request_that_was_refused_is_not_the_next_ones() -> None:
    session = welcomed(GatewaySettings(in_flight_limit_bytes=64))
    submitted(session, "a", meta=b"x" * 40)
    with pytest.raises(errors.ServiceUnavailable):
        submitted(session, "refused", meta=b"x" * 40, answer_by=0.1)
    brief, now = submitted(session, "brief", answer_by=0.1), 5.0
    settled = session.tick(now)
    assert [one for one, _ in settled if one is brief] == [brief]
    assert session.waiting == 1


@pytest.mark.parametrize("is_away", [False, True])
def test_what_the_broker_should_have_answered_is_answered_here_and_cancelled(is_away: bool) -> None:
    session = make() if is_away else welcomed()
    late = submitted(session, "late", answer_by=2.0)
    patient = submitted(session, "patient", answer_by=9.0)
    endless = submitted(session, "endless")
    drain(session)
    assert session.tick(2.0) == [], "the broker's own answer may be on its way"
    ((settled, outcome),) = session.tick(2.0 + LATE_GRACE_S)
    assert settled is late
    assert isinstance(outcome, errors.PredictionTimeout)
    cancelled = [message for message in drain(session, 2.5) if isinstance(message, messages.Cancel)]
    assert cancelled == ([] if is_away else [messages.Cancel((late.number,))])
    session.forget(patient)
    assert session.tick(10.0) == []
    assert session.waiting == 1
    assert endless.number


def test_an_answer_in_time_is_all_that_a_client_hears() -> None:
    session = welcomed()
    job = submitted(session, "a", answer_by=2.0)
    assert len(session.hear(answered(job.number), EPOCH, (), now=1.0)) == 1
    assert session.tick(3.0) == []


def test_asks_are_bounded() -> None:
    session = welcomed()
    for number in range(ASK_LIMIT):
        session.ask(Named(str(number)), scale(), now=0.0)
    with pytest.raises(errors.ServiceUnavailable):
        session.ask(Named("one more"), scale(), now=0.0)


class AnyHistory(RuleBasedStateMachine):
    """Requests, answers, restarts, losses and time in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.config = GatewaySettings(
            in_flight_limit_jobs=8, in_flight_limit_bytes=64, broker_outage_limit_s=5.0
        )
        self.session = make(self.config)
        self.now = 0.0
        self.epoch = EPOCH
        #: All that was taken, by its number.
        self.taken: list[Named] = []
        self.settled: dict[str, int] = {}
        #: Jobs and asks that the broker of `epoch` holds.
        self.held: dict[int, Any] = {}
        #: How many parts it has sent of each.
        self.parts: dict[int, int] = {}

    def note(self, settled: list[tuple[Named, Outcome]]) -> None:
        for waiter, outcome in settled:
            if not isinstance(outcome, Answer) or outcome.is_final:
                self.settled[waiter.name] = self.settled.get(waiter.name, 0) + 1

    @rule(size=st.integers(0, 40), waits_s=st.sampled_from((None, None, 0.1, 2.0)))
    def submit(self, size: int, waits_s: float | None) -> None:
        with contextlib.suppress(errors.ServiceUnavailable, errors.BrokerUnreachable):
            meta, answer_by = b"x" * size, None if waits_s is None else self.now + waits_s
            self.taken.append(
                submitted(self.session, str(len(self.taken)), now=self.now, meta=meta, answer_by=answer_by)
            )

    @rule(kind=st.sampled_from([scale(), messages.RegisterModel(0, "u"), messages.ReadHealth(0)]))
    def ask(self, kind: Any) -> None:
        asked = Named(str(len(self.taken)))
        with contextlib.suppress(errors.ServiceUnavailable, errors.BrokerUnreachable):
            self.session.ask(asked, kind, now=self.now)
            self.taken.append(asked)

    @rule(arrives=st.booleans())
    def flush(self, arrives: bool) -> None:
        for message, _ in self.session.outgoing(self.now):
            if not arrives:
                self.note(self.session.lose(self.now))
                return
            if isinstance(message, messages.Submit):
                self.held.update({item.job: item for item in message.items})
            elif isinstance(message, messages.Cancel):
                for job in message.jobs:
                    self.held.pop(job, None)
            elif isinstance(message, messages.Ask):
                self.held[message.ask] = message

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.held)))
        held = self.held.pop(number)
        reply: messages.Message = messages.AskRefused(number, "Conflict", "", "")
        if isinstance(held, messages.SubmitItem):
            reply = part(number, self.parts.get(number, 0), is_final=True)
        self.note(self.session.hear(reply, self.epoch, (), now=self.now))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def answer_in_part(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.held)))
        if isinstance(self.held[number], messages.SubmitItem):
            count = self.parts.get(number, 0)
            self.parts[number] = count + 1
            self.note(self.session.hear(part(number, count), self.epoch, (), now=self.now))

    @rule(seconds=st.sampled_from([0.05, 0.5, 2.0, 4.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.note(self.session.tick(self.now))

    @rule()
    def restart_broker(self) -> None:
        self.epoch += 1
        self.held.clear()
        self.parts.clear()

    @rule()
    def welcome(self) -> None:
        self.note(self.session.hear(WELCOME, self.epoch, (), now=self.now))

    @rule()
    def beat(self) -> None:
        known = self.session.epoch == self.epoch
        said: messages.Message = messages.Beat() if known else messages.IntroduceYourself()
        self.note(self.session.hear(said, self.epoch, (), now=self.now))

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def client_leaves(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.taken))
        before = self.session.waiting
        self.session.forget(gone)
        if self.session.waiting < before:
            self.note([(gone, errors.InternalError(""))])

    @invariant()
    def each_is_settled_once_or_waits(self) -> None:
        assert all(count == 1 for count in self.settled.values())
        assert len(self.settled) + self.session.waiting == len(self.taken)

    @invariant()
    def bounds_hold(self) -> None:
        assert 0 <= self.session.room.held_bytes <= self.config.in_flight_limit_bytes
        assert 0 <= self.session._jobs <= self.config.in_flight_limit_jobs

    def teardown(self) -> None:
        """Once a broker is there and answers, nothing waits."""
        self.note(self.session.hear(messages.IntroduceYourself(), self.epoch, (), now=self.now))
        self.held.clear()
        self.parts.clear()
        self.welcome()
        self.flush(arrives=True)
        for number, held in sorted(self.held.items()):
            is_job = isinstance(held, messages.SubmitItem)
            reply = answered(number) if is_job else messages.AskRefused(number, "Conflict", "", "")
            self.note(self.session.hear(reply, self.epoch, (), now=self.now))
        assert self.session.waiting == 0
        assert len(self.settled) == len(self.taken)
        assert self.session.room.held_bytes == self.session._jobs == 0


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = hypothesis_settings(max_examples=100, stateful_step_count=40)
