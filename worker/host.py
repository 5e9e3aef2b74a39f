"""What this host offers: its devices, its cpus, and whether its kernel has killed for memory."""

import logging
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import pynvml

from torchrelay.shared import messages as m
from torchrelay.shared.settings import SettingsError

logger = logging.getLogger(__name__)

_CGROUPS = Path("/sys/fs/cgroup")


def devices(wanted: Sequence[str], environment: Mapping[str, str]) -> tuple[m.Device, ...]:
    """List the devices to offer; `auto` is every GPU that torch would see, or the cpu where there is none.

    Raises SettingsError for a device that isn't here.
    """
    gpus = _gpus(environment.get("CUDA_VISIBLE_DEVICES"))
    known = {device.name: device for device in (_cpu(), *gpus)}
    found = []
    for name in wanted:
        if name == "auto":
            found += gpus or [known["cpu"]]
        elif name in known:
            found.append(known[name])
        else:
            raise SettingsError(f"This host has no device {name}; it has {', '.join(known)}")
    return tuple(dict.fromkeys(found))


def cpu_count() -> int:
    """Count the cpus that this process may use: those of its affinity, or fewer by its cgroup's quota."""
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota(_CGROUPS)
    return max(1, min(allowed, round(quota))) if quota else allowed


def oom_kills() -> int:
    """Count what the kernel has killed for lack of memory, in this cgroup if that is known."""
    for file in (_CGROUPS / "memory.events", _CGROUPS / "memory/memory.oom_control", Path("/proc/vmstat")):
        for line in _read(file).splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def cpu_quota(root: Path) -> float | None:
    """Return how many cpus' worth of time the cgroup has, or None where it isn't bounded."""
    quota, _, period = _read(root / "cpu.max").strip().partition(" ")
    if not quota:
        quota, period = (_read(root / f"cpu/cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    if quota in ("", "max", "-1") or not period:
        return None
    return int(quota) / int(period)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _cpu() -> m.Device:
    return m.Device("cpu", "cpu", f"{cpu_count()} x {platform.machine()}", psutil.virtual_memory().total)


def _gpus(visible: str | None) -> list[m.Device]:
    """List GPUs by torch's numbers, which count only what CUDA_VISIBLE_DEVICES leaves visible."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        logger.debug("gpus.unavailable", extra={"reason": str(error)})
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
        facts = [
            (
                str(pynvml.nvmlDeviceGetUUID(handle)),
                str(pynvml.nvmlDeviceGetName(handle)),
                int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            )
            for handle in handles
        ]
    finally:
        pynvml.nvmlShutdown()
    order = visible_order(visible, [uuid for uuid, _, _ in facts])
    return [
        m.Device(f"cuda:{number}", "gpu", facts[index][1], facts[index][2])
        for number, index in enumerate(order)
    ]


def visible_order(visible: str | None, uuids: Sequence[str]) -> list[int]:
    """Return the indexes of GPUs in CUDA's order: up to the first name that is none, as CUDA does."""
    if visible is None:
        return list(range(len(uuids)))
    order = []
    for name in (part.strip() for part in visible.split(",")):
        if name.isdigit() and int(name) < len(uuids):
            order.append(int(name))
            continue
        matches = [index for index, uuid in enumerate(uuids) if name and uuid.startswith(name)]
        if len(matches) != 1:
            break
        order += matches
    return order
