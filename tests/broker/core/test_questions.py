"""Questions: how many are answered in a turn, and how many may wait."""

from tests.broker.rig import GATEWAY, Rig
from torchrelay.broker.core import questions
from torchrelay.broker.core.effects import Send
from torchrelay.shared.wire import messages as m


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
