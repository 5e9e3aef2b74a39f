"""Questions that many ask at once: each asker gets an answer, and the broker hears of few of them."""

import asyncio
from typing import Any

import pytest

from tests.gateway.fakes import FakeLink
from torchrelay.gateway.session import ASK_LIMIT, Outcome
from torchrelay.gateway.shared_questions import QUESTIONS_LIMIT, SharedQuestion, SharedQuestions
from torchrelay.shared import errors
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import messages


class Asker:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[Outcome] = []

    def tell(self, outcome: Outcome) -> None:
        self.told.append(outcome)


class Question:
    """What is shared, and how often it was put; it is refused while `refusal` is set."""

    def __init__(self) -> None:
        self.times_put = 0
        self.refusal: errors.RelayError | None = None
        self.shared = SharedQuestion(self._put)

    def _put(self, shared: SharedQuestion) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.times_put += 1

    def joined(self) -> Asker:
        asker = Asker()
        self.shared.join(asker)
        return asker


def health(number: int) -> messages.HealthRead:
    return messages.HealthRead(number, True)


def test_who_asks_while_a_question_is_under_way_gets_the_answer_to_the_next() -> None:
    question = Question()
    first, *later = [question.joined() for _ in range(3)]
    assert question.times_put == 1
    question.shared.tell(health(1))
    assert (first.told, [asker.told for asker in later]) == ([health(1)], [[], []])
    assert question.times_put == 2
    question.shared.tell(health(2))
    assert [asker.told for asker in (first, *later)] == [[health(1)], [health(2)], [health(2)]]
    assert question.times_put == 2
    question.joined()
    assert question.times_put == 3


def test_who_has_left_is_told_nothing_and_nothing_is_asked_for_it() -> None:
    question = Question()
    first, later = question.joined(), question.joined()
    question.shared.leave(first)
    question.shared.leave(later)
    question.shared.tell(health(1))
    assert (first.told, later.told, question.times_put) == ([], [], 1)


def test_an_error_is_told_to_all_who_wait() -> None:
    question = Question()
    first, later = question.joined(), question.joined()
    away = errors.BrokerUnreachable("away")
    question.shared.tell(away)
    assert first.told == later.told == [away]
    assert question.times_put == 1


def test_who_waits_is_told_why_the_next_question_cannot_be_put() -> None:
    question = Question()
    question.joined()
    later = question.joined()
    question.refusal = errors.BrokerUnreachable("away")
    question.shared.tell(health(1))
    assert later.told == [question.refusal]
    with pytest.raises(errors.BrokerUnreachable):
        question.joined()
    question.refusal = None
    question.joined()
    assert question.times_put == 2


def test_who_asks_again_at_once_waits_for_an_answer_of_its_own() -> None:
    question = Question()
    again = Asker()

    class Eager(Asker):
        def tell(self, outcome: Outcome) -> None:
            question.shared.join(again)

    question.shared.join(Eager())
    later = question.joined()
    question.shared.tell(health(1))
    question.shared.tell(health(2))
    assert (again.told, later.told, question.times_put) == ([health(2)], [health(2)], 2)


@pytest.mark.parametrize(
    ("ask", "reply"),
    [
        (messages.ReadHealth(0), messages.HealthRead),
        (messages.ReadMetrics(0), messages.MetricsRead),
        (messages.ReadFleet(0), messages.FleetRead),
    ],
)
def test_many_that_ask_how_it_is_now_keep_nobody_from_asking(ask: messages.Ask, reply: Any) -> None:
    held: list[Any] = []

    class Holding(FakeLink):
        def _reply(self, ask: Any) -> None:
            held.append(ask)

    async def ask_often() -> None:
        link = Holding(GatewaySettings())
        await link.start()
        waiters = [link.ask(ask, reply) for _ in range(2 * ASK_LIMIT)]
        for name in range(ASK_LIMIT - 1):
            link.ask(messages.DescribeModel(0, str(name), None), messages.ModelDescribed)
        waiters.append(link.ask(ask, reply))
        link.forget(waiters[1])
        asked = [one for one in held if isinstance(one, type(ask))]
        assert len(asked) == 1
        link._say(messages.AskRefused(asked[0].ask, "InternalError", "no", ""))
        for waiter in (waiters[0], waiters[2], waiters[-1]):
            with pytest.raises(errors.InternalError):
                await waiter

    asyncio.run(ask_often())


def test_questions_that_differ_are_put_one_beside_the_other_and_those_that_nobody_asks_are_few() -> None:
    put: list[tuple[SharedQuestion, messages.Ask]] = []
    shared = SharedQuestions(lambda question, ask: put.append((question, ask)))
    first, again, other = Asker(), Asker(), Asker()
    shared.join(messages.DescribeWorkflow(0, "w"), first)
    shared.join(messages.DescribeWorkflow(0, "w"), again)
    shared.join(messages.DescribeWorkflow(0, "v"), other)
    assert [ask for _, ask in put] == [messages.DescribeWorkflow(0, "w"), messages.DescribeWorkflow(0, "v")]
    shared.leave(again)
    put[0][0].tell(health(1))
    assert (first.told, again.told, other.told, len(put)) == ([health(1)], [], [], 2)
    for number in range(2 * QUESTIONS_LIMIT):
        shared.join(messages.DescribeWorkflow(0, f"w{number}"), Asker())
        put[-1][0].tell(health(2))
    assert len(shared._questions) <= QUESTIONS_LIMIT
    put[1][0].tell(health(3))
    assert other.told == [health(3)]
