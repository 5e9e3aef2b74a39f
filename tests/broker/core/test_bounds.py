"""What one peer may have, and what one message may cost: the loop serves the others meanwhile."""

from collections import Counter

import pytest

from tests.broker.rig import CLAIMS, CPU, GATEWAY, NODE, Rig, settings
from torchrelay.broker.core import gateway_requests, peers
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.fleet.placement import Placement
from torchrelay.broker.jobs.queues import PlainQueue
from torchrelay.broker.jobs.sequences import SequenceQueue
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.wire import fields
from torchrelay.shared.wire import messages as m


def _node(name: str, slots: int = 8) -> m.HelloNode:
    return m.HelloNode(m.PROTOCOL_VERSION, name, (CPU,), slots, ())


def _held_jobs(count: int, first: int = 0, sequence: str = "") -> m.Submit:
    items = (m.SubmitItem(first + n, "m", None, False, b"", sequence=sequence) for n in range(count))
    return m.Submit(tuple(items), m.HELD)


def test_one_peer_is_one_worker() -> None:
    rig = Rig()
    one, two = rig.ready_rig(workers=2)
    worker = rig.core.fleet.workers[int(two[2:])]
    record = rig.core.catalog.resolve("m", None)
    claim = CLAIMS.make(worker.worker_id, worker.key, record.archive)
    hello = m.HelloWorker(
        m.PROTOCOL_VERSION, worker.worker_id, "n-1", "m", "1.0", record.archive, "cpu", 1, claim
    )
    rig.say(one, hello)
    assert "a second worker" in rig.only(one, m.Misunderstood).reason
    assert worker.peer == two


def test_there_is_room_for_so_many_nodes_and_gateways() -> None:
    rig = Rig()
    for number in range(peers.NODES_LIMIT + 1):
        rig.core.handle([rig.event(b"n%d" % number, _node("same"), epoch=0)], now=rig.now)
        hello = m.HelloGateway(m.PROTOCOL_VERSION, "g", 1)
        rig.core.handle([rig.event(b"g%d" % number, hello, epoch=0)], now=rig.now)
    assert len(rig.core.fleet.nodes) == peers.NODES_LIMIT
    assert len(rig.core.gateways) == peers.GATEWAYS_LIMIT
    assert len({node.name for node in rig.core.fleet.nodes.values()}) == peers.NODES_LIMIT
    rig.say(b"one more", _node("same"))
    assert str(peers.NODES_LIMIT) in rig.only(b"one more", m.Leave).reason
    rig.say(b"n1", _node("same"))
    rig.only(b"n1", m.Welcome)


def test_a_gateway_has_so_many_jobs_at_most_and_others_have_theirs() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.join_gateway(b"g-2")
    count = fields.JOBS_LIMIT
    for first in range(0, gateway_requests.JOBS_PER_GATEWAY_LIMIT, count):
        rig.core.handle([rig.event(GATEWAY, _held_jobs(count, first))], now=rig.now)
    rig.say(GATEWAY, _held_jobs(1, 10**6))
    assert [item.job for item in rig.only(GATEWAY, m.Refused).items] == [10**6]
    assert len(rig.core.gateways[GATEWAY].jobs) == gateway_requests.JOBS_PER_GATEWAY_LIMIT
    rig.core.handle([rig.event(b"g-2", _held_jobs(1))], now=rig.now)
    assert len(rig.core.gateways[b"g-2"].jobs) == 1


def test_scaling_is_bounded_by_its_setting() -> None:
    rig = Rig(settings(workers_limit=5))
    rig.join_gateway()
    rig.join_node()
    rig.register()
    for workers, is_refused in ((5, False), (6, True), (300_000, True)):
        rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, workers, max(7, workers), synchronous=False))
        refused = rig.take(GATEWAY, m.AskRefused)
        assert [one.error for one in refused] == ["BadRequest"] * is_refused
        assert all("workers_limit" in one.message for one in refused)
    rig.archive("n.mar", "n", config=ModelConfig(min_workers=6, max_workers=6))
    rig.say(GATEWAY, m.RegisterModel(3, "n.mar", synchronous=False))
    assert "workers_limit" in rig.only(GATEWAY, m.AskRefused).message


class CountingFleet:
    """Counts how often a node's workers are looked at."""

    def __init__(self, fleet: Fleet) -> None:
        self.looks = 0
        self._fleet = fleet

    def of_node(self, peer: bytes) -> list[object]:
        self.looks += 1
        return list(self._fleet.of_node(peer))


def test_placing_many_workers_looks_at_each_node_a_few_times() -> None:
    rig = Rig()
    rig.join_gateway()
    for number in range(20):
        rig.join_node(b"n%d" % number, slots=100)
    rig.register(initial_workers=0)
    counting = CountingFleet(rig.core.fleet)
    placement = Placement(rig.core.fleet.nodes.values(), counting.of_node, lambda _: True)  # type: ignore[arg-type]  # counts
    record = rig.core.catalog.resolve("m", None)
    places = placement.place(record, 1000, failed_on={}, here=Counter())
    assert len(places) == 1000
    assert set(Counter(node.peer for node, _ in places).values()) == {50}
    assert counting.looks <= 2 * 20


def test_5_000_of_10_000_that_wait_leave_at_once_and_free_their_places_in_the_same_turn() -> None:
    rig = Rig(settings(job_queue_size=10_000))
    (worker,) = rig.ready_rig()
    rig.submit(20_000)  # runs
    rig.only(worker, m.Assign)
    _submit(rig, range(1, 10_002))
    assert [item.job for item in rig.only(GATEWAY, m.Refused).items] == [10_001]
    rig.say(GATEWAY, m.Cancel(tuple(range(2, 10_001, 2))))
    _submit(rig, range(10_002, 15_003))
    assert [item.job for item in rig.only(GATEWAY, m.Refused).items] == [15_002]
    (queue,) = rig.core.jobs.queues.values()
    assert len(queue) == 10_000


def _submit(rig: Rig, numbers: range) -> None:
    for start in range(0, len(numbers), 1000):
        some = numbers[start : start + 1000]
        rig.say(GATEWAY, m.Submit(tuple(m.SubmitItem(n, "m", None, False, b"meta") for n in some)))


@pytest.mark.parametrize("kind", ["plain", "sequence"])
def test_jobs_are_taken_out_of_a_queue_in_one_pass(kind: str) -> None:
    config = ModelConfig(
        sequence_batching=True, sequence_max_idle_ms=3000, max_sequences=9, max_sequence_queue_jobs=9
    )
    rig = Rig()
    rig.ready_rig(config=config if kind == "sequence" else None)
    rig.say(GATEWAY, _held_jobs(60, sequence="s" if kind == "sequence" else ""))
    rig.say(GATEWAY, m.Cancel(tuple(range(59, 20, -1))))
    (queue,) = rig.core.jobs.queues.values()
    assert isinstance(queue, SequenceQueue if kind == "sequence" else PlainQueue)
    assert {job.number for job in queue.jobs} == set(range(1, 21))


def test_a_node_that_names_thousands_of_strange_workers_is_answered_once() -> None:
    rig = Rig()
    rig.join_node()
    rig.say(NODE, m.NodeBeat(tuple((10**6 + n, 1) for n in range(fields.HELD_LIMIT))))
    assert len(rig.take(NODE, m.StopWorker)) == 1
