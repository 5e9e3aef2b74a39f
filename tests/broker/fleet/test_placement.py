"""Which device a worker gets: what its model config allows, the least used first."""

from typing import Literal

import pytest

from tests.broker.rig import CPU, GATEWAY, NODE, Rig
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
