"""What nodes had when they left or were drained, so that they get it back when they return. Pure."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from torchrelay.broker.fleet.worker import FleetWorker
from torchrelay.broker.models.catalog import Key

#: Names of nodes that are remembered; the one that went first is forgotten first.
SHARES_LIMIT = 1024


@dataclass(slots=True)
class Share:
    """Workers of one version on one node."""

    #: So many it had.
    count: int
    #: So often one is still moved back: where it goes is placement's to say, and a node may have changed.
    tries: int


@dataclass(slots=True)
class Shares:
    """The shares of nodes that went away on purpose, by node name and version."""

    _by_name: dict[str, dict[Key, Share]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def remember(self, name: str, workers: Iterable[FleetWorker]) -> None:
        """Note what a node has that begins to leave."""
        self._by_name.pop(name, None)
        if had := Counter(worker.key for worker in workers):
            self._by_name[name] = {key: Share(count, count) for key, count in had.items()}
        while len(self._by_name) > SHARES_LIMIT:
            del self._by_name[next(iter(self._by_name))]

    def of(self, name: str) -> list[Key]:
        """Return the versions of which a node may still get workers back."""
        return list(self._by_name.get(name, ()))

    def forget(self, name: str, key: Key) -> None:
        """Move nothing of a version back to a node any more."""
        share = self._by_name[name]
        del share[key]
        if not share:
            del self._by_name[name]

    def next_to_move(self, name: str, key: Key, peer: bytes, live: Collection[FleetWorker]) -> None:
        """Mark the worker of a version that makes room for one on a node that is back.

        `live` are the version's, all of them ready. It is one with little to do of the node that has most.
        """
        share = self._by_name[name][key]
        here = Counter(worker.node for worker in live)
        others = [worker for worker in live if worker.node != peer]
        if not others or here[peer] >= share.count or share.tries == 0:
            self.forget(name, key)
            return
        share.tries -= 1
        chosen = max(others, key=lambda w: (here[w.node], -len(w.leases), w.worker_id))
        chosen.is_moving = True
