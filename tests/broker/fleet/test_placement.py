"""Which device a worker gets: what its model config allows, the least used first."""

from collections import Counter
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.broker.fleet.fleets import (
    GIB,
    check,
    drawn_fleets,
    drawn_records,
    empty_fleet,
    gpu,
    join,
    places,
    record,
    something_happens,
    wish,
)
from tests.broker.rig import CPU, GATEWAY, NODE, Rig, held
from torchrelay.broker.fleet import device_memory
from torchrelay.broker.fleet.nodes import FleetNode
from torchrelay.broker.fleet.placement import Placement
from torchrelay.broker.fleet.shortages import Need
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.wire import messages as m

GPUS = tuple(m.Device(f"cuda:{number}", "gpu") for number in range(4))
OTHER = b"n-2"


def devices(rig: Rig, config: ModelConfig, workers: int = 2) -> list[tuple[str, int | None]]:
    url = rig.archive(config=config)
    rig.say(GATEWAY, m.RegisterModel(1, url, initial_workers=workers, synchronous=False))
    orders = [*rig.take(NODE, m.StartWorker), *rig.take(OTHER, m.StartWorker)]
    return [(order.device, order.gpu_id) for order in orders]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ModelConfig(), [("cuda:0", 0), ("cuda:1", 1)]),
        (ModelConfig(device_type="gpu"), [("cuda:0", 0), ("cuda:1", 1)]),
        (ModelConfig(device_type="cpu"), [("cpu", None), ("cpu", None)]),
        (ModelConfig(device_ids=(3,)), [("cuda:3", 3), ("cuda:3", 3)]),
        (ModelConfig(device_type="gpu", device_ids=(2, 1)), [("cuda:1", 1), ("cuda:2", 2)]),
        (ModelConfig(device_type="cpu", device_ids=(2, 1)), [("cpu", None), ("cpu", None)]),
    ],
)
def test_workers_run_where_the_model_config_says(
    config: ModelConfig, expected: list[tuple[str, int | None]]
) -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node(devices=GPUS)
    assert devices(rig, config) == expected


@pytest.mark.parametrize("config", [ModelConfig(device_type="gpu"), ModelConfig(device_ids=(7,))])
def test_a_model_for_gpus_runs_on_a_fleet_that_has_none(config: ModelConfig) -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    assert devices(rig, config) == [("cpu", None), ("cpu", None)]


def test_a_model_for_gpus_goes_to_the_nodes_that_have_some() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node(devices=(CPU,))
    rig.join_node(OTHER, devices=GPUS[:1])
    assert devices(rig, ModelConfig(device_type="gpu")) == [("cuda:0", 0), ("cuda:0", 0)]


def test_processes_that_share_a_model_get_a_gpu_each() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node(devices=GPUS)
    rig.archive("u", config=ModelConfig(parallel_type="tp", parallel_level=2))
    rig.say(GATEWAY, m.RegisterModel(1, "u", initial_workers=3, synchronous=False))
    orders = rig.take(NODE, m.StartWorker)
    assert [(order.device, order.gpu_ids) for order in orders] == [
        ("cuda:0", (0, 1)),
        ("cuda:2", (2, 3)),
        ("cuda:0", (0, 1)),
    ]


def test_one_process_of_a_parallelism_of_its_own_gets_as_many_gpus_of_one_node() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node(devices=(CPU, GPUS[0]))
    rig.join_node(OTHER, devices=GPUS)
    rig.archive("u", config=ModelConfig(parallel_type="custom", parallel_level=2, device_ids=(3, 1, 2)))
    rig.say(GATEWAY, m.RegisterModel(1, "u", initial_workers=2, synchronous=False))
    assert not rig.take(NODE, m.StartWorker)
    orders = rig.take(OTHER, m.StartWorker)
    assert [(order.device, order.gpu_ids) for order in orders] == [("cuda:1", (1, 2)), ("cuda:3", (3, 1))]


def test_a_parallelism_of_its_own_hides_other_gpus_even_from_a_worker_with_one() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node(devices=GPUS)
    rig.archive("u", config=ModelConfig(parallel_type="custom", parallel_level=1))
    rig.archive("v")
    rig.say(GATEWAY, m.RegisterModel(1, "u", initial_workers=2, synchronous=False))
    assert [order.gpu_ids for order in rig.take(NODE, m.StartWorker)] == [(0,), (1,)]
    rig.say(GATEWAY, m.RegisterModel(2, "v", model_name="plain", initial_workers=1, synchronous=False))
    order = rig.only(NODE, m.StartWorker)
    assert (order.gpu_id, order.gpu_ids) == (2, ())


def test_a_parallelism_of_its_own_runs_on_a_fleet_that_has_no_gpus() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.archive("u", config=ModelConfig(parallel_type="custom", parallel_level=4))
    rig.say(GATEWAY, m.RegisterModel(1, "u", initial_workers=1, synchronous=False))
    order = rig.only(NODE, m.StartWorker)
    assert (order.device, order.gpu_id, order.gpu_ids) == ("cpu", None, ())


def test_processes_that_share_a_model_share_a_cpu_too() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node(devices=GPUS)
    rig.archive("u", config=ModelConfig(parallel_type="tp", parallel_level=4, device_type="cpu"))
    rig.say(GATEWAY, m.RegisterModel(1, "u", initial_workers=1, synchronous=False))
    order = rig.only(NODE, m.StartWorker)
    assert (order.device, order.gpu_id, order.gpu_ids) == ("cpu", None, ())


@pytest.mark.parametrize("kind", ["pp", "custom"])
def test_workers_of_more_gpus_than_any_node_has_wait_for_one(kind: Literal["pp", "custom"]) -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node(devices=GPUS)
    rig.join_node(OTHER, devices=GPUS)
    rig.archive("u", config=ModelConfig(parallel_type=kind, parallel_level=5))
    rig.say(GATEWAY, m.RegisterModel(1, "u", initial_workers=1, synchronous=False, startup_timeout_s=1))
    assert not rig.take(NODE, m.StartWorker)
    rig.say(GATEWAY, m.DescribeModel(2, "m", None))
    assert (
        "no node with a free slot has 5 GPUs for each"
        in rig.only(GATEWAY, m.ModelDescribed).versions[0].explanation
    )


def test_a_device_that_nobody_has_is_said_to_be_missing() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node(devices=GPUS)
    assert devices(rig, ModelConfig(device_ids=(9,))) == []
    rig.say(GATEWAY, m.DescribeModel(2, "m", None))
    (version,) = rig.only(GATEWAY, m.ModelDescribed).versions
    assert "deviceIds [9]" in version.explanation
    assert (version.device_type, version.device_ids) == ("gpu", (9,))


@pytest.mark.parametrize(
    ("fleet", "config", "expected"),
    [
        ((CPU,), ModelConfig(), "cpu"),
        (GPUS, ModelConfig(), "gpu"),
        (GPUS, ModelConfig(device_type="cpu"), "cpu"),
        ((CPU,), ModelConfig(device_type="gpu"), "cpu"),
    ],
)
def test_the_kind_of_device_is_described_before_and_after_there_are_workers(
    fleet: tuple[m.Device, ...], config: ModelConfig, expected: str
) -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node(devices=fleet)
    rig.archive("u", config=config)
    rig.say(GATEWAY, m.RegisterModel(1, "u", initial_workers=0))
    for scale in (0, 1):
        rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, scale, scale, synchronous=False))
        rig.say(GATEWAY, m.DescribeModel(3, "m", None))
        assert rig.only(GATEWAY, m.ModelDescribed).versions[0].device_type == expected


def test_a_worker_goes_where_all_its_labels_are() -> None:
    fleet = empty_fleet()
    join(fleet, "n-1", gpu(0), labels={"zone": "a"})
    join(fleet, "n-2", gpu(0), labels={"zone": "a", "rack": "3"})
    join(fleet, "n-3", gpu(0), labels={"zone": "b", "rack": "3"})
    wanted = record(ModelConfig(placement=wish(zone="a", rack="3")), 2)
    assert places(fleet, wanted) == [("n-2", ("cuda:0",)), ("n-2", ("cuda:0",))]


def test_memory_is_kept_for_workers_that_have_not_loaded_anything_yet() -> None:
    fleet = empty_fleet()
    join(fleet, "n-1", gpu(0), gpu(1, 16))
    wanted = record(ModelConfig(placement=wish(9.1)), 5)
    assert places(fleet, wanted) == [("n-1", ("cuda:0",)), ("n-1", ("cuda:1",)), ("n-1", ("cuda:0",))]
    assert places(fleet, wanted) == []


def test_models_that_ask_for_no_memory_go_where_those_that_do_have_taken_it_all() -> None:
    fleet = empty_fleet()
    join(fleet, "n-1", gpu(0))
    assert places(fleet, record(ModelConfig(placement=wish(24))), record(ModelConfig(), model="plain")) == [
        ("n-1", ("cuda:0",)),
        ("n-1", ("cuda:0",)),
    ]


def test_every_gpu_of_a_worker_has_the_memory_that_it_asks_for() -> None:
    fleet = empty_fleet()
    join(fleet, "n-1", gpu(0), gpu(1, 8), gpu(2), in_use={2: 20})
    join(fleet, "n-2", gpu(0), gpu(1))
    config = ModelConfig(parallel_type="tp", parallel_level=2, placement=wish(10))
    wanted = record(config, 3)
    assert places(fleet, wanted) == [("n-2", ("cuda:0", "cuda:1"))] * 2
    assert "needs 2 GPUs and 10 GiB on each; cuda:1 of n-1 has 8 GiB free of 8; cuda:1 of n-2 has 4 GiB" in (
        fleet.explain(wanted, 1.0)
    )


def test_packing_leaves_other_gpus_and_nodes_free() -> None:
    packed, spread = empty_fleet(), empty_fleet()
    for fleet, packs in ((packed, True), (spread, False)):
        for name in ("n-1", "n-2"):
            join(fleet, name, gpu(0), gpu(1))
        wanted = record(ModelConfig(placement=wish(8, packs=packs)), 4)
        found = Counter(places(fleet, wanted))
        if packs:
            assert found == {("n-1", ("cuda:0",)): 3, ("n-1", ("cuda:1",)): 1}
        else:
            assert set(found.values()) == {1}


def test_packing_takes_the_gpu_on_which_least_is_left() -> None:
    fleet = empty_fleet()
    join(fleet, "n-1", gpu(0, 80), gpu(1, 24), gpu(2, 16))
    wanted = record(ModelConfig(placement=wish(20, packs=True)))
    assert places(fleet, wanted) == [("n-1", ("cuda:1",))]


def test_a_worker_that_only_installs_packages_needs_no_memory_but_its_labels() -> None:
    fleet = empty_fleet()
    join(fleet, "n-1", gpu(0), in_use={0: 24})
    join(fleet, "n-2", gpu(0), in_use={0: 24}, labels={"zone": "a"})
    wanted = record(ModelConfig(placement=wish(9, zone="a")), 0)
    fleet.install(wanted.key)
    assert places(fleet, wanted) == [("n-2", ("cuda:0",))]
    assert [worker.reserved_bytes for worker in fleet.workers.values()] == [0]


def test_a_restarted_broker_counts_every_gpu_of_the_workers_that_survived() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node(devices=(gpu(0), gpu(1), gpu(2)))
    config = ModelConfig(parallel_type="tp", parallel_level=2, placement=wish(20))
    rig.register(config=config)
    order = rig.only(NODE, m.StartWorker)
    assert (order.devices, order.reserved_bytes) == (("cuda:0", "cuda:1"), 20 * GIB)
    rig.worker_ready(order)
    rig.restart()
    rig.join_gateway()
    rig.worker_ready_again(order, "n-1")  # before its node
    rig.join_node(devices=(gpu(0), gpu(1), gpu(2)), workers=(held(order),))
    rig.register("other", config=ModelConfig(placement=wish(10)))
    assert rig.only(NODE, m.StartWorker).devices == ("cuda:2",)
    rig.say(GATEWAY, m.ReadFleet(2))
    (node,) = rig.only(GATEWAY, m.FleetRead).nodes
    assert node.taken_bytes == (20 * GIB, 20 * GIB, 10 * GIB)


def test_workers_that_a_node_of_an_earlier_version_holds_count_on_their_one_device() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node(devices=(gpu(0), gpu(1)))
    rig.register()
    order = rig.only(NODE, m.StartWorker)
    old = msgspec.structs.replace(held(order), devices=(), reserved_bytes=0)
    rig.restart()
    rig.join_gateway()
    rig.join_node(devices=(gpu(0), gpu(1)), workers=(old,))
    rig.register("other")
    assert rig.only(NODE, m.StartWorker).devices == ("cuda:1",)


def test_the_free_places_of_a_thousand_nodes_are_gone_through_once_for_all_who_lack_the_same() -> None:
    fleet = empty_fleet()
    looked = Counter[str]()
    for number in range(1000):
        join(fleet, f"n-{number}", gpu(0), labels={"zone": "a"})
    records = [record(ModelConfig(placement=wish(30)), model=f"m-{number}") for number in range(50)]
    original = Placement._choose

    def counting(self: Placement, node: FleetNode, need: Need) -> tuple[str, ...]:
        looked[node.name] += 1
        return original(self, node, need)

    Placement._choose = counting  # type: ignore[method-assign]
    try:
        for _ in range(3):
            assert places(fleet, *records) == []
            texts = {fleet.explain(one, 1.0) for one in records}
    finally:
        Placement._choose = original  # type: ignore[method-assign]
    assert set(looked.values()) == {1}
    (text,) = texts
    assert text.startswith("wants 1, has 0, no node has a place: needs 30 GiB; cuda:0 of n-0 has 24 GiB free")
    assert "of 997 more nodes 997 too little free memory" in text
    assert len(text) < 1000


@given(st.data())
def test_no_placement_exceeds_memory_slots_or_labels(data: st.DataObject) -> None:
    """Whatever joins, ends and is measured in whatever order."""
    fleet, records = data.draw(drawn_fleets()), data.draw(drawn_records())
    for now in range(1, data.draw(st.integers(2, 8))):
        something_happens(fleet, data.draw, now)
        before = {node.peer: fleet.taken_bytes(node) for node in fleet.nodes.values()}
        start, _ = fleet.reconcile(records, now)
        check(fleet, records)
        for worker in start:
            node = fleet.nodes[worker.node or b""]
            for device in worker.devices if worker.reserved_bytes else ():
                total = device_memory.total(node, device)
                assert before[node.peer][device] + worker.reserved_bytes <= total
                assert fleet.taken_bytes(node)[device] <= total, "what is measured leaves less"
        for one in records.values():
            is_lacking = len(fleet.live(one.key)) < one.min_workers
            assert not (is_lacking and fleet.free_places().fits(one)), (
                "there is a place, and it was not taken"
            )
