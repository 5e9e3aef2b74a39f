"""Nodes that are drained or told to stop are replaced first, and have their share when they return."""

from tests.broker.rig import GATEWAY, Rig
from torchrelay.broker.core.states import WorkerState
from torchrelay.broker.fleet import shares
from torchrelay.broker.fleet.shares import Shares
from torchrelay.broker.fleet.worker import FleetWorker
from torchrelay.shared.wire import messages as m

A, B = b"a", b"b"
KEY = ("m", "1.0")


def two_nodes(workers: int = 2, slots: int = 8) -> Rig:
    """Make a fleet of two nodes that share the workers of one model."""
    rig = Rig()
    rig.join_gateway()
    rig.join_node(A, slots=slots)
    rig.join_node(B, slots=slots)
    rig.register(initial_workers=workers)
    rig.start_workers(A)
    rig.start_workers(B)
    return rig


def drain(rig: Rig, name: str, *, on: bool = True) -> None:
    rig.core.fleet.set_draining(name, on)
    rig.feed()


def placed(rig: Rig, *states: WorkerState) -> dict[bytes | None, int]:
    """Count the model's workers by node, in these states, else those that count."""
    of_interest = states or (WorkerState.STARTING, WorkerState.READY)
    found = [worker.node for worker in rig.core.fleet.of_version(KEY) if worker.state in of_interest]
    return {node: found.count(node) for node in set(found)}


def obey_stops(rig: Rig, node: bytes) -> int:
    """Let a node stop the workers that it was told to stop; return how many those were."""
    stops = rig.take(node, m.StopWorker)
    for stop in stops:
        rig.say(b"w-%d" % stop.worker_id, m.Bye())
        rig.leases.pop(b"w-%d" % stop.worker_id, None)
        rig.exit_worker(stop.worker_id, node, "told to stop", of_itself=False)
    return len(stops)


def explained(rig: Rig) -> str:
    record = rig.core.catalog.get(KEY)
    assert record is not None
    return rig.core.fleet.explain(record, rig.now)


def test_a_drained_nodes_worker_serves_until_its_successor_elsewhere_is_ready() -> None:
    rig = two_nodes()
    drain(rig, "a")
    assert placed(rig, WorkerState.READY) == {A: 1, B: 1}
    assert rig.take(A, m.StopWorker) == []
    rig.start_workers(B)
    assert placed(rig) == {B: 2}
    assert obey_stops(rig, A) == 1
    assert explained(rig) == ""


def test_what_a_drained_worker_runs_ends_there() -> None:
    rig = two_nodes()
    rig.submit(1, 2)
    batches = {peer: rig.take(peer, m.Assign) for peer in list(rig.leases)}
    drain(rig, "a")
    rig.start_workers(B)
    (drained,) = (w for w in rig.core.fleet.of_node(A) if w.state is WorkerState.DRAINING)
    assert drained.peer is not None
    assert rig.take(A, m.StopWorker) == []
    for batch in batches[drained.peer]:
        rig.complete(drained.peer, batch)
    assert obey_stops(rig, A) == 1
    assert rig.core.stats.worker_failures[KEY] == 0


def test_where_no_other_node_has_a_place_workers_go_at_once_and_it_is_said_why() -> None:
    rig = two_nodes(slots=1)
    drain(rig, "a")
    assert obey_stops(rig, A) == 1
    assert placed(rig) == {B: 1}
    assert "all 1 slots of the fleet are taken" in explained(rig)
    drain(rig, "b")
    assert obey_stops(rig, B) == 1
    assert "no node takes new workers: a, b is drained, stops or can't be reached" in explained(rig)


def test_a_worker_that_still_starts_on_a_drained_node_is_started_elsewhere_at_once() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node(A)
    rig.register()
    rig.join_node(B)
    drain(rig, "a")
    assert [order.kill for order in rig.take(A, m.StopWorker)] == [True]
    assert placed(rig) == {B: 1}


def test_a_replacement_that_fails_leaves_the_worker_where_it_is() -> None:
    rig = two_nodes()
    drain(rig, "a")
    (order,) = rig.take(B, m.StartWorker)
    rig.exit_worker(order.worker_id, B)
    assert placed(rig, WorkerState.READY) == {A: 1, B: 1}
    rig.pass_time(3)
    rig.start_workers(B)
    assert obey_stops(rig, A) == 1


def test_a_node_that_is_resumed_has_its_share_again_and_no_request_waits_for_it() -> None:
    rig = two_nodes()
    drain(rig, "a")
    rig.start_workers(B)
    obey_stops(rig, A)
    drain(rig, "a", on=False)
    assert placed(rig, WorkerState.READY) == {B: 2}, "it is started there before one is stopped elsewhere"
    rig.start_workers(A)
    assert placed(rig) == {A: 1, B: 1}
    assert obey_stops(rig, B) == 1
    rig.pass_time(10)
    assert placed(rig) == {A: 1, B: 1}
    assert rig.take(A, m.StartWorker) == rig.take(B, m.StartWorker) == []


def test_a_node_that_is_told_to_stop_is_replaced_and_its_successor_has_the_same_share() -> None:
    rig = two_nodes(workers=4)
    rig.say(A, m.NodeLeaves(25_000))
    rig.start_workers(B)
    assert placed(rig) == {B: 4}
    assert obey_stops(rig, A) == 2
    rig.say(A, m.Bye())
    rig.join_node(b"a2", name="a")
    for _ in range(2):
        rig.start_workers(b"a2")
        obey_stops(rig, B)
    assert placed(rig) == {b"a2": 2, B: 2}
    rig.pass_time(10)
    assert rig.take(b"a2", m.StartWorker) == []


def test_of_a_half_drained_node_only_what_has_gone_comes_back() -> None:
    rig = two_nodes(workers=4)
    drain(rig, "a")
    first, _ = rig.take(B, m.StartWorker)
    rig.worker_ready(first, B)
    assert obey_stops(rig, A) == 1
    drain(rig, "a", on=False)
    assert obey_stops(rig, B) == 1, "its second successor isn't needed any more"
    rig.start_workers(A)
    obey_stops(rig, B)
    assert placed(rig, WorkerState.READY) == {A: 2, B: 2}


def test_saying_it_again_starts_nothing_anew() -> None:
    rig = two_nodes()
    rig.say(A, m.NodeLeaves(25_000))
    rig.say(A, m.NodeLeaves(24_000))
    rig.say(A, m.HelloNode(m.PROTOCOL_VERSION, "a", (), 8, ()))
    assert len(rig.take(B, m.StartWorker)) == 1
    assert [report.event for report in rig.reports].count("node.leaving") == 1


def test_scaling_down_takes_the_workers_of_a_drained_node_first() -> None:
    rig = two_nodes()
    drain(rig, "a")
    scale = m.ScaleWorkers(2, "m", None, 1, 1, synchronous=False)
    rig.say(GATEWAY, scale)
    assert obey_stops(rig, A) == 1
    assert placed(rig, WorkerState.READY) == {B: 1}


def test_a_share_moves_to_no_node_that_has_no_room() -> None:
    rig = two_nodes(slots=1)
    drain(rig, "a")
    obey_stops(rig, A)
    drain(rig, "a", on=False)
    rig.start_workers(A)
    assert placed(rig) == {A: 1, B: 1}
    rig.pass_time(10)
    assert rig.take(B, m.StopWorker) == []


def test_the_shares_of_nodes_that_never_return_are_forgotten_at_some_point() -> None:
    known = Shares()
    worker = FleetWorker(1, KEY, "sha", "cpu", "n", A, WorkerState.READY, since=0.0, last_heard=0.0)
    for number in range(shares.SHARES_LIMIT + 5):
        known.remember(f"n-{number}", [worker])
    assert known.of("n-4") == []
    assert known.of("n-5") == [KEY]
    known.forget("n-5", KEY)
    assert known.of("n-5") == []
    known.remember("n-6", [])
    assert known.of("n-6") == []


def test_a_node_that_can_tell_its_former_selfs_mark_takes_its_place_at_once() -> None:
    rig = two_nodes()
    for peer, name in ((A, "a"), (B, "b")):
        rig.say(peer, m.HelloNode(m.PROTOCOL_VERSION, name, (), 8, tuple(
            m.HeldWorker(w.worker_id, "m", "1.0", w.archive, "cpu", 7) for w in rig.core.fleet.of_node(peer)
        ), mark=f"mark of {name}"))  # fmt: skip
    rig.say(b"x", m.HelloNode(m.PROTOCOL_VERSION, "a", (), 8, (), mark=""))
    assert rig.core.fleet.nodes[A].name == "a", "a name alone proves nothing"
    rig.say(b"a2", m.HelloNode(m.PROTOCOL_VERSION, "a", (), 8, (), mark="mark of a"))
    assert A not in rig.core.fleet.nodes
    assert rig.core.fleet.nodes[b"a2"].name in ("a", "a-2")
    assert len(rig.take(b"a2", m.StartWorker)) + len(rig.take(b"x", m.StartWorker)) == 1


def test_a_node_that_an_operator_drains_is_drained_by_a_restarted_broker_too() -> None:
    rig = two_nodes()
    rig.say(GATEWAY, m.ChangeMember(3, "node", "a", "drain"))
    rig.only(GATEWAY, m.MemberChanged)
    rig.start_workers(B)
    assert obey_stops(rig, A) == 1
    rig.restart()
    rig.join_gateway()
    rig.join_node(A)
    rig.join_node(B)
    rig.pass_time(rig.settings.settle_s)
    rig.start_workers(B)
    assert placed(rig) == {B: 2}
    rig.say(GATEWAY, m.ScaleWorkers(4, "m", None, 3, 3, synchronous=False))
    rig.start_workers(B)
    assert placed(rig) == {B: 3}
    rig.say(GATEWAY, m.ChangeMember(5, "node", "a", "resume"))
    rig.say(GATEWAY, m.ScaleWorkers(6, "m", None, 4, 4, synchronous=False))
    rig.start_workers(A)
    assert placed(rig) == {A: 1, B: 3}
