"""Measures the host: cpu, memory, disk and GPUs, by TorchServe's names and units."""

import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import psutil

from torchrelay.shared import clock, host
from torchrelay.shared.wire import messages as m

logger = logging.getLogger(__name__)

_HOST = ("Level", "Host")
MEGABYTE, GIGABYTE = 1 << 20, 1 << 30
#: The first reading has none before it to compare with, and would be 0 or 100.
FIRST_CPU_SAMPLE_S = 0.1
#: The filesystem whose room is shown.
DISK = "/"


@dataclass(eq=False)
class HostMetricsReader:
    """Measures this host; the cpu use of each reading is that since the reading before.

    Blocks as long as the GPUs' driver does: not for an event loop to call.
    """

    environment: Mapping[str, str]
    #: Lists the GPUs of the driver, of which those that `environment` shows are measured.
    probe: Callable[[], Sequence[host.Gpu]] | None = None
    #: How long to measure the cpu use, in seconds; None takes it since the reading before.
    _cpu_sample_s: float | None = field(default=FIRST_CPU_SAMPLE_S, init=False)

    def read(self) -> m.NodeMeasured:
        """Measure now; what can't be measured is left out."""
        points: list[m.MetricPoint] = []
        try:
            points += _host_points(self._cpu_sample_s)
            self._cpu_sample_s = None
        except (psutil.Error, OSError) as error:
            logger.warning("host.not_measured", extra={"reason": str(error)})
        gpus = host.visible_gpus(self.environment, self.probe)
        points += (point for number, gpu in enumerate(gpus) for point in _gpu_points(number, gpu))
        uses = (
            m.GpuUse(number, gpu.used_bytes, gpu.busy_percent, gpu.memory_busy_percent)
            for number, gpu in enumerate(gpus)
        )
        return m.NodeMeasured(socket.gethostname(), tuple(points), tuple(uses))


def _host_points(cpu_sample_s: float | None) -> Iterator[m.MetricPoint]:
    disk, memory = psutil.disk_usage(DISK), psutil.virtual_memory()
    yield _point("CPUUtilization", "Percent", psutil.cpu_percent(cpu_sample_s))
    yield _point("DiskAvailable", "Gigabytes", disk.free / GIGABYTE)
    yield _point("DiskUsage", "Gigabytes", disk.used / GIGABYTE)
    yield _point("DiskUtilization", "Percent", disk.percent)
    yield _point("MemoryAvailable", "Megabytes", memory.available / MEGABYTE)
    yield _point("MemoryUsed", "Megabytes", memory.used / MEGABYTE)
    yield _point("MemoryUtilization", "Percent", memory.percent)


def _gpu_points(number: int, gpu: host.Gpu) -> Iterator[m.MetricPoint]:
    device = ("DeviceId", str(number))
    share = 100 * gpu.used_bytes / max(1, gpu.memory_bytes)
    yield _point("GPUMemoryUtilization", "Percent", share, device)
    yield _point("GPUMemoryUsed", "Megabytes", gpu.used_bytes / MEGABYTE, device)
    if gpu.busy_percent is not None:
        yield _point("GPUUtilization", "Percent", gpu.busy_percent, device)


def _point(name: str, unit: str, value: float, *more: tuple[str, str]) -> m.MetricPoint:
    return m.MetricPoint(name, "gauge", unit, float(value), (_HOST, *more), clock.wall_ms())
