"""Questions: how many are answered in a turn, and how many may wait."""

import msgspec
import pytest

from tests.broker.rig import GATEWAY, Rig
from torchrelay.broker.core import questions
from torchrelay.broker.core.effects import Send
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.reply_parts import joined


def test_questions_of_the_whole_fleet_are_answered_one_a_turn_and_others_meanwhile() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    asks = [rig.event(GATEWAY, m.ReadMetrics(number)) for number in range(10, 40)]
    effects = rig.core.handle(
        [*asks, rig.event(GATEWAY, m.Submit((m.SubmitItem(0, "m", None, False, b""),), m.HELD))], now=rig.now
    )
    kinds = [type(effect.message) for effect in effects if isinstance(effect, Send)]
    assert kinds.count(m.MetricsRead) == 1
    assert m.Assign in kinds
    assert rig.core.next_wake() < rig.now
    rig.say(GATEWAY, m.GatewayBeat({}, (), tuple(range(11, 40))))
    assert not rig.take(GATEWAY, m.Forgotten)
    for _ in range(40):
        rig.feed()
    assert [read.ask for read in rig.take(GATEWAY, m.MetricsRead)] == [*range(11, 40)]
    assert rig.core.next_wake() >= rig.now
    assert worker in rig.core.workers.by_peer


def test_questions_beyond_their_bound_are_refused_and_those_of_who_left_are_not_answered() -> None:
    rig = Rig()
    rig.join_gateway()
    asks = [rig.event(GATEWAY, m.ReadFleet(number)) for number in range(questions.QUESTIONS_LIMIT + 1)]
    rig.feed(*asks)
    assert rig.only(GATEWAY, m.AskRefused).ask == questions.QUESTIONS_LIMIT
    rig.say(GATEWAY, m.Bye())
    while rig.core.next_wake() < rig.now:
        rig.feed()
    assert len(rig.take(GATEWAY, m.FleetRead)) <= 2


@pytest.mark.parametrize("question", [m.ReadMetrics(1), m.ReadFleet(1)])
def test_a_large_fleet_is_answered_in_parts_one_a_turn_which_make_one_reply(question: m.Question) -> None:
    rig = Rig()
    rig.join_gateway()
    for number in range(2 * questions.FACTS_PER_PART // 10):
        rig.register(f"m-{number}", initial_workers=0)
    names = [record.model for record in rig.core.catalog]
    rig.say(GATEWAY, question)
    parts: list[m.MetricsRead | m.FleetRead] = []
    while True:
        before = len(parts)
        parts.extend(rig.take(GATEWAY, m.MetricsRead))
        parts.extend(rig.take(GATEWAY, m.FleetRead))
        assert len(parts) <= before + 1
        if parts and parts[-1].is_last:
            break
        assert rig.core.next_wake() < rig.now
        rig.feed()
    assert [part.part for part in parts] == list(range(len(parts)))
    assert len(parts) > 1
    read = joined(parts)
    if isinstance(read, m.FleetRead):
        assert [one.model for one in read.versions] == sorted(names)
        assert read == msgspec.structs.replace(parts[0], versions=read.versions, is_last=True)
    else:
        (depths,) = (one for one in read.families if one.name == "torchrelay_queue_depth")
        assert [sample.labels[0][1] for sample in depths.samples] == names
        assert len({one.name for one in read.families}) == len(read.families)
    assert not rig.core.next_wake() < rig.now


def test_a_gateway_that_knows_no_parts_gets_one_message() -> None:
    rig = Rig()
    rig.say(GATEWAY, m.HelloGateway(3, "g", 1))
    rig.take(GATEWAY, m.Welcome)
    for number in range(2 * questions.FACTS_PER_PART // 10):
        rig.register(f"m-{number}", initial_workers=0)
    rig.say(GATEWAY, m.ReadFleet(1))
    assert len(rig.only(GATEWAY, m.FleetRead).versions) == 2 * questions.FACTS_PER_PART // 10


def test_a_gateway_that_leaves_gets_no_more_parts() -> None:
    rig = Rig()
    rig.join_gateway()
    for number in range(2 * questions.FACTS_PER_PART // 10):
        rig.register(f"m-{number}", initial_workers=0)
    rig.say(GATEWAY, m.ReadFleet(1))
    assert not rig.only(GATEWAY, m.FleetRead).is_last
    rig.say(GATEWAY, m.Bye())
    rig.feed()
    assert not rig.take(GATEWAY, m.FleetRead)
    assert not rig.core.next_wake() < rig.now
