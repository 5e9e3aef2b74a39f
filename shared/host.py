"""What this host has for this process: cpus under affinity and quota, GPUs under CUDA_VISIBLE_DEVICES.

The one place that counts them: for the start-up's defaults, for the devices that a node offers, and for what
it measures. Reads a few files of the kernel and asks the GPUs' driver; never loads CUDA, which would cost
seconds and memory. GPUs have torch's numbers, which count only what CUDA_VISIBLE_DEVICES leaves visible.

CUDA by itself numbers the GPUs of a host by a measure of speed of its own, if they differ, and its driver by
their places on the PCI bus. So workers are told to number them likewise (ORDER), or what one has in use would
be taken for another's.
"""

import logging
import math
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import msgspec

logger = logging.getLogger(__name__)

_CGROUPS = Path("/sys/fs/cgroup")
#: The variable by which CUDA is told how to number GPUs, and the value by which it does as the driver.
ORDER, BY_BUS = "CUDA_DEVICE_ORDER", "PCI_BUS_ID"
#: What CUDA reads of a number: what it begins with, and nothing behind that.
_NUMBER = re.compile(r"\s*\+?(\d+)")


class Gpu(msgspec.Struct, frozen=True):
    """A GPU as its driver describes it just now."""

    uuid: str
    name: str
    memory_bytes: int
    #: The devices that MIG has divided it into.
    parts: "tuple[Gpu, ...]" = ()
    used_bytes: int = 0
    #: How much of the time it computed, or used its memory; None where the driver can't tell, as with MIG.
    busy_percent: int | None = None
    memory_busy_percent: int | None = None


class Host(msgspec.Struct, frozen=True):
    """The facts of a host on which defaults depend."""

    name: str
    cpus: int
    gpus: int


def look(environment: Mapping[str, str], probe: Callable[[], Sequence[Gpu]] | None = None) -> Host:
    """Read this host's facts; `probe` lists the GPUs of the driver."""
    gpus = visible_gpus(environment, probe)
    return Host(name=socket.gethostname(), cpus=cpu_count(), gpus=len(gpus))


def cpu_count() -> int:
    """Count the cpus that this process may use: those of its affinity, or fewer by its cgroup's quota."""
    return count_cpus(len(os.sched_getaffinity(0)), cpu_quota(_CGROUPS, _read(Path("/proc/self/cgroup"))))


def count_cpus(allowed: int, quota: float | None) -> int:
    """Count as the JVM, and so TorchServe, does: a part of a cpu counts as one."""
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cpu_quota(root: Path, own_groups: str = "") -> float | None:
    """Return how many cpus' worth of time this process has, or None where that isn't bounded.

    `own_groups` is the text of /proc/self/cgroup. The bound of a group holds for all groups below it. In a
    container the path may be the host's, which isn't there; its own group is then at the root.
    """
    quotas = []
    for folder in _groups(root, own_groups):
        quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
        if not quota:
            quota, period = (_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal() and int(period):  # else "max" or -1
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_bytes(root: Path = _CGROUPS) -> int:
    """Return how much memory this process may have: the host's, or less by its cgroup's bound."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    own = _read(Path("/proc/self/cgroup"))
    files = [folder / "memory.max" for folder in _groups(root, own)]
    texts = [_read(file).strip() for file in (*files, root / "memory" / "memory.limit_in_bytes")]
    return min([total, *(int(text) for text in texts if text.isdecimal())])


def _groups(root: Path, own_groups: str) -> Iterator[Path]:
    """Name the folders of the groups that this process is in, in both versions of cgroups."""
    yield from (root, root / "cpu")
    for line in own_groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for depth in range(1, len(parts) + 1):
            yield base.joinpath(*parts[:depth])


def visible_gpus(
    environment: Mapping[str, str], probe: Callable[[], Sequence[Gpu]] | None = None
) -> list[Gpu]:
    """List the GPUs that torch sees, by its numbers."""
    gpus = (probe or read_gpus)()
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip().startswith("MIG-"):
        # Of the parts of a GPU CUDA takes one, the first, whatever else is named.
        name = visible.split(",")[0].strip()
        return [part for gpu in gpus for part in gpu.parts if part.uuid == name]
    return [gpus[index] for index in visible_order(visible, [gpu.uuid for gpu in gpus])]


def is_order_unsure(environment: Mapping[str, str], gpus: Sequence[Gpu]) -> bool:
    """Tell whether CUDA may number these GPUs otherwise than they stand here; uuids are no numbers."""
    if environment.get(ORDER, BY_BUS) == BY_BUS or len({gpu.name for gpu in gpus}) < 2:
        return False
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    return visible is None or any(_NUMBER.match(name) for name in visible.split(","))


def visible_order(visible: str | None, uuids: Sequence[str]) -> list[int]:
    """Return the indexes of GPUs in CUDA's order.

    They end at the first name that is no GPU's; where one is named twice there are none.
    """
    if visible is None:
        return list(range(len(uuids)))
    order: list[int] = []
    for name in visible.split(","):
        number = _NUMBER.match(name)
        if number:
            matches = [int(number[1])] if int(number[1]) < len(uuids) else []
        else:
            start = name.strip()
            matches = [index for index, uuid in enumerate(uuids) if start and uuid.startswith(start)]
        if len(matches) != 1:
            break
        order += matches
    return order if len(set(order)) == len(order) else []


def read_gpus() -> list[Gpu]:
    """Ask the driver about all GPUs, by their places on the PCI bus; without a driver there are none."""
    try:
        import pynvml  # where no worker can run it need not be installed
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        logger.debug("gpus.unavailable", extra={"reason": str(error)})
        return []

    def read(handle: object, parts: tuple[Gpu, ...] = ()) -> Gpu:
        uuid, name = str(pynvml.nvmlDeviceGetUUID(handle)), str(pynvml.nvmlDeviceGetName(handle))
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        try:
            busy = pynvml.nvmlDeviceGetUtilizationRates(handle)
        except pynvml.NVMLError:
            return Gpu(uuid, name, int(memory.total), parts, int(memory.used))
        return Gpu(uuid, name, int(memory.total), parts, int(memory.used), int(busy.gpu), int(busy.memory))

    def place_of(handle: object) -> tuple[int, int, int]:
        pci = pynvml.nvmlDeviceGetPciInfo(handle)
        return int(pci.domain), int(pci.bus), int(pci.device)

    def parts_of(handle: object) -> Iterator[Gpu]:
        try:
            for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
                yield read(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number))
        except pynvml.NVMLError:
            return  # it has no more, or can't be divided

    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
        handles.sort(key=place_of)  # its indexes come in this order, too, but nothing promises that
        return [read(handle, tuple(parts_of(handle))) for handle in handles]
    except pynvml.NVMLError as error:
        logger.warning("gpus.unreadable", extra={"reason": str(error)})
        return []
    finally:
        pynvml.nvmlShutdown()


def oom_kills() -> int:
    """Count the processes that the kernel has killed for lack of memory, in this cgroup if that is known."""
    for file in (_CGROUPS / "memory.events", _CGROUPS / "memory/memory.oom_control", Path("/proc/vmstat")):
        for line in _read(file).splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
