"""System metrics: TorchServe's names and units, GPUs by the numbers that handlers know."""

import math

import pytest

from torchrelay.shared.host import Gpu, read_gpus
from torchrelay.shared.wire import messages as m
from torchrelay.worker.node.host_metrics import HostMetricsReader

GPUS = [
    Gpu("GPU-aa", "H100", 12 << 20, (), 3 << 20, 50, 7),
    Gpu("GPU-bb", "A100", 12 << 20, (Gpu("MIG-1", "A100 1g", 4 << 20, (), 1 << 20),), 6 << 20),
]


def test_a_hosts_figures_have_torchserves_names_and_units_and_no_gpu_where_there_is_none() -> None:
    points = HostMetricsReader({}, list).read().points
    assert {point.name: point.unit for point in points} == {
        "CPUUtilization": "Percent",
        "DiskAvailable": "Gigabytes",
        "DiskUsage": "Gigabytes",
        "DiskUtilization": "Percent",
        "MemoryAvailable": "Megabytes",
        "MemoryUsed": "Megabytes",
        "MemoryUtilization": "Percent",
    }
    assert all(point.dimensions == (("Level", "Host"),) and point.kind == "gauge" for point in points)
    assert all(math.isfinite(point.value) and point.value >= 0 for point in points)
    assert all(point.value <= 100 for point in points if point.unit == "Percent")


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ({}, {("GPUMemoryUsed", "0"): 3.0, ("GPUMemoryUsed", "1"): 6.0, ("GPUMemoryUtilization", "0"): 25.0,
              ("GPUMemoryUtilization", "1"): 50.0, ("GPUUtilization", "0"): 50.0}),
        ({"CUDA_VISIBLE_DEVICES": "1"}, {("GPUMemoryUsed", "0"): 6.0, ("GPUMemoryUtilization", "0"): 50.0}),
        ({"CUDA_VISIBLE_DEVICES": ""}, {}),
        ({"CUDA_VISIBLE_DEVICES": "GPU-bb"}, {("GPUMemoryUsed", "0"): 6.0,
                                              ("GPUMemoryUtilization", "0"): 50.0}),
        ({"CUDA_VISIBLE_DEVICES": "MIG-1"}, {("GPUMemoryUsed", "0"): 1.0,
                                             ("GPUMemoryUtilization", "0"): 25.0}),
    ],
)  # fmt: skip
def test_gpus_are_measured_by_torchs_numbers_and_one_that_cannot_tell_its_load_tells_its_memory(
    visible: dict[str, str], expected: dict[tuple[str, str], float]
) -> None:
    points = HostMetricsReader(visible, lambda: GPUS).read().points
    found = {(point.name, dict(point.dimensions).get("DeviceId")): point.value for point in points}
    assert {key: value for key, value in found.items() if key[1] is not None} == expected


def test_what_each_gpu_has_to_do_is_told_by_torchs_numbers() -> None:
    reader = HostMetricsReader({"CUDA_VISIBLE_DEVICES": "1,0"}, lambda: GPUS)
    assert reader.read().gpus == (m.GpuUse(0, 6 << 20, None, None), m.GpuUse(1, 3 << 20, 50, 7))
    assert HostMetricsReader({}, list).read().gpus == ()


@pytest.mark.gpu
@pytest.mark.skipif(not read_gpus(), reason="no CUDA device; see CONTRIBUTING.md, how tests look")
def test_a_real_gpu_tells_of_its_memory() -> None:
    gpus = read_gpus()
    assert gpus
    assert all(0 <= gpu.used_bytes <= gpu.memory_bytes for gpu in gpus)
