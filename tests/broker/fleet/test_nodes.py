"""Nodes that call themselves the same: each is known by a name of its own."""

import logging

from tests.broker.rig import GATEWAY, Rig, held, settings
from torchrelay.shared.wire import messages as m

FIRST, SECOND, THIRD = b"peer-1", b"peer-2", b"peer-3"


def names(rig: Rig) -> dict[bytes, str]:
    return {node.peer: node.name for node in rig.core.fleet.staying_nodes}


def warned_of(rig: Rig) -> list[object]:
    """Return the names in warnings about nodes' names, as the broker gave them."""
    return [report.facts["node"] for report in rig.reports if report.event == "node.name_taken"]


def with_gateway(**changes: object) -> Rig:
    rig = Rig(settings(**changes))
    rig.join_gateway()
    return rig


def test_two_nodes_of_one_name_are_told_apart_in_the_status_and_the_log() -> None:
    rig = with_gateway()
    rig.join_node(FIRST, "gpu-box", slots=1)
    rig.join_node(SECOND, "gpu-box", slots=1)
    rig.register(initial_workers=2)
    for node in (FIRST, SECOND):
        rig.worker_ready(rig.only(node, m.StartWorker), node)
    rig.say(GATEWAY, m.ReadFleet(2))
    status = rig.only(GATEWAY, m.FleetRead)
    assert [(node.name, node.slots_used) for node in status.nodes] == [("gpu-box", 1), ("gpu-box-2", 1)]
    assert sorted(worker.node for worker in status.versions[0].workers) == ["gpu-box", "gpu-box-2"]
    assert warned_of(rig) == ["gpu-box-2"]
    assert {report.level for report in rig.reports if report.event == "node.name_taken"} == {logging.WARNING}


def test_their_metrics_have_no_sample_twice() -> None:
    rig = with_gateway()
    rig.join_node(FIRST, "n")
    rig.join_node(SECOND, "n")
    rig.say(GATEWAY, m.ReadMetrics(2))
    families = rig.only(GATEWAY, m.MetricsRead).families
    series = [(family.name, s.suffix, s.labels) for family in families for s in family.samples]
    assert len(series) == len(set(series))
    assert any(("node", "n-2") in labels for _, _, labels in series)


def test_a_name_that_looks_like_ours_is_not_given_twice() -> None:
    rig = with_gateway()
    rig.join_node(FIRST, "n-2")
    rig.join_node(SECOND, "n")
    rig.join_node(THIRD, "n")
    assert names(rig) == {FIRST: "n-2", SECOND: "n", THIRD: "n-3"}


def test_a_node_that_is_started_again_after_its_goodbye_has_its_name_at_once() -> None:
    rig = with_gateway()
    rig.join_node(FIRST, "n")
    rig.say(FIRST, m.Bye())
    rig.join_node(SECOND, "n")
    assert names(rig)[SECOND] == "n"
    assert warned_of(rig) == []


def test_a_node_that_is_started_again_after_it_was_killed_gets_work_and_its_name_back() -> None:
    rig = with_gateway()
    rig.join_node(FIRST, "n")
    rig.register()
    rig.worker_ready(rig.only(FIRST, m.StartWorker), FIRST)
    rig.lose_node(FIRST)
    rig.silent.add(FIRST)
    rig.join_node(SECOND, "n")
    assert names(rig) == {FIRST: "n", SECOND: "n-2"}
    rig.pass_time(5)
    assert names(rig) == {SECOND: "n"}
    rig.only(SECOND, m.StartWorker)
    assert [worker.node_name for worker in rig.core.fleet.workers.values()] == ["n"]


def test_a_restarted_broker_waits_for_both_of_one_name() -> None:
    rig = with_gateway(settle_s=5.0)
    rig.join_node(FIRST, "n", slots=1)
    rig.join_node(SECOND, "n", slots=1)
    rig.register(initial_workers=2)
    orders = {node: rig.only(node, m.StartWorker) for node in (FIRST, SECOND)}
    for node, order in orders.items():
        rig.worker_ready(order, node)
    rig.pass_time(1)
    rig.restart()
    rig.join_gateway()
    rig.join_node(FIRST, "n", slots=2, workers=(held(orders[FIRST]),))
    rig.worker_ready_again(orders[SECOND], "n")  # before its own node is back
    rig.pass_time(2)
    assert not rig.take(FIRST, m.StartWorker)
    rig.join_node(SECOND, "n", slots=1, workers=(held(orders[SECOND]),))
    rig.pass_time(10)
    assert [len(rig.core.fleet.of_node(node)) for node in (FIRST, SECOND)] == [1, 1]
    assert not rig.take(FIRST, m.StartWorker)
    assert not rig.take(FIRST, m.StopWorker)
    assert not rig.take(SECOND, m.StopWorker)
