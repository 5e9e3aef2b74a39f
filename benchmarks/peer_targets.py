"""What torchrelay is to reach beside other servers, and whether a run shows it. Pure."""

from collections.abc import Iterator
from statistics import median
from typing import Literal

import msgspec

from benchmarks.results import PeerResults
from benchmarks.tables import table


class PeerTarget(msgspec.Struct, frozen=True):
    """How we are to compare with another server in some rows, by the rate or by the median latency."""

    other: str
    #: Rows by their keys; empty for all by HTTP that the other takes part in.
    rows: tuple[str, ...]
    connections: tuple[int, ...]
    #: Our rate is to be at least `bound` times the other's, our p50 at most.
    what: Literal["rate", "p50"]
    bound: float


class TargetComparison(msgspec.Struct, frozen=True):
    """How we compare in one row of a target, at so many connections."""

    target: PeerTarget
    row: str
    connections: int
    found: float

    @property
    def is_met(self) -> bool:
        """Whether that is as it is to be."""
        if self.target.what == "rate":
            return self.found >= self.target.bound
        return self.found <= self.target.bound


_BATCHED = ("echo-16", "mlp", "echo-16-4w")
_GRPC, _NATIVE = ("grpc-1", "grpc-16"), ("grpc-1-native", "grpc-16-native")
TARGETS = (
    PeerTarget("triton", (), (16, 64, 256), "rate", 1.0),
    PeerTarget("triton", ("echo-1",), (1,), "p50", 1.5),
    PeerTarget("triton", ("echo-16",), (1,), "p50", 0.4),
    PeerTarget("triton", _GRPC, (16, 64), "rate", 0.8),
    PeerTarget("triton", _NATIVE, (16, 64), "rate", 0.8),
    PeerTarget("mosec", ("echo-1", "echo-1-4w"), (64, 256), "rate", 1.0),
    PeerTarget("mosec", _BATCHED, (16, 64, 256), "rate", 0.7),
    PeerTarget("mosec", ("150k",), (16, 64), "rate", 0.8),
    PeerTarget("torchserve", (), (16, 64, 256), "rate", 5.0),
    PeerTarget("torchserve", ("echo-1",), (1,), "rate", 2.0),
    PeerTarget("torchserve", _GRPC, (16, 64), "rate", 3.0),
    PeerTarget("torchserve", _NATIVE, (16, 64), "rate", 3.0),
    PeerTarget("litserve", (), (16, 64, 256), "rate", 10.0),
    PeerTarget("loop", ("torch-5ms",), (16, 64), "rate", 0.97),
    PeerTarget("loop", ("torch-1ms",), (16, 64), "rate", 0.9),
)


def comparisons(results: PeerResults, target: PeerTarget) -> list[TargetComparison]:
    """Return how we compare in each row of a target, the worst first."""
    found = [
        TargetComparison(target, row.key, connections, median(compared))
        for row in results.rows
        if (row.key in target.rows if target.rows else row.key not in (*_GRPC, *_NATIVE))
        for connections in row.connections
        if connections in target.connections
        and (compared := list(_compared(results, target, row.key, connections)))
    ]
    return sorted(found, key=lambda one: one.found, reverse=target.what == "p50")


def _compared(results: PeerResults, target: PeerTarget, row: str, connections: int) -> Iterator[float]:
    """Yield ours divided by the other's in each round in which both were timed."""
    ours = next(iter(results.servers))
    loads = {
        (point.server, point.turn): point.load
        for point in results.points
        if (point.row, point.connections) == (row, connections)
    }
    for (server, turn), load in loads.items():
        other = loads.get((target.other, turn))
        if server != ours or other is None:
            continue
        one, two = (load.rate, other.rate) if target.what == "rate" else (load.p50_us, other.p50_us)
        if two:
            yield one / two


def render(results: PeerResults) -> str:
    """Write the table; nothing where no target was measured."""
    labels = {row.key: row.label for row in results.rows}
    rows = []
    for target in TARGETS:
        if target.other not in results.servers or not (found := comparisons(results, target)):
            continue
        worst, missed = found[0], [one for one in found if not one.is_met]
        sign, what = (">=", "requests/s") if target.what == "rate" else ("<=", "p50")
        rows.append([
            results.servers[target.other].label,
            _rows_of(target, labels),
            f"{what} {sign} {target.bound:g}",
            f"{worst.found:.2f} ({labels[worst.row]}, {worst.connections})",
            "yes" if not missed else f"**no**: {len(missed)} of {len(found)}",
        ])  # fmt: skip
    if not rows:
        return ""
    return f"""\
What we want, as ratios of ours to the other's, and where we are worst:

{table(("beside", "rows (connections)", "target", "worst", "met"), rows)}"""


def _rows_of(target: PeerTarget, labels: dict[str, str]) -> str:
    names = "; ".join(labels.get(key, key) for key in target.rows) or "all by HTTP"
    return f"{names} ({', '.join(map(str, target.connections))})"
