"""Fleets that are made up, and what must hold of the workers in them."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal

from hypothesis import strategies as st

from tests.broker.rig import CLAIMS
from torchrelay.broker.core.states import WorkerState
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared.archives.model_config import ModelConfig, PlacementWish
from torchrelay.shared.wire import messages as m

GIB = 1 << 30
Key = tuple[str, str]
_LABELS = st.dictionaries(st.sampled_from(["zone", "rack"]), st.sampled_from(["a", "b"]), max_size=2)
_DEVICE_TYPES: tuple[Literal["", "cpu", "gpu"], ...] = ("", "cpu", "gpu")


def gpu(number: int, gib: float = 24) -> m.Device:
    return m.Device(f"cuda:{number}", "gpu", "", int(gib * GIB))


def cpu(gib: float = 64) -> m.Device:
    return m.Device("cpu", "cpu", "", int(gib * GIB))


def wish(gib: float = 0, *, packs: bool = False, **labels: str) -> PlacementWish:
    return PlacementWish(
        memory_bytes=int(gib * GIB),
        labels=tuple(sorted(labels.items())),
        strategy="pack" if packs else "spread",
    )


def record(config: ModelConfig, workers: int = 1, model: str = "m") -> VersionRecord:
    return VersionRecord(model, "1.0", "m.mar", "sha", 1, "handler", "python", workers, workers, 1, 100, 120,
                         120, loaded_at_startup=False, config=config)  # fmt: skip


def empty_fleet() -> Fleet:
    return Fleet(epoch=1, claims=CLAIMS, awaited=(), settle_until=0.0)


def join(
    fleet: Fleet,
    name: str,
    *devices: m.Device,
    slots: int = 8,
    memory_gib: float = 0,
    in_use: Mapping[int, float] | None = None,
    now: float = 0.0,
    labels: Mapping[str, str] | None = None,
) -> None:
    """Let a node join; `in_use` is what is measured of its GPUs, in GiB by their numbers."""
    hello = m.HelloNode(m.PROTOCOL_VERSION, name, devices, slots, (), tuple((labels or {}).items()),
                        int(memory_gib * GIB))  # fmt: skip
    fleet.add_node(name.encode(), hello, now)
    if in_use:
        measure(fleet, name, in_use, now)


def measure(fleet: Fleet, name: str, in_use: Mapping[int, float], now: float) -> None:
    uses = tuple(m.GpuUse(number, int(gib * GIB)) for number, gib in in_use.items())
    fleet.measured(fleet.nodes[name.encode()], m.NodeMeasured(name, (), uses), now)


def places(fleet: Fleet, *records: VersionRecord, now: float = 1.0) -> list[tuple[str, tuple[str, ...]]]:
    """Compare what is wanted with what is there; return where workers are started."""
    start, _ = fleet.reconcile({one.key: one for one in records}, now)
    return [(worker.node_name, worker.devices) for worker in start]


@st.composite
def drawn_fleets(draw: st.DrawFn) -> Fleet:
    """Make fleets of a few small nodes, of which some have GPUs and some tell no memory of their host."""
    fleet = empty_fleet()
    for number in range(draw(st.integers(1, 5))):
        gpus = [gpu(n, gib) for n, gib in enumerate(draw(st.lists(st.integers(0, 24), max_size=3)))]
        devices = [*gpus, *([cpu(16)] if draw(st.booleans()) else [])]
        slots, memory = draw(st.integers(1, 4)), draw(st.sampled_from([0, 8]))
        join(fleet, f"n-{number}", *devices, slots=slots, memory_gib=memory, labels=draw(_LABELS))
    return fleet


@st.composite
def drawn_records(draw: st.DrawFn) -> dict[Key, VersionRecord]:
    """Make versions that ask for all sorts of places."""
    records = {}
    for number in range(draw(st.integers(1, 4))):
        is_parallel = draw(st.booleans())
        config = ModelConfig(
            device_type=draw(st.sampled_from(_DEVICE_TYPES)),
            device_ids=draw(st.sampled_from([(), (), (1,), (0, 2)])),
            parallel_type="tp" if is_parallel else "",
            parallel_level=2 if is_parallel else 0,
            placement=wish(draw(st.integers(0, 12)), packs=draw(st.booleans()), **draw(_LABELS)),
        )
        one = record(config, draw(st.integers(0, 4)), f"m-{number}")
        records[one.key] = one
    return records


def something_happens(fleet: Fleet, draw: Callable[[st.SearchStrategy[Any]], Any], now: float) -> None:
    """Let a worker end, or all load, or a node be measured; Any: whatever a strategy is of."""
    workers = list(fleet.workers.values())
    match draw(st.sampled_from(["ends", "loads", "is measured"])):
        case "ends" if workers:
            fleet.remove_worker(draw(st.sampled_from(workers)))
        case "loads":
            for worker in workers:
                if worker.state is WorkerState.STARTING:
                    worker.move(WorkerState.READY, now)
        case "is measured":
            node = draw(st.sampled_from(list(fleet.nodes.values())))
            measure(fleet, node.name, draw(st.dictionaries(st.integers(0, 2), st.integers(0, 24))), now)


def check(fleet: Fleet, records: Mapping[Key, VersionRecord]) -> None:
    """Assert that no node has more than fits there, and nothing that may not be there."""
    for node in fleet.nodes.values():
        workers = fleet.of_node(node.peer)
        assert len(workers) <= node.slots, "more workers than slots"
        reserved: Counter[str] = Counter()
        for worker in workers:
            config = records[worker.key].config
            wanted = config.placement or PlacementWish()
            assert set(wanted.labels) <= node.labels, "a worker is where its labels are not"
            assert worker.reserved_bytes == wanted.memory_bytes
            assert len(set(worker.devices)) == len(worker.devices) >= 1
            for device in worker.devices:
                reserved[device] += worker.reserved_bytes
        for device, size in reserved.items():
            known = {one.name: one.memory_bytes for one in node.devices}
            total = known.get(device) or (node.memory_bytes if device == "cpu" else 0)
            assert size <= total, f"{device} of {node.name} has {size} reserved of {total}"
