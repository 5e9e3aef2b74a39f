"""What a host has, on hosts that are made up."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from torchrelay.shared import host
from torchrelay.shared.host import Gpu

UUIDS = ["GPU-aa11", "GPU-aa22", "GPU-bb33"]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        (" 1 ", [1]),
        ("GPU-bb,0", [2, 0]),
        ("GPU-aa", []),
        ("0,7,1", [0]),
        ("-1", []),
        ("0,-1,1", [0]),
        ("2, 0", [2, 0]),
        ("1gpu", [1]),
        ("NoDevFiles", []),
        ("none", []),
        ("0,0", []),
        ("1,0,1", []),
        ("GPU-bb33,GPU-bb", []),
        (",1", []),
    ],
)
def test_gpus_are_numbered_as_cuda_numbers_them(visible: str | None, expected: list[int]) -> None:
    assert host.visible_order(visible, UUIDS) == expected


#: One that MIG has divided, and one that is whole.
GPUS = [
    Gpu("GPU-a", "A100", 80, (Gpu("MIG-1", "A100 1g", 10), Gpu("MIG-2", "A100 3g", 40))),
    Gpu("GPU-b", "A100", 80),
]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ["GPU-a", "GPU-b"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["GPU-b"]),
        ({"CUDA_VISIBLE_DEVICES": "MIG-2"}, ["MIG-2"]),
        ({"CUDA_VISIBLE_DEVICES": " MIG-1,MIG-2"}, ["MIG-1"]),
        ({"CUDA_VISIBLE_DEVICES": "MIG-3"}, []),
        # That is for who makes a container, which then has no other GPUs; it hides none here.
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, ["GPU-a", "GPU-b"]),
    ],
)
def test_gpus_are_those_that_torch_sees(environment: dict[str, str], expected: list[str]) -> None:
    assert [gpu.uuid for gpu in host.visible_gpus(environment, lambda: GPUS)] == expected
    assert host.look(environment, lambda: GPUS).gpus == len(expected)


DIFFERENT = [Gpu("GPU-a", "T4", 16), Gpu("GPU-b", "H100", 80)]
FASTEST = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}


@pytest.mark.parametrize(
    ("environment", "gpus", "expected"),
    [
        ({}, DIFFERENT, False),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, DIFFERENT, False),
        (FASTEST, DIFFERENT, True),
        (FASTEST, GPUS, False),
        ({**FASTEST, "CUDA_VISIBLE_DEVICES": "1"}, DIFFERENT, True),
        ({**FASTEST, "CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a"}, DIFFERENT, False),
        ({**FASTEST, "CUDA_VISIBLE_DEVICES": ""}, DIFFERENT, False),
    ],
)
def test_numbers_are_unsure_where_cuda_puts_the_fastest_of_different_gpus_first(
    environment: dict[str, str], gpus: list[Gpu], expected: bool
) -> None:
    assert host.is_order_unsure(environment, gpus) is expected


class FakeDriver(ModuleType):
    """NVML of a host with one whole GPU and one that MIG has divided; a handle is a GPU's uuid.

    It lists the GPUs against their order on the PCI bus.
    """

    class NVMLError(Exception):
        """What the real one raises."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.calls = 0

    def nvmlInit(self) -> None:  # noqa: N802  # NVML's names, here and below
        self.calls += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.calls -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> str:  # noqa: N802
        return ("GPU-b", "GPU-a")[number]

    def nvmlDeviceGetPciInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(domain=0, bus={"GPU-a": 0x3B, "GPU-b": 0xAF}[handle], device=0)

    def nvmlDeviceGetName(self, handle: str) -> str:  # noqa: N802
        return f"name of {handle}"

    def nvmlDeviceGetUUID(self, handle: str) -> str:  # noqa: N802
        return handle

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        return (
            SimpleNamespace(total=80, used=8)
            if handle.startswith("GPU")
            else SimpleNamespace(total=40, used=4)
        )

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:  # noqa: N802
        if handle != "GPU-a":
            raise self.NVMLError
        return SimpleNamespace(gpu=50, memory=7)

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:  # noqa: N802
        return 7 if handle == "GPU-b" else 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, number: int) -> str:  # noqa: N802
        if number:
            raise self.NVMLError
        return "MIG-1"


def test_gpus_are_read_from_their_driver_with_their_use_and_their_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = FakeDriver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    part = Gpu("MIG-1", "name of MIG-1", 40, (), 4)
    assert host.read_gpus() == [
        Gpu("GPU-a", "name of GPU-a", 80, (), 8, 50, 7),
        Gpu("GPU-b", "name of GPU-b", 80, (part,), 8),
    ]
    assert driver.calls == 0


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": ""}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
    ],
)
def test_a_containers_cpu_quota_is_read_in_both_versions_of_cgroups(
    tmp_path: Path, files: dict[str, str], expected: float | None
) -> None:
    write(tmp_path, files)
    assert host.cpu_quota(tmp_path) == expected


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/jobs/seven\n", {"jobs/seven/cpu.max": "200000 100000", "jobs/cpu.max": "max 100000"}, 2.0),
        ("0::/jobs/seven\n", {"jobs/seven/cpu.max": "max 100000", "jobs/cpu.max": "300000 100000"}, 3.0),
        ("0::/docker/hash\n", {"cpu.max": "100000 100000"}, 1.0),
        ("0::/../other\n", {"cpu.max": "max 100000"}, None),
        (
            "5:memory:/elsewhere\n4:cpu,cpuacct:/jobs\n0::/\n",
            {
                "cpu/jobs/cpu.cfs_quota_us": "400000\n",
                "cpu/jobs/cpu.cfs_period_us": "100000\n",
                "cpu/elsewhere/cpu.cfs_quota_us": "100000\n",
                "cpu/elsewhere/cpu.cfs_period_us": "100000\n",
            },
            4.0,
        ),
    ],
)
def test_the_quota_of_a_service_or_a_job_is_that_of_its_group_and_of_those_above_it(
    tmp_path: Path, own: str, files: dict[str, str], expected: float | None
) -> None:
    write(tmp_path, files)
    assert host.cpu_quota(tmp_path, own) == expected


@pytest.mark.parametrize(("quota", "cpus"), [(None, 8), (2.0, 2), (1.5, 2), (0.5, 1), (16.0, 8)])
def test_cpus_are_counted_as_the_jvm_counts_them(quota: float | None, cpus: int) -> None:
    assert host.count_cpus(8, quota) == cpus


def test_there_is_at_least_one_cpu() -> None:
    assert host.cpu_count() >= 1
    assert host.oom_kills() >= 0
