"""Which node and which devices the next workers of a version get. Pure.

Made anew for each comparison of what is wanted with what is there, so that placing many workers on many nodes
takes time in proportion to both.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from torchrelay.broker.fleet.nodes import FleetNode, gpu_id
from torchrelay.broker.fleet.worker import FleetWorker
from torchrelay.broker.models.records import VersionRecord


class Placement:
    """The free places of a fleet at one moment; each worker that is placed takes one."""

    def __init__(
        self, nodes: Iterable[FleetNode], of_node: Callable[[bytes], Collection[FleetWorker]]
    ) -> None:
        self._of_node = of_node
        nodes = list(nodes)
        #: As in TorchServe every host has a cpu, and a model for GPUs runs on it where there are none at all.
        self._has_gpus = any(device.kind == "gpu" for node in nodes for device in node.devices)
        #: Free slots of the nodes that have some.
        self._free = {
            node.peer: free
            for node in nodes
            if not node.is_leaving and (free := node.slots - len(of_node(node.peer))) > 0
        }
        self._nodes = {node.peer: node for node in nodes if node.peer in self._free}
        #: Workers by device, of the nodes that were looked at.
        self._used: dict[bytes, Counter[str]] = {}

    @property
    def is_full(self) -> bool:
        """Whether no node has a free slot."""
        return not self._free

    def fits(self, record: VersionRecord) -> bool:
        """Tell whether some node with a free slot has the devices that a version needs."""
        return any(self._devices(node, record) for node in self._nodes.values())

    def place(
        self, record: VersionRecord, count: int, *, failed_on: Mapping[str, int], here: Counter[bytes | None]
    ) -> list[tuple[FleetNode, tuple[str, ...]]]:
        """Find places for up to `count` workers: spread them, avoid nodes where it failed, then full ones.

        `here` counts the version's workers by node.
        """

        def rank(node: FleetNode) -> tuple[int, int, float, str, bytes]:
            share = self._free[node.peer] / node.slots
            return failed_on.get(node.name, 0), here[node.peer], -share, node.name, node.peer

        ranks = [rank(node) for node in self._nodes.values() if self._devices(node, record)]
        heapq.heapify(ranks)
        places: list[tuple[FleetNode, tuple[str, ...]]] = []
        while ranks and len(places) < count:
            node = self._nodes[heapq.heappop(ranks)[-1]]
            devices = self._best_devices(node, record)
            places.append((node, devices))
            here[node.peer] += 1
            self._used[node.peer].update(devices)
            self._free[node.peer] -= 1
            if self._free[node.peer]:
                heapq.heappush(ranks, rank(node))
            else:
                del self._free[node.peer], self._nodes[node.peer]
        return places

    def _best_devices(self, node: FleetNode, record: VersionRecord) -> tuple[str, ...]:
        """Return the allowed devices with the fewest workers, in the node's own order."""
        used = self._used.get(node.peer)
        if used is None:
            workers = self._of_node(node.peer)
            used = Counter(name for worker in workers for name in worker.devices or (worker.device,))
            self._used[node.peer] = used
        names = sorted(self._devices(node, record), key=used.__getitem__)
        return tuple(names[: record.config.gpus if gpu_id(names[0]) is not None else 1])

    def _devices(self, node: FleetNode, record: VersionRecord) -> list[str]:
        """Name the devices of a node that a version's model config lets its workers run on.

        The GPUs of one worker are all on one node.
        """
        config = record.config
        if config.device_type == "cpu":
            return ["cpu"]
        if not self._has_gpus or not (config.device_type == "gpu" or config.device_ids or config.gpus > 1):
            return [device.name for device in node.devices] or ["cpu"]
        gpus = [device.name for device in node.devices if device.kind == "gpu"]
        allowed = [name for name in gpus if not config.device_ids or gpu_id(name) in config.device_ids]
        return allowed if len(allowed) >= config.gpus else []
