"""Which node and which devices the next workers of a version get. Pure.

Made anew when what is there has changed, and shared until then, so that placing many workers on many nodes,
and saying why others have no place, takes time in proportion to both.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torchrelay.broker.fleet import device_memory
from torchrelay.broker.fleet.nodes import FleetNode, gpu_id
from torchrelay.broker.fleet.shortages import Need, Shortage, Shortages, listed
from torchrelay.broker.fleet.worker import FleetWorker
from torchrelay.broker.models.records import VersionRecord


@dataclass(slots=True)
class _Load:
    """What is on the devices of a node."""

    workers: Counter[str]
    #: Bytes; more than there are where others use them as well.
    taken: Counter[str]


class Placement:
    """The free places of a fleet at one moment; each worker that is placed takes one."""

    def __init__(
        self,
        nodes: Iterable[FleetNode],
        of_node: Callable[[bytes], Collection[FleetWorker]],
        takes_workers: Callable[[FleetNode], bool],
    ) -> None:
        self._of_node = of_node
        nodes = list(nodes)
        self._names = [node.name for node in nodes]
        #: As in TorchServe every host has a cpu, and a model for GPUs runs on it where there are none at all.
        self._has_gpus = any(device.kind == "gpu" for node in nodes for device in node.devices)
        #: Those that take workers, whether they have a free slot or not.
        self.open_nodes = [node for node in nodes if takes_workers(node)]
        #: Whether some node may hold only some models.
        self._is_by_model = any(node.models for node in nodes)
        #: Free slots of the nodes that have some.
        self._free = {
            node.peer: free for node in self.open_nodes if (free := node.slots - len(of_node(node.peer))) > 0
        }
        self._nodes = {node.peer: node for node in self.open_nodes if node.peer in self._free}
        #: Of the nodes that were looked at.
        self._loads: dict[bytes, _Load] = {}
        #: What has no place, and has none later either: places only become fewer.
        self._unplaceable: set[Need] = set()
        self._shortages: dict[Need, Shortages] = {}

    def fits(self, record: VersionRecord) -> bool:
        """Tell whether some node has a place for a worker of a version."""
        return self._fits(self._need(record))

    def _need(self, record: VersionRecord, *, installs_only: bool = False) -> Need:
        return Need.of(record, installs_only=installs_only, by_model=self._is_by_model)

    def _fits(self, need: Need) -> bool:
        if need not in self._unplaceable and not any(self._choose(n, need) for n in self._nodes.values()):
            self._unplaceable.add(need)
        return need not in self._unplaceable

    def shortages(self, record: VersionRecord) -> Shortages:
        """Return what each node lacks for a worker of a version that doesn't fit."""
        need = self._need(record)
        if need not in self._shortages:
            found = (self._shortage(node, need) for node in self.open_nodes)
            self._shortages[need] = Shortages.gather(need, (one for one in found if one is not None))
        return self._shortages[need]

    def why_none(self, record: VersionRecord) -> str:
        """Say why no node has a place for one more worker of a version; empty if one has."""
        if not self.open_nodes:
            names = listed(sorted(self._names))
            return (
                f"no node takes new workers: {names} is drained, stops or can't be reached; add or resume one"
            )
        if record.config.placement is not None or self._is_by_model:
            if self.fits(record):
                return ""
            advice = "add a node with that"
            if record.config.placement is not None:
                advice += ", or ask for less in `placement` of the archive's model-config.yaml"
            return f"no node has a place: {self.shortages(record).words()}; {advice}"
        if not self._free:
            slots = sum(node.slots for node in self.open_nodes)
            return f"all {slots} slots of the fleet are taken; add a node or raise --slots"
        if not self.fits(record):
            ids = f" of deviceIds {list(record.config.device_ids)}" if record.config.device_ids else ""
            gpus = f"{record.config.gpus} GPU{'s' if record.config.gpus > 1 else ''}"
            return f"no node with a free slot has {gpus}{ids} for each"
        return ""

    def place(
        self,
        record: VersionRecord,
        count: int,
        *,
        failed_on: Mapping[str, int],
        here: Counter[bytes | None],
        installs_only: bool = False,
    ) -> list[tuple[FleetNode, tuple[str, ...]]]:
        """Find places for up to `count` workers: first on nodes where it hasn't failed.

        Then they are spread: first where the version has fewest, then where there is most room. Or packed:
        first where there is least. `here` counts the version's workers by node.
        """
        need = self._need(record, installs_only=installs_only)

        def rank(node: FleetNode) -> tuple[int, int, float, str, bytes]:
            share = self._free[node.peer] / node.slots
            if need.packs:
                return failed_on.get(node.name, 0), 0, share, node.name, node.peer
            return failed_on.get(node.name, 0), here[node.peer], -share, node.name, node.peer

        if need in self._unplaceable:
            return []
        ranks = [rank(node) for node in self._nodes.values() if self._choose(node, need)]
        heapq.heapify(ranks)
        places: list[tuple[FleetNode, tuple[str, ...]]] = []
        while ranks and len(places) < count:
            node = self._nodes[heapq.heappop(ranks)[-1]]
            devices = self._choose(node, need)
            if not devices:
                continue  # those before have taken its memory
            places.append((node, devices))
            here[node.peer] += 1
            self._take(node, need, devices)
            if node.peer in self._free:
                heapq.heappush(ranks, rank(node))
        if len(places) < count:
            self._unplaceable.add(need)
        return places

    def _take(self, node: FleetNode, need: Need, devices: tuple[str, ...]) -> None:
        self._shortages.clear()
        if load := self._loads.get(node.peer):  # else this worker is among those that will be counted
            load.workers.update(devices)
            load.taken.update(dict.fromkeys(devices, need.memory_bytes))
        self._free[node.peer] -= 1
        if not self._free[node.peer]:
            del self._free[node.peer], self._nodes[node.peer]

    def _load(self, node: FleetNode) -> _Load:
        load = self._loads.get(node.peer)
        if load is None:
            workers = self._of_node(node.peer)
            names = Counter(name for worker in workers for name in worker.all_devices)
            load = self._loads[node.peer] = _Load(names, device_memory.taken(node, workers))
        return load

    def _choose(self, node: FleetNode, need: Need) -> tuple[str, ...]:
        """Return the devices that a worker would get on a node with a free slot; none if it has no place."""
        if need.labels and not node.labels.issuperset(need.labels):
            return ()
        if node.models and not fnmatchcase(need.model, node.models):
            return ()
        names, wanted = self._allowed(node, need)
        if need.memory_bytes:
            names = [name for name in names if self._free_bytes(node, name) >= need.memory_bytes]
        if len(names) < wanted:
            return ()
        if len(names) > 1:
            used = self._load(node).workers
            if need.packs:
                names.sort(key=lambda name: (need.memory_bytes and self._free_bytes(node, name), -used[name]))
            elif need.memory_bytes:
                names.sort(key=lambda name: (used[name], -self._free_bytes(node, name)))
            else:
                names.sort(key=used.__getitem__)
        return tuple(names[:wanted])

    def _free_bytes(self, node: FleetNode, device: str) -> int:
        return device_memory.total(node, device) - self._load(node).taken[device]

    def _allowed(self, node: FleetNode, need: Need) -> tuple[list[str], int]:
        """Name the devices of a node that a version lets its workers run on, and how many each gets.

        The GPUs of one worker are all on one node.
        """
        if need.device_type == "cpu":
            return ["cpu"], 1
        if not self._has_gpus or not (need.device_type == "gpu" or need.device_ids or need.gpus > 1):
            return [device.name for device in node.devices] or ["cpu"], 1
        gpus = [device.name for device in node.devices if device.kind == "gpu"]
        return [name for name in gpus if not need.device_ids or gpu_id(name) in need.device_ids], need.gpus

    def _shortage(self, node: FleetNode, need: Need) -> Shortage | None:
        """Say what a node lacks, None if it has a place."""
        if node.models and not fnmatchcase(need.model, node.models):
            return Shortage(node.name, "models", models=node.models)
        if missing := tuple(label for label in need.labels if label not in node.labels):
            return Shortage(node.name, "labels", labels=missing)
        names, wanted = self._allowed(node, need)
        if len(names) < wanted:
            return Shortage(node.name, "devices", count=len(names))
        totals = sorted((device_memory.total(node, name) for name in names), reverse=True)
        is_large = totals[wanted - 1] >= need.memory_bytes
        if node.peer not in self._free:
            return Shortage(node.name, "slots", count=node.slots, may_pass=is_large)
        names.sort(key=lambda name: self._free_bytes(node, name), reverse=True)
        last = names[wanted - 1]
        free = self._free_bytes(node, last)
        if not need.memory_bytes or free >= need.memory_bytes:
            return None
        size = device_memory.total(node, last)
        return Shortage(
            node.name, "memory", device=last, free_bytes=max(0, free), total_bytes=size, may_pass=is_large
        )
