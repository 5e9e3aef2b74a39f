"""A node as the broker knows it, and the names by which nodes are told apart. Pure."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import inf

from torchrelay.shared.wire import messages as m

#: More memory than this, no host has.
MEMORY_LIMIT_MB = 1e12


@dataclass(slots=True, eq=False)
class FleetNode:
    """A node that is here."""

    peer: bytes
    name: str
    devices: tuple[m.Device, ...]
    slots: int
    last_heard: float
    #: Its connection was found broken, and it has not been heard since: it gets no new workers.
    is_cut: bool = field(default=False, init=False)
    #: It said goodbye: its workers finish what they have, and it gets no new ones.
    is_leaving: bool = False
    #: It was told to stop, and says goodbye then, or once its workers have been replaced. None: it stays.
    leaves_at: float | None = None
    #: The host's memory in use as it last measured; None until it does.
    used_bytes: int | None = None
    #: What its GPUs had to do when it last measured, by device.
    gpus: dict[str, m.GpuUse] = field(default_factory=dict)
    #: When that was, and how much of their memory was in use then, less what has been freed since.
    measured_at: float = -inf
    in_use: dict[str, int] = field(default_factory=dict)
    #: What models may ask for.
    labels: frozenset[tuple[str, str]] = frozenset()
    #: A pattern of the models that it may hold, as its invitation said; "" for all.
    models: str = ""
    #: The host's memory; 0 where it doesn't tell.
    memory_bytes: int = 0
    #: What it calls itself; `name` differs where another node has taken that, see `name_nodes`.
    own_name: str = ""
    #: What it alone can tell while it lives; "" where it can't be sure of that.
    mark: str = ""

    def measured(self, points: Iterable[m.MetricPoint], gpus: Iterable[m.GpuUse] | None, now: float) -> None:
        """Take in what its host measured; figures that are missing or absurd leave those before them."""
        for point in points:
            if point.name == "MemoryUsed" and 0 <= point.value < MEMORY_LIMIT_MB:
                self.used_bytes = int(point.value * (1 << 20))
                break
        if gpus is not None:
            uses = {f"cuda:{gpu.number}": gpu for gpu in gpus}
            self.gpus = {device.name: uses[device.name] for device in self.devices if device.name in uses}
            self.measured_at = now
            self.in_use = {name: use.used_bytes for name, use in self.gpus.items()}


def free_name(own_name: str, nodes: Iterable[FleetNode]) -> str:
    """Return what a node is to be called beside others that keep their names."""
    taken = {node.name for node in nodes}
    return next(name for name in _names(own_name) if name not in taken)


def name_nodes(nodes: Iterable[FleetNode]) -> list[FleetNode]:
    """Give each node a name of its own; return those whose name has changed.

    Who comes second is `name-2`, until the first one leaves: a node that restarts has its name again as soon
    as its former self is seen to be gone.
    """
    taken: set[str] = set()
    renamed = []
    #: The names that are left for the next of a name; going on there keeps a thousand namesakes cheap.
    left: dict[str, Iterator[str]] = {}
    for node in sorted(nodes, key=lambda node: node.is_leaving):
        names = left.setdefault(node.own_name, _names(node.own_name))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        if name != node.name:
            node.name = name
            renamed.append(node)
    return renamed


def _names(own_name: str) -> Iterator[str]:
    """Yield what nodes of one name are called, in turn."""
    yield own_name
    for number in itertools.count(2):
        yield f"{own_name}-{number}"


def gpu_id(device: str) -> int | None:
    """Return the number in `cuda:N`, None on a cpu."""
    kind, _, number = device.partition(":")
    return int(number or 0) if kind == "cuda" and (number or "0").isdecimal() else None
