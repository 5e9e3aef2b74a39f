"""Whose a worker is: nobody names, stops, reports, adopts or plays one that it was not told to start."""

from dataclasses import dataclass

import msgspec
import pytest

from tests.broker.rig import CLAIMS, GATEWAY, NODE, Rig, held
from torchrelay.broker.core.states import WorkerState
from torchrelay.broker.fleet.worker_claims import Claims
from torchrelay.shared.wire import messages as m

THIEF = b"n-thief"


@dataclass
class Scene:
    rig: Rig
    order: m.StartWorker
    worker: bytes


@pytest.fixture
def scene() -> Scene:
    """A ready worker of one node; another node is about to join."""
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.register()
    order = rig.only(NODE, m.StartWorker)
    return Scene(rig, order, rig.worker_ready(order))


def _forged(order: m.StartWorker, claim: str = "") -> m.HeldWorker:
    return m.HeldWorker(order.worker_id, order.model, order.version, order.archive, "cpu", 1, claim)


def _hello(order: m.StartWorker, claim: str) -> m.HelloWorker:
    return m.HelloWorker(
        m.PROTOCOL_VERSION, order.worker_id, "n-1", order.model, order.version, order.archive, "cpu", 1, claim
    )


def _is_served(scene: Scene, job: int = 7) -> bool:
    rig = scene.rig
    rig.submit(job)
    return [item.meta for item in rig.only(scene.worker, m.Assign).items] == [b"meta-%d" % job]


@pytest.mark.parametrize("has_its_claim", [False, True], ids=["guessed", "with its claim"])
def test_a_node_cannot_take_another_nodes_worker_by_naming_it(scene: Scene, has_its_claim: bool) -> None:
    rig, order = scene.rig, scene.order
    rig.join_node(THIEF, workers=(held(order) if has_its_claim else _forged(order),))
    assert rig.core.fleet.workers[order.worker_id].node == NODE
    rig.say(THIEF, m.NodeBeat(((order.worker_id, 1),)))
    assert rig.only(THIEF, m.StopWorker).worker_id == order.worker_id  # the one that it holds
    rig.say(THIEF, m.WorkerExited(order.worker_id, 1, None, "gone", False, ()))
    rig.say(THIEF, m.WorkerProgressed(order.worker_id, "loading"))
    rig.say(THIEF, m.Bye())
    rig.silent.add(THIEF)
    rig.pass_time(8)
    assert not rig.take(NODE, m.StopWorker)
    assert rig.core.fleet.workers[order.worker_id].state is WorkerState.READY
    assert _is_served(scene)


def test_a_node_that_comes_first_after_a_restart_gets_no_others_workers(scene: Scene) -> None:
    rig, order = scene.rig, scene.order
    rig.restart()
    rig.join_gateway()
    rig.join_node(THIEF, "n-1", workers=(_forged(order), _forged(order, "0" * 64)))
    assert order.worker_id not in rig.core.fleet.workers
    rig.join_node(NODE, workers=(held(order),))
    scene.worker = rig.worker_ready(order)
    assert rig.core.fleet.workers[order.worker_id].node == NODE
    rig.say(THIEF, m.WorkerExited(order.worker_id, 1, None, "gone", False, ()))
    assert _is_served(scene)


def test_a_worker_that_comes_before_its_node_after_a_restart_is_no_namesakes(scene: Scene) -> None:
    rig, order = scene.rig, scene.order
    rig.restart()
    rig.join_gateway()
    rig.join_node(THIEF, "n-1")
    scene.worker = rig.worker_ready_again(order, "n-1")
    rig.say(THIEF, m.WorkerExited(order.worker_id, 1, None, "gone", False, ()))
    rig.pass_time(5)
    assert _is_served(scene)
    rig.join_node(NODE, workers=(held(order),))
    assert rig.core.fleet.workers[order.worker_id].node == NODE


@pytest.mark.parametrize("worker_id", [9000, 9001, 123, 10**9])
@pytest.mark.parametrize("epoch", [1, 2])
def test_no_worker_is_taken_in_that_nobody_was_told_to_start(worker_id: int, epoch: int) -> None:
    rig = Rig()
    rig.ready_rig()
    if epoch == 2:
        rig.restart()
        rig.join_gateway()
    order = m.StartWorker(worker_id, "m", "1.0", "sha-m-1.0.mar", 1, "h", "cpu", None, 1)
    of_another = Claims(b"another").make(worker_id, ("m", "1.0"), order.archive)
    for claim in ("", "0" * 64, "\u00e9" * 64, of_another):
        rig.say(b"x", _hello(order, claim))
        rig.only(b"x", m.Leave)
    rig.join_node(THIEF, workers=(_forged(order),))
    known = rig.core.fleet.workers.get(worker_id)
    assert known is None or (known.node, known.peer) == (NODE, b"w-%d" % worker_id)


def test_a_second_hello_takes_no_place(scene: Scene) -> None:
    rig, order = scene.rig, scene.order
    rig.say(b"double", _hello(order, order.claim))
    rig.only(b"double", m.Leave)
    assert _is_served(scene)


def test_the_mark_of_one_worker_is_not_anothers(scene: Scene) -> None:
    rig, order = scene.rig, scene.order
    other = msgspec.structs.replace(order, worker_id=order.worker_id + 1)
    rig.say(b"x", _hello(other, order.claim))
    rig.only(b"x", m.Leave)
    assert CLAIMS.is_genuine(held(order))


def test_an_id_that_a_node_makes_up_is_not_the_next_ones_measure(scene: Scene) -> None:
    rig, order = scene.rig, scene.order
    made_up = msgspec.structs.replace(order, worker_id=2**53 - 1)
    rig.join_node(THIEF, workers=(_forged(made_up),))
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 2, 2, synchronous=False))
    (new,) = rig.take(NODE, m.StartWorker) + rig.take(THIEF, m.StartWorker)
    assert new.worker_id == order.worker_id + 1


def test_a_gateway_neither_ends_nor_reads_what_another_waits_for(scene: Scene) -> None:
    rig = scene.rig
    rig.join_gateway(b"g-2")
    rig.submit(1)
    batch = rig.only(scene.worker, m.Assign)
    rig.submit(2)
    rig.say(b"g-2", m.Cancel((1, 2)))
    rig.say(b"g-2", m.GatewayBeat({}, (1, 2), ()))
    assert rig.only(b"g-2", m.Forgotten).jobs == (1, 2)
    rig.say(b"g-2", m.Bye())
    rig.complete(scene.worker, batch)
    assert [item.job for item in rig.only(GATEWAY, m.Answered).items] == [1]
    assert not rig.take(b"g-2", m.Answered)
    assert [*rig.core.gateways[GATEWAY].jobs] == [2]
