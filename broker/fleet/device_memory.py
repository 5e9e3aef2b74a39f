"""How much memory of a node's devices is free. Pure.

Each worker has reserved what its model asks for, on each of its devices, until its process is gone. What a
GPU was measured to have in use counts where that is more: other programs may use it too, and models that ask
for nothing. What a worker will need that has been ordered since the measurement, or was still loading then,
is not in it and counts beside it.
"""

from collections import Counter
from collections.abc import Collection

from torchrelay.broker.fleet.nodes import FleetNode
from torchrelay.broker.fleet.worker import FleetWorker


def total(node: FleetNode, device: str) -> int:
    """Return the memory of a device, for the cpu the host's; 0 where the node doesn't tell."""
    own = next((one.memory_bytes for one in node.devices if one.name == device), 0)
    return own or (node.memory_bytes if device == "cpu" else 0)


def taken(node: FleetNode, workers: Collection[FleetWorker]) -> Counter[str]:
    """Count the bytes that are taken, by device; `workers` are all of the node's."""
    reserved: Counter[str] = Counter()
    unmeasured: Counter[str] = Counter()
    for worker in workers:
        if not worker.reserved_bytes:
            continue
        is_measured = worker.loaded_at is not None and worker.loaded_at <= node.measured_at
        for device in worker.all_devices:
            reserved[device] += worker.reserved_bytes
            if not is_measured:
                unmeasured[device] += worker.reserved_bytes
    for device, in_use in node.in_use.items():
        reserved[device] = max(reserved[device], in_use + unmeasured[device])
    return reserved


def worker_gone(node: FleetNode, worker: FleetWorker) -> None:
    """Take what a worker has freed out of what was measured before: its successor need not wait for the next.

    How much it had is known of one that had reserved it; after any other nothing is known until then.
    """
    if worker.started_at > node.measured_at:
        return
    for device in worker.all_devices:
        left = node.in_use.pop(device, 0) - worker.reserved_bytes
        if worker.reserved_bytes and left > 0:
            node.in_use[device] = left
