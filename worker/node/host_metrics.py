"""Measures the host: cpu, memory, disk and GPUs, by TorchServe's names and units."""

import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import psutil
import pynvml

from torchrelay.shared import clock
from torchrelay.shared.host import visible_order
from torchrelay.shared.wire import messages as m

logger = logging.getLogger(__name__)

Unit = Literal["Percent", "Megabytes", "Gigabytes"]

_HOST = ("Level", "Host")
MEGABYTE, GIGABYTE = 1 << 20, 1 << 30
#: The first reading has none before it to compare with, and would be 0 or 100.
FIRST_CPU_SAMPLE_S = 0.1
#: The filesystem whose room is shown.
DISK = "/"


class Gpu(NamedTuple):
    """What a GPU says of itself; percents None where it can't tell (one that is shared by MIG)."""

    uuid: str
    used_bytes: int
    total_bytes: int
    busy_percent: int | None
    memory_busy_percent: int | None = None


def read_gpus() -> list[Gpu]:
    """Ask the driver about all GPUs in its own order; without a driver there are none."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_read_gpu(pynvml.nvmlDeviceGetHandleByIndex(n)) for n in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        logger.warning("gpus.not_measured", extra={"reason": str(error)})
        return []
    finally:
        pynvml.nvmlShutdown()


class HostMetricsReader:
    """Reads the figures of this host; each read's cpu use is that since the read before.

    Blocks for as long as the GPUs' driver likes: not for a loop to call.
    """

    def __init__(
        self, environment: Mapping[str, str], read_gpus: Callable[[], Sequence[Gpu]] = read_gpus
    ) -> None:
        self._visible = environment.get("CUDA_VISIBLE_DEVICES")
        self._read_gpus = read_gpus
        #: How long to look at the cpu; None compares with the reading before.
        self._cpu_sample_s: float | None = FIRST_CPU_SAMPLE_S

    def read(self) -> m.NodeMeasured:
        """Measure now; what can't be measured is left out."""
        points: list[m.MetricPoint] = []
        try:
            points += _host_points(self._cpu_sample_s)
            self._cpu_sample_s = None
        except (psutil.Error, OSError) as error:
            logger.warning("host.not_measured", extra={"reason": str(error)})
        gpus = self._visible_gpus()
        points += (point for number, gpu in enumerate(gpus) for point in _gpu_points(number, gpu))
        uses = (
            m.GpuUse(number, gpu.used_bytes, gpu.busy_percent, gpu.memory_busy_percent)
            for number, gpu in enumerate(gpus)
        )
        return m.NodeMeasured(socket.gethostname(), tuple(points), tuple(uses))

    def _visible_gpus(self) -> list[Gpu]:
        """Measure GPUs, in the order of torch's numbers, by which handlers know them."""
        gpus = self._read_gpus()
        return [gpus[index] for index in visible_order(self._visible, [gpu.uuid for gpu in gpus])]


def _read_gpu(handle: object) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    uuid = str(pynvml.nvmlDeviceGetUUID(handle))
    try:
        busy = pynvml.nvmlDeviceGetUtilizationRates(handle)
    except pynvml.NVMLError:
        return Gpu(uuid, int(memory.used), int(memory.total), None)
    return Gpu(uuid, int(memory.used), int(memory.total), int(busy.gpu), int(busy.memory))


def _host_points(cpu_sample_s: float | None) -> Iterator[m.MetricPoint]:
    disk, memory = psutil.disk_usage(DISK), psutil.virtual_memory()
    yield _point("CPUUtilization", "Percent", psutil.cpu_percent(cpu_sample_s))
    yield _point("DiskAvailable", "Gigabytes", disk.free / GIGABYTE)
    yield _point("DiskUsage", "Gigabytes", disk.used / GIGABYTE)
    yield _point("DiskUtilization", "Percent", disk.percent)
    yield _point("MemoryAvailable", "Megabytes", memory.available / MEGABYTE)
    yield _point("MemoryUsed", "Megabytes", memory.used / MEGABYTE)
    yield _point("MemoryUtilization", "Percent", memory.percent)


def _gpu_points(number: int, gpu: Gpu) -> Iterator[m.MetricPoint]:
    device = ("DeviceId", str(number))
    share = 100 * gpu.used_bytes / max(1, gpu.total_bytes)
    yield _point("GPUMemoryUtilization", "Percent", share, device)
    yield _point("GPUMemoryUsed", "Megabytes", gpu.used_bytes / MEGABYTE, device)
    if gpu.busy_percent is not None:
        yield _point("GPUUtilization", "Percent", gpu.busy_percent, device)


def _point(name: str, unit: Unit, value: float, *more: tuple[str, str]) -> m.MetricPoint:
    return m.MetricPoint(name, "gauge", unit, float(value), (_HOST, *more), clock.wall_ms())
