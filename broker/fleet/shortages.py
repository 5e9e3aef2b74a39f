"""Why nodes have no place for a worker, and the words for it. Pure.

Each node lacks one thing: the first of the right to hold the model, labels, devices, slots and memory that is
missing, since what comes first is the hardest to change.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nsmallest
from typing import Literal

from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared.labels import shown
from torchrelay.shared.quoting import quoted
from torchrelay.shared.wire.fields import Labels

#: Nodes of which it is said what they lack: those that lack least. The others are counted.
NODES_SHOWN = 3
#: Labels and device ids that are named one by one.
ITEMS_SHOWN = 3
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
Kind = Literal["memory", "slots", "devices", "labels", "models"]
#: From what may be there in a moment to what will not.
_CLOSEST_FIRST: tuple[Kind, ...] = ("memory", "slots", "devices", "labels", "models")
_COUNTED = {
    "memory": "{} too little free memory",
    "slots": "{} no free slot",
    "devices": "{} too few such devices",
    "labels": "{} not the labels",
    "models": "{} not the right to hold it",
}


@dataclass(frozen=True, slots=True)
class Need:
    """What a worker needs of its node; versions that need the same share what is found out."""

    memory_bytes: int
    labels: Labels
    packs: bool
    device_type: str
    device_ids: tuple[int, ...]
    gpus: int
    #: The model's name, where a node may hold only some.
    model: str = ""

    @classmethod
    def of(cls, record: VersionRecord, *, installs_only: bool = False, by_model: bool = False) -> "Need":
        """Return the need of a version's workers; one that only installs packages loads no model.

        `by_model` is for a fleet in which a node may hold only some models.
        """
        config, wish = record.config, record.config.placement
        return cls(
            wish.memory_bytes if wish and not installs_only else 0,
            wish.labels if wish else (),
            wish is not None and wish.strategy == "pack",
            config.device_type, config.device_ids, config.gpus, record.model if by_model else "",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shortage:
    """What one node lacks, and the figures behind it, by what it lacks."""

    node: str
    kind: Kind
    #: The labels that are not among its own.
    labels: Labels = ()
    #: The pattern of the models that it may hold.
    models: str = ""
    #: Of the devices that are needed, how many it has; and its slots.
    count: int = 0
    #: The device that is in the way, with its memory in bytes; a total of 0 is not known.
    device: str = ""
    free_bytes: int = 0
    total_bytes: int = 0
    #: The end of other workers, or of other programs, would help.
    may_pass: bool = False

    @property
    def distance(self) -> tuple[int, int, int, int, str]:
        """Order shortages, the smallest first."""
        kind = _CLOSEST_FIRST.index(self.kind)
        return kind, -self.free_bytes, -self.count, len(self.labels), self.node


@dataclass(frozen=True, slots=True)
class Shortages:
    """What the nodes of a fleet lack for one need: the smallest shortages, and how many of each kind."""

    need: Need
    closest: tuple[Shortage, ...]
    counts: Counter[Kind]
    #: Whether there would be no place either if no other worker were here.
    is_lasting: bool

    @classmethod
    def gather(cls, need: Need, shortages: Iterable[Shortage]) -> "Shortages":
        """Gather what all nodes lack."""
        every = list(shortages)
        return cls(
            need,
            tuple(nsmallest(NODES_SHOWN, every, key=lambda one: one.distance)),
            Counter(one.kind for one in every),
            not any(one.may_pass for one in every),
        )

    def words(self) -> str:
        """Say what is needed, and what the nodes have instead."""
        clauses = [_of_node(self.need, one) for one in self.closest]
        left = self.counts - Counter(one.kind for one in self.closest)
        if others := sum(left.values()):
            parts = ", ".join(_COUNTED[kind].format(left[kind]) for kind in _CLOSEST_FIRST if left[kind])
            clauses.append(f"of {others} more node{'s' if others > 1 else ''} {parts}")
        return f"needs {_needed(self.need)}; {'; '.join(clauses)}"


def _needed(need: Need) -> str:
    gpus = f"{need.gpus} GPUs" if need.gpus > 1 else "a GPU" if need.device_ids else ""
    ids = f" of deviceIds [{listed(map(str, need.device_ids))}]" if need.device_ids else ""
    size = amount(need.memory_bytes, need.memory_bytes, up=True) if need.memory_bytes else ""
    if size and need.gpus > 1:
        size += " on each"
    things = [f"{gpus}{ids}" if gpus else "", size, _labels(need.labels)]
    return " and ".join(filter(None, things)) or "a device"


def _of_node(need: Need, one: Shortage) -> str:
    match one.kind:
        case "models":
            return f"{one.node} was invited for models {quoted(one.models)} alone"
        case "labels":
            return f"{one.node} lacks {_labels(one.labels)}"
        case "devices":
            ids = " of these ids" if need.device_ids else ""
            return f"{one.node} has {one.count or 'no'} GPU{'s' if one.count > 1 else ''}{ids}"
        case "slots":
            return f"all {one.count} slots of {one.node} are taken"
        case "memory":
            if not one.total_bytes:
                return f"{one.device} of {one.node} doesn't tell how much memory it has"
            free = amount(one.free_bytes, need.memory_bytes)
            total = amount(one.total_bytes, need.memory_bytes).partition(" ")[0]
            return f"{one.device} of {one.node} has {free} free of {total}"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return f"the label{'s' if len(labels) > 1 else ''} {listed(shown((one,)) for one in labels)}"


def listed(texts: Iterable[str]) -> str:
    """List texts, the first few of many."""
    every = list(texts)
    more = f" and {len(every) - ITEMS_SHOWN} more" if len(every) > ITEMS_SHOWN else ""
    return ", ".join(every[:ITEMS_SHOWN]) + more


def amount(size: int, like: int, *, up: bool = False) -> str:
    """Write a size in the unit that suits `like`, to a tenth.

    What is needed is rounded up and what is there down, so that the figures never seem to fit.
    """
    unit, name = next((one for one in _UNITS if like >= one[0]), _UNITS[-1])
    tenths = -(-10 * size // unit) if up else 10 * max(0, size) // unit
    whole, tenth = divmod(tenths, 10)
    return f"{whole}.{tenth} {name}" if tenth else f"{whole} {name}"
