"""Events that raise inside the core: they cost their peer, and nobody else."""

from collections.abc import Callable, Iterable

import pytest

from tests.broker.rig import GATEWAY, NODE, Rig
from torchrelay.broker.core.effects import Report
from torchrelay.broker.core.events import Received, Unsendable
from torchrelay.broker.core.machine import FAULTS_PER_SWEEP
from torchrelay.broker.core.peers import HELD_PER_TURN
from torchrelay.broker.core.torchserve_metrics import Metrics
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.wire import messages as m

SEQUENTIAL = ModelConfig(sequence_batching=True, sequence_max_idle_ms=3000, max_sequences=9)
POINT = m.MetricPoint("Broken" + "x" * 1000, "gauge", "", 1.0, (), 0)


class FaultyMetrics(Metrics):
    def measured(self, hostname: str, points: Iterable[m.MetricPoint], *, by_node: bool) -> None:
        raise RuntimeError("a fault that nobody foresaw")


def _fault(rig: Rig) -> Report:
    (report,) = [report for report in rig.reports if report.event == "broker.fault"]
    return report


def _second_raises() -> Callable[[], str]:
    names = iter(["first"])
    return lambda: next(names)  # a StopIteration, then


def test_a_gateway_whose_message_meets_a_fault_is_dropped_and_may_come_back() -> None:
    rig = Rig(sequence_id=_second_raises())
    rig.ready_rig(config=SEQUENTIAL)
    rig.join_gateway(b"g-2")
    rig.submit(1, gateway=b"g-2", sequence="honest")
    rig.submit(1, 2)
    assert GATEWAY not in rig.core.gateways
    assert "fault" in rig.only(GATEWAY, m.Misunderstood).reason
    assert [*rig.core.gateways[b"g-2"].jobs] == [1]
    rig.join_gateway()
    rig.submit(3, sequence="named")
    assert [*rig.core.gateways[GATEWAY].jobs] == [3]


def test_a_worker_whose_message_meets_a_fault_is_stopped_and_its_batch_goes_elsewhere() -> None:
    rig = Rig(metrics=FaultyMetrics)
    one, two = rig.ready_rig(workers=2)
    rig.submit(1)
    peer, batch = next((p, found[0]) for p in (one, two) if (found := rig.take(p, m.Assign)))
    rig.say(peer, m.Measured("h", (POINT,)))
    assert rig.only(NODE, m.StopWorker).worker_id == int(peer[2:])
    assert rig.only(two if peer == one else one, m.Assign).items[0].meta == batch.items[0].meta


def test_a_node_of_whose_many_workers_one_meets_a_fault_is_dropped_and_no_turn_fails() -> None:
    rig = Rig()
    unreadable = (None,) * (HELD_PER_TURN + 1)
    hello = m.HelloNode(m.PROTOCOL_VERSION, "n-1", (), 500, unreadable)  # type: ignore[arg-type] # that is it
    rig.feed(Received(NODE, hello, rig.epoch))
    assert "fault" in rig.only(NODE, m.Misunderstood).reason
    assert not rig.core.fleet.nodes
    assert not rig.core.peers.joining
    rig.join_node()


def test_of_many_faults_a_few_are_logged_and_the_rest_are_counted() -> None:
    rig = Rig(metrics=FaultyMetrics)
    for _ in range(20):
        rig.join_node()
        rig.say(NODE, m.NodeMeasured("h", (POINT,)))
    rig.pass_time(1)
    faults = [report for report in rig.reports if report.event == "broker.fault"]
    assert len(faults) == FAULTS_PER_SWEEP + 1
    assert faults[-1].facts["messages"] == 20 - FAULTS_PER_SWEEP


def test_a_node_whose_message_meets_a_fault_is_dropped_and_another_gets_its_workers() -> None:
    rig = Rig(metrics=FaultyMetrics)
    rig.ready_rig()
    rig.join_node(b"n-2")
    rig.say(NODE, m.NodeMeasured("h", (POINT,)))
    assert [*rig.core.fleet.nodes] == [b"n-2"]
    rig.pass_time(3)
    rig.only(b"n-2", m.StartWorker)
    rig.join_node()
    assert {*rig.core.fleet.nodes} == {NODE, b"n-2"}


def test_an_unknown_peer_whose_hello_meets_a_fault_is_told_so() -> None:
    rig = Rig(metrics=FaultyMetrics)
    rig.say(b"x", m.NodeMeasured("h", (POINT,)))
    rig.only(b"x", m.IntroduceYourself)  # nothing is looked at before


def test_a_fault_is_logged_with_its_message_of_which_little_is_repeated() -> None:
    rig = Rig(metrics=FaultyMetrics)
    rig.ready_rig()
    rig.say(NODE, m.NodeMeasured("h", (POINT,)))
    facts = _fault(rig).facts
    assert facts["kind"] == "NodeMeasured"
    assert facts["reason"] == "RuntimeError: a fault that nobody foresaw"
    assert str(facts["content"]).startswith("NodeMeasured(hostname='h'")
    assert len(str(facts["content"])) == 200
    assert "_from_node" in str(facts["at"])


@pytest.mark.parametrize(
    "ask", [m.ModelDescribed(5, ()), m.ModelsListed(5, (), None), m.FleetRead(5, 1, 1.0, 1, (), ())]
)
def test_who_asked_is_told_that_the_answer_cannot_be_written(ask: m.Reply) -> None:
    rig = Rig()
    rig.join_gateway()
    rig.feed(Unsendable(GATEWAY, ask, "OverflowError: int too big to convert"))
    refused = rig.only(GATEWAY, m.AskRefused)
    assert (refused.ask, refused.error) == (5, "InternalError")


def test_answers_that_cannot_be_written_are_refusals() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.feed(
        Unsendable(GATEWAY, m.Refused((m.RefusedItem(7, "Conflict", "\ud800", ""),)), "UnicodeEncodeError")
    )
    assert [item.job for item in rig.only(GATEWAY, m.Refused).items] == [7]


def test_a_worker_that_cannot_be_started_for_its_order_is_tried_again_ever_more_rarely() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.register()
    order = rig.only(NODE, m.StartWorker)
    rig.feed(Unsendable(NODE, order, "UnicodeEncodeError: surrogates not allowed"))
    assert not rig.take(NODE, m.StartWorker)
    rig.pass_time(1.5)
    assert rig.only(NODE, m.StartWorker).worker_id != order.worker_id


def test_a_batch_that_cannot_be_written_is_answered() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1, 2)
    rig.feed(Unsendable(worker, rig.only(worker, m.Assign), "OverflowError"))
    assert [item.job for item in rig.only(GATEWAY, m.Refused).items] == [1]
    assert [item.meta for item in rig.only(worker, m.Assign).items] == [b"meta-2"]


def test_of_a_flood_of_nonsense_some_is_logged_and_the_rest_counted() -> None:
    rig = Rig()
    for _ in range(100):
        rig.say(b"x", m.HelloNode(m.PROTOCOL_VERSION, "n", (), 10**9, ()))
    rig.pass_time(1)
    logged = [report.facts for report in rig.reports if report.event == "message.misunderstood"]
    assert len(logged) == 21
    assert logged[-1]["messages"] == 80
    assert rig.core.stats.misunderstood == 100
