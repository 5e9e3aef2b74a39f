"""The devices that a node offers to the broker."""

import logging
import platform
from collections.abc import Callable, Mapping, Sequence

from torchrelay.shared import host
from torchrelay.shared.settings import SettingsError
from torchrelay.shared.wire import messages as m

logger = logging.getLogger(__name__)


def offered(
    wanted: Sequence[str],
    environment: Mapping[str, str],
    probe: Callable[[], Sequence[host.Gpu]] | None = None,
) -> tuple[m.Device, ...]:
    """List the devices to offer; `auto` is every GPU that torch would see, or the cpu where there is none.

    Raises SettingsError for a device that this host doesn't have.
    """
    gpus = [
        m.Device(f"cuda:{number}", "gpu", gpu.name, gpu.memory_bytes)
        for number, gpu in enumerate(host.visible_gpus(environment, probe))
    ]
    processor = f"{host.cpu_count()} x {platform.machine()}"
    cpu = m.Device("cpu", "cpu", processor, host.memory_bytes())
    known = {device.name: device for device in (cpu, *gpus)}
    found = []
    for name in wanted:
        if name == "auto":
            found += gpus or [cpu]
        elif name in known:
            found.append(known[name])
        else:
            raise SettingsError(f"This host has no device {name}; it has {', '.join(known)}")
    return tuple(dict.fromkeys(found))


def warn_of_unsure_order(
    environment: Mapping[str, str], probe: Callable[[], Sequence[host.Gpu]] | None = None
) -> None:
    """Warn where workers may get another GPU than the one that is measured under its number."""
    if host.ORDER in environment and host.is_order_unsure(environment, (probe or host.read_gpus)()):
        advice = (
            f"unset {host.ORDER}, or set it to {host.BY_BUS}, or name GPUs by uuid in CUDA_VISIBLE_DEVICES"
        )
        logger.warning("gpus.order_unsure", extra={"order": environment[host.ORDER], "advice": advice})
