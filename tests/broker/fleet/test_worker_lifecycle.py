"""A worker's life, and each way in which it ends."""

import re

import pytest

from tests.broker.rig import GATEWAY, NODE, Rig, held, worker_hello
from tests.contracts.source import ROOT
from torchrelay.broker.core.events import Unreachable
from torchrelay.broker.core.states import WorkerState
from torchrelay.broker.fleet.worker_lifecycle import LOST_PER_TURN
from torchrelay.shared.wire import messages as m


def test_a_killed_workers_jobs_return_to_the_head_and_are_answered_by_another() -> None:
    rig = Rig()
    one, two = rig.ready_rig(workers=2)
    rig.submit(1)
    batch = {peer: found[0] for peer in (one, two) if (found := rig.take(peer, m.Assign))}
    (peer,) = batch
    rig.submit(2)
    other = two if peer == one else one
    rig.complete(other, rig.only(other, m.Assign))
    rig.exit_worker(int(peer[2:]))
    assert not rig.take(other, m.Assign)  # it might be the end of that worker, too, with none left to serve
    (new,) = rig.start_workers()
    (again,) = [found[0] for peer in (other, new) if (found := rig.take(peer, m.Assign))]
    assert again.items[0].meta == b"meta-1"
    assert rig.attempt(again) == 2
    rig.complete(other if again.lease in rig.leases[other] else new, again)
    assert [item.job for answer in rig.take(GATEWAY, m.Answered) for item in answer.items] == [2, 1]


def test_a_job_that_loses_two_workers_is_answered_and_not_tried_again() -> None:
    rig = Rig()
    workers = rig.ready_rig(workers=3)
    rig.submit(1)
    for _ in range(2):
        (holder,) = [peer for peer in workers if rig.take(peer, m.Assign)]
        rig.exit_worker(int(holder[2:]), reason="killed by signal 9")
    (refused,) = rig.only(GATEWAY, m.Refused).items
    assert (refused.error, refused.message) == ("WorkerDied", "Worker died.")
    assert "signal 9" in refused.details
    assert not any(rig.take(peer, m.Assign) for peer in workers)


def test_a_worker_that_gives_no_answer_in_time_is_killed_and_its_batch_answered() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(response_timeout_s=5)
    rig.submit(1)
    rig.take(worker, m.Assign)
    rig.pass_time(6)
    (refused,) = rig.only(GATEWAY, m.Refused).items
    assert (refused.error, refused.message) == ("WorkerDied", "Worker died.")
    assert "response_timeout of 5 s" in refused.details
    assert rig.only(NODE, m.StopWorker).kill


def test_a_node_that_says_goodbye_gets_no_new_workers_and_may_finish_what_it_has() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    batch = rig.only(worker, m.Assign)
    other = rig.join_node(b"n-2")
    rig.say(NODE, m.Bye())
    assert len(rig.take(other, m.StartWorker)) == 1
    rig.complete(worker, batch)
    assert rig.only(GATEWAY, m.Answered).items[0].job == 1


def test_after_a_restart_workers_are_adopted_without_a_reload_and_jobs_flow_again() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.register(initial_workers=2)
    orders = rig.take(NODE, m.StartWorker)
    for order in orders:
        rig.worker_ready(order)
    rig.pass_time(1)
    rig.restart()
    rig.join_gateway()
    # The worker may be back before its node is.
    first = rig.worker_ready_again(orders[0], "n-1")
    rig.join_node(workers=tuple(held(order) for order in orders))
    rig.worker_ready(orders[1])
    rig.pass_time(1)
    assert not rig.take(NODE, m.StartWorker)
    assert not rig.take(NODE, m.StopWorker)
    rig.submit(1)
    assert sum(len(rig.take(peer, m.Assign)) for peer in (first, b"w-%d" % orders[1].worker_id)) == 1


def test_a_worker_its_node_does_not_have_is_replaced_and_one_nobody_knows_is_stopped() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.silent.add(NODE)  # it beats by hand
    for _ in range(5):
        rig.say(NODE, m.NodeBeat(((4711, 1),)))
        rig.pass_time(1)
    assert 4711 in {order.worker_id for order in rig.take(NODE, m.StopWorker)}
    assert len(rig.take(NODE, m.StartWorker)) >= 1


def test_a_beat_has_one_answer_however_many_unknown_workers_it_names() -> None:
    rig = Rig()
    rig.ready_rig()
    known = list(rig.core.fleet.workers)
    rig.say(NODE, m.NodeBeat((*((worker, 1) for worker in known), *((5000 + n, 1) for n in range(1000)))))
    order = rig.only(NODE, m.StopWorker)
    assert {order.worker_id, *order.also} == set(range(5000, 6000))


def test_scaling_down_waits_as_long_as_the_batch_takes() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(startup_timeout_s=5)
    rig.submit(1)
    batch = rig.only(worker, m.Assign)
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 0, 0, synchronous=True))
    rig.pass_time(30)
    rig.complete(worker, batch)
    rig.exit_worker(9000)
    assert rig.only(GATEWAY, m.WorkersScaled).done


@pytest.mark.parametrize(
    "ask", [m.UnregisterModel(2, "m", None), m.ScaleWorkers(2, "m", None, 0, 0, False, 2)]
)
def test_a_worker_that_cannot_be_killed_does_not_keep_its_jobs(ask: m.Message) -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    rig.take(worker, m.Assign)
    rig.say(GATEWAY, ask)
    rig.pass_time(20)  # its node goes on saying that it is there
    assert [item.job for item in rig.only(GATEWAY, m.Refused).items] == [1]


def test_a_draining_worker_that_says_hello_again_keeps_its_batch() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    batch = rig.only(worker, m.Assign)
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 0, 0, synchronous=False))
    rig.say(worker, worker_hello(rig))
    rig.complete(worker, batch)
    assert rig.only(GATEWAY, m.Answered).items[0].job == 1


def test_a_start_that_found_no_node_is_nobodys_failure() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.register()
    rig.feed(Unreachable(NODE, rig.only(NODE, m.StartWorker)))
    assert not rig.core.stats.worker_failures
    assert not rig.take(NODE, m.StartWorker), (
        "it would be chosen, in vain, with each turn until its silence tells"
    )
    rig.say(NODE, m.NodeBeat(()))
    assert len(rig.take(NODE, m.StartWorker)) == 1


def test_a_start_that_found_no_node_goes_to_another() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.register()
    order = rig.only(NODE, m.StartWorker)
    other = rig.join_node(b"n-2")
    rig.feed(Unreachable(NODE, order))
    assert len(rig.take(other, m.StartWorker)) == 1


def test_nothing_else_moves_a_worker_counts_its_failure_or_orders_it_to_stop() -> None:
    """Or one death would be several calls again, of which one is forgotten sooner or later."""
    decides = re.compile(r"move\(WorkerState\.|\.count_failure\(|m\.StopWorker\(").search
    modules = (ROOT / "broker").rglob("*.py")
    deciding = {str(path.relative_to(ROOT)) for path in modules if decides(path.read_text())}
    assert deciding == {"broker/fleet/worker_lifecycle.py"}


def unready(rig: Rig, worker: bytes, why: str = "is_ready() says no") -> None:
    rig.say(worker, m.WorkerBeat(tuple(rig.leases[worker]), 0, why))


def test_a_worker_whose_handler_is_not_ready_gets_no_batch_until_it_is() -> None:
    rig = Rig()
    one, two = rig.ready_rig(workers=2)
    rig.silent |= {one, two}
    unready(rig, one)
    rig.submit(1)
    rig.submit(2)
    assert not rig.take(one, m.Assign)
    rig.complete(two, rig.take(two, m.Assign)[0])
    unready(rig, two)
    rig.submit(3)
    facts = described(rig)
    assert [worker.state for worker in facts.workers] == ["unready", "unready"]
    assert facts.explanation == "wants 2, has 0, 2 not ready (is_ready() says no)"
    rig.say(one, m.WorkerBeat())
    assert rig.only(one, m.Assign)
    assert [worker.state for worker in described(rig).workers] == ["ready", "unready"]


def described(rig: Rig) -> m.VersionFacts:
    rig.say(GATEWAY, m.DescribeModel(50, "m", None))
    (facts,) = rig.only(GATEWAY, m.ModelDescribed).versions
    return facts


def test_an_unready_worker_answers_what_it_has_and_is_not_replaced_at_once() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    batch = rig.only(worker, m.Assign)
    unready(rig, worker)
    rig.complete(worker, batch)
    assert rig.only(GATEWAY, m.Answered).items[0].job == 1
    assert not rig.take(NODE, m.StartWorker)
    assert not rig.take(NODE, m.StopWorker)


def test_a_worker_that_does_not_get_ready_again_is_replaced_after_startup_timeout() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(startup_timeout_s=5)
    rig.silent.add(worker)  # it beats by hand
    for _ in range(6):
        unready(rig, worker, "is_ready() raised ValueError: lost")
        rig.pass_time(1)
    assert rig.only(NODE, m.StopWorker).kill
    assert described(rig).last_error == (
        "not ready again within startup_timeout of 5 s: is_ready() raised ValueError: lost"
    )
    assert rig.take(NODE, m.StartWorker)
    assert any(report.event == "worker.unready" for report in rig.reports)


def test_a_worker_that_comes_back_after_a_restart_tells_that_it_is_not_ready() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.register()
    order = rig.only(NODE, m.StartWorker)
    hello = m.HelloWorker(m.PROTOCOL_VERSION, order.worker_id, "n-1", "m", "1.0", order.archive, "cpu", 77,
                          order.claim, "is_ready() says no")  # fmt: skip
    rig.say(b"w-%d" % order.worker_id, hello)
    rig.submit(1)
    assert not rig.take(b"w-%d" % order.worker_id, m.Assign)
    assert described(rig).workers[0].state == "unready"


@pytest.mark.parametrize("end", ["scaled", "drained", "goodbye", "lost"])
def test_an_unready_worker_ends_as_any_other(end: str) -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.silent.add(worker)
    unready(rig, worker)
    match end:
        case "scaled":
            rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 0, 0, synchronous=False))
            assert rig.only(NODE, m.StopWorker)
        case "drained":
            rig.say(NODE, m.Bye())
            assert [worker.state for worker in described(rig).workers] == ["draining"]
        case "goodbye":
            rig.say(worker, m.Bye())
            assert rig.take(NODE, m.StartWorker)
        case "lost":
            rig.exit_worker(int(worker[2:]))
            assert rig.take(NODE, m.StartWorker)


def test_startup_timeout_is_for_loading_warming_and_waiting_together() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.register(startup_timeout_s=10)
    order = rig.only(NODE, m.StartWorker)
    for phase, note in (
        ("loading", "loading"),
        ("warming", "warming"),
        ("waiting", "waiting for is_ready()"),
    ):
        rig.say(NODE, m.WorkerProgressed(order.worker_id, phase))  # type: ignore[arg-type]  # one of them
        assert described(rig).explanation == f"wants 1, has 0, 1 starting ({note})"
        rig.pass_time(3)
    assert not rig.take(NODE, m.StopWorker)
    rig.pass_time(2)
    assert rig.only(NODE, m.StopWorker).kill
    why = "not ready within startup_timeout of 10 s: still waiting for is_ready()"
    assert described(rig).last_error == why


def many_workers(rig: Rig) -> tuple[list[m.StartWorker], list[bytes]]:
    """Have more workers on a node than a turn removes."""
    count = LOST_PER_TURN + 10
    rig.join_gateway()
    rig.join_node(slots=count)
    rig.register(initial_workers=count)
    orders = rig.take(NODE, m.StartWorker)
    while len(orders) < count:
        rig.feed()
        orders += rig.take(NODE, m.StartWorker)
    return orders, [rig.worker_ready(order) for order in orders]


def test_many_workers_of_a_lost_node_are_removed_over_some_turns_and_get_nothing_meanwhile() -> None:
    rig = Rig()
    _, workers = many_workers(rig)
    rig.core.peers.drop_node(rig.core.fleet.nodes[NODE], rig.now)
    left = [peer for peer in workers if peer in rig.core.workers.by_peer]
    assert len(left) == len(workers) - LOST_PER_TURN
    assert rig.core.next_wake() < rig.now
    rig.submit(1)
    assert not [peer for peer in workers if rig.take(peer, m.Assign)]
    assert not rig.core.workers.by_peer
    assert not rig.core.next_wake() < rig.now
    assert rig.core.stats.worker_failures["m", "1.0"] == len(workers)


def test_a_node_that_comes_back_at_once_has_its_workers_as_new_ones() -> None:
    rig = Rig()
    orders, workers = many_workers(rig)
    rig.core.peers.drop_node(rig.core.fleet.nodes[NODE], rig.now)
    assert workers[-1] in rig.core.workers.by_peer
    rig.join_node(workers=(held(orders[-1]),))
    assert rig.core.fleet.workers[orders[-1].worker_id].state is WorkerState.STARTING
    assert not rig.core.workers.by_peer
