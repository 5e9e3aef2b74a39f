"""What this machine has to offer: processors and GPUs, as this process may use them.

Reads a few files of the kernel's; never loads CUDA, which would cost seconds and memory.
"""

import os
import socket
from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True):
    """Facts that defaults are made of."""

    name: str
    cpus: int
    gpus: int


def look() -> Machine:
    """Read this machine's facts."""
    return Machine(
        name=socket.gethostname(),
        cpus=count_cpus(len(os.sched_getaffinity(0)), Path("/sys/fs/cgroup/cpu.max")),
        gpus=count_gpus(Path("/proc/driver/nvidia/gpus")),
    )


def count_cpus(allowed: int, quota_file: Path) -> int:
    """Count cpus: those this process may run on, or fewer where a container's quota is lower."""
    try:
        quota, period = quota_file.read_text().split()
        share = int(quota) // int(period)
    except (OSError, ValueError):  # no cgroup v2 here, or "max": no quota
        return allowed
    return max(1, min(allowed, share))


def count_gpus(driver_folder: Path) -> int:
    """Count NVIDIA GPUs by what their driver lists."""
    try:
        return sum(1 for _ in driver_folder.iterdir())
    except OSError:
        return 0
