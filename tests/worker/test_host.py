from pathlib import Path

import pytest

from torchrelay.shared.settings import SettingsError
from torchrelay.worker import host

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
    ],
)
def test_gpus_are_numbered_as_cuda_numbers_them(visible: str | None, expected: list[int]) -> None:
    assert host.visible_order(visible, UUIDS) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
    ],
)
def test_a_containers_cpu_quota_is_read_in_both_versions_of_cgroups(
    tmp_path: Path, files: dict[str, str], expected: float | None
) -> None:
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert host.cpu_quota(tmp_path) == expected


def test_a_named_device_is_offered_once() -> None:
    found = host.devices(["cpu", "cpu"], {})
    assert [(device.name, device.kind) for device in found] == [("cpu", "cpu")]
    assert found[0].memory_bytes > 0


def test_a_device_that_is_not_here_is_an_error_that_names_those_that_are() -> None:
    with pytest.raises(SettingsError, match="no device banana; it has cpu"):
        host.devices(["banana"], {})


def test_there_is_at_least_one_cpu() -> None:
    assert host.cpu_count() >= 1
    assert host.oom_kills() >= 0
