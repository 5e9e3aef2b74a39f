"""How much memory of a node's devices is taken: what is kept for workers, and what was measured."""

from collections import Counter

import pytest

from tests.broker.fleet.fleets import GIB, cpu, empty_fleet, gpu, join, measure, places, record, wish
from torchrelay.broker.core.states import WorkerState
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.wire import messages as m


@pytest.mark.parametrize(("in_use", "expected"), [(0.0, 2), (5.5, 2), (6.5, 1), (15.5, 0), (30.0, 0)])
def test_what_a_gpu_has_in_use_counts_beside_what_is_ordered(in_use: float, expected: int) -> None:
    fleet = empty_fleet()
    join(fleet, "n-1", gpu(0), in_use={0: in_use})
    assert len(places(fleet, record(ModelConfig(placement=wish(9)), 3))) == expected


def test_what_a_loaded_worker_uses_is_not_counted_twice_once_it_is_measured() -> None:
    fleet = empty_fleet()
    join(fleet, "n-1", gpu(0), in_use={0: 2})
    one = record(ModelConfig(placement=wish(9)))
    assert places(fleet, one) == [("n-1", ("cuda:0",))]
    (worker,) = fleet.workers.values()
    worker.move(WorkerState.READY, 2.0)
    two = record(ModelConfig(placement=wish(12)), model="other")
    assert places(fleet, one, two, now=3.0) == [("n-1", ("cuda:0",))], "2 in use, 9 and 12 are to come: 23"
    other = fleet.workers[worker.worker_id + 1]
    measure(fleet, "n-1", {0: 11}, now=4.0)
    assert fleet.taken_bytes(fleet.nodes[b"n-1"])["cuda:0"] == 23 * GIB
    fleet.remove_worker(other)
    assert fleet.taken_bytes(fleet.nodes[b"n-1"])["cuda:0"] <= 11 * GIB


@pytest.mark.parametrize(("gib", "is_placed"), [(20.0, True), (0.0, True)])
def test_the_successor_of_a_worker_waits_for_no_measurement(gib: float, is_placed: bool) -> None:
    fleet = empty_fleet()
    join(fleet, "n-1", gpu(0))
    first = record(ModelConfig(placement=wish(gib)))
    assert places(fleet, first)
    (worker,) = fleet.workers.values()
    worker.move(WorkerState.READY, 2.0)
    measure(fleet, "n-1", {0: 21}, now=3.0)
    fleet.remove_worker(worker)
    again = record(ModelConfig(placement=wish(20)), model="next")
    assert bool(places(fleet, again, now=4.0)) is is_placed


def test_a_measurement_that_finds_no_gpu_leaves_what_is_kept_for_workers_alone() -> None:
    fleet = empty_fleet()
    join(fleet, "n-1", gpu(0), in_use={0: 20})
    wanted = record(ModelConfig(placement=wish(9)))
    assert not places(fleet, wanted)
    measure(fleet, "n-1", {}, now=2.0)  # as where the driver can't be read for once
    assert places(fleet, wanted, now=3.0)


def test_what_others_use_stays_when_a_worker_ends() -> None:
    fleet = empty_fleet()
    join(fleet, "n-1", gpu(0))
    first = record(ModelConfig(placement=wish(9)))
    assert places(fleet, first)
    (worker,) = fleet.workers.values()
    worker.move(WorkerState.READY, 2.0)
    measure(fleet, "n-1", {0: 19}, now=3.0)
    fleet.remove_worker(worker)
    assert not places(fleet, record(ModelConfig(placement=wish(15)), model="next"), now=4.0)
    assert places(fleet, record(ModelConfig(placement=wish(14)), model="less"), now=5.0)


def test_workers_on_a_cpu_share_the_memory_of_their_host() -> None:
    fleet = empty_fleet()
    join(fleet, "n-1", cpu(16))
    join(fleet, "n-2", gpu(0), memory_gib=40)
    wanted = record(ModelConfig(device_type="cpu", placement=wish(10)), 8)
    assert Counter(places(fleet, wanted)) == {("n-1", ("cpu",)): 1, ("n-2", ("cpu",)): 4}


def test_a_device_that_tells_no_memory_gets_no_worker_that_asks_for_some() -> None:
    fleet = empty_fleet()
    join(fleet, "n-1", m.Device("cuda:0", "gpu"))
    wanted = record(ModelConfig(placement=wish(1)))
    assert places(fleet, wanted) == []
    assert "cuda:0 of n-1 doesn't tell how much memory it has" in fleet.explain(wanted, 1.0)


def test_a_node_that_says_hello_again_is_as_full_as_before() -> None:
    fleet = empty_fleet()
    join(fleet, "n-1", gpu(0), in_use={0: 20})
    join(fleet, "n-1", gpu(0))
    assert not places(fleet, record(ModelConfig(placement=wish(9))))
