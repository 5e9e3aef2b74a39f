"""What a node offers, on hosts that are made up."""

import pytest

from torchrelay.shared.host import Gpu
from torchrelay.shared.settings import SettingsError
from torchrelay.worker.node import devices

GPUS = [Gpu(f"GPU-{number}", "H100", 80 << 30) for number in range(8)]


def test_a_named_device_is_offered_once() -> None:
    found = devices.offered(["cpu", "cpu"], {})
    assert [(device.name, device.kind) for device in found] == [("cpu", "cpu")]
    assert found[0].memory_bytes > 0


def test_a_device_that_is_not_here_is_an_error_that_names_those_that_are() -> None:
    with pytest.raises(SettingsError, match="no device banana; it has cpu"):
        devices.offered(["banana"], {}, list)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, [f"cuda:{number}" for number in range(8)]),
        ("6", ["cuda:0"]),
        ("6,2", ["cuda:0", "cuda:1"]),
        ("", ["cpu"]),
    ],
)
def test_auto_is_every_gpu_that_torch_sees_or_else_the_cpu(visible: str | None, names: list[str]) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert [device.name for device in devices.offered(["auto"], environment, lambda: GPUS)] == names


@pytest.mark.parametrize(
    ("order", "names", "warnings"),
    [
        ("FASTEST_FIRST", ("T4", "H100"), 1),
        ("FASTEST_FIRST", ("T4", "T4"), 0),
        ("PCI_BUS_ID", ("T4", "H100"), 0),
    ],
)
def test_a_node_warns_where_a_gpu_may_be_measured_as_another(
    order: str, names: tuple[str, ...], warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    gpus = [Gpu(f"GPU-{number}", name, 1) for number, name in enumerate(names)]
    devices.warn_of_unsure_order({"CUDA_DEVICE_ORDER": order}, lambda: gpus)
    assert [record.message for record in caplog.records] == ["gpus.order_unsure"] * warnings
