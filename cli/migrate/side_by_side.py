"""Counts what two servers answered, request by request: differences, and how long they took. Pure.

What it holds is bounded, however many requests there are.
"""

import math
from collections.abc import Sequence

import msgspec

from torchrelay.cli.migrate.answer_differences import Difference, ServerAnswer, Tolerance, differences
from torchrelay.cli.migrate.replayed_request import ReplayedRequest
from torchrelay.cli.migrate.request_files import LeftOut

#: Requests that are counted by themselves; the paths of a client can be endless.
LABELS_LIMIT = 200
OTHERS = "others"
#: Of one label: differences that are shown, and times that are kept, the latest ones.
EXAMPLES_LIMIT = 3
TIMES_LIMIT = 10_000
LEFT_OUT_LIMIT = 100


class Latencies(msgspec.Struct, frozen=True):
    """Milliseconds below which so many percent of the answers were there."""

    p50: float
    p95: float
    p99: float


class Example(msgspec.Struct, frozen=True):
    """Requests whose answers differ in the same way: the first one, and how many there are."""

    source: str
    path: str
    differences: tuple[Difference, ...]
    times: int


class LabelReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found for the requests of one method and path."""

    request: str
    sent: int
    differing: int
    old_ms: Latencies
    new_ms: Latencies
    examples: tuple[Example, ...]


class DiffReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that was sent, and what wasn't."""

    old: str
    new: str
    sent: int
    differing: int
    #: How many requests weren't sent to both, and the first ones of them.
    left_out: int
    requests: tuple[LabelReport, ...]
    reasons: tuple[LeftOut, ...]
    was_interrupted: bool = False


class _Label(msgspec.Struct):
    sent: int = 0
    differing: int = 0
    old_s: list[float] = msgspec.field(default_factory=list)
    new_s: list[float] = msgspec.field(default_factory=list)
    #: By path and differences.
    examples: dict[tuple[str, tuple[Difference, ...]], Example] = msgspec.field(default_factory=dict)


class SideBySide:
    """Takes pairs of answers, and says what they come to."""

    def __init__(self, old: str, new: str, tolerance: Tolerance) -> None:
        self._old, self._new = old, new
        self._tolerance = tolerance
        self._labels: dict[str, _Label] = {}
        self._reasons: list[LeftOut] = []
        self._left_out = 0

    def compare(self, request: ReplayedRequest, old: ServerAnswer, new: ServerAnswer) -> list[Difference]:
        """Return in what two answers differ; counts nothing, so that threads may do it side by side."""
        return differences(old, new, self._tolerance, is_metrics=request.api == "metrics")

    def add(self, request: ReplayedRequest, old: ServerAnswer, new: ServerAnswer) -> None:
        """Compare a pair of answers, and count it."""
        self.count(request, old, new, self.compare(request, old, new))

    def count(
        self, request: ReplayedRequest, old: ServerAnswer, new: ServerAnswer, found: Sequence[Difference]
    ) -> None:
        """Count a pair of answers that was compared."""
        name = request.label
        if name not in self._labels and len(self._labels) >= LABELS_LIMIT:
            name = OTHERS
        label = self._labels.setdefault(name, _Label())
        at = label.sent % TIMES_LIMIT
        for times, answer in ((label.old_s, old), (label.new_s, new)):
            times[at : at + 1] = [answer.seconds]
        label.sent += 1
        if found:
            label.differing += 1
            key = (request.path, tuple(found))
            if seen := label.examples.get(key):
                label.examples[key] = msgspec.structs.replace(seen, times=seen.times + 1)
            elif len(label.examples) < EXAMPLES_LIMIT:
                label.examples[key] = Example(request.source, request.path, tuple(found), 1)

    def leave_out(self, one: LeftOut) -> None:
        """Count a request that isn't sent to both."""
        self._left_out += 1
        if len(self._reasons) < LEFT_OUT_LIMIT:
            self._reasons.append(one)

    def summary(self) -> str:
        """Say in a line how far it is."""
        sent = sum(label.sent for label in self._labels.values())
        differing = sum(label.differing for label in self._labels.values())
        return f"{sent} compared, {differing} differ, {self._left_out} left out"

    def report(self, *, was_interrupted: bool = False) -> DiffReport:
        """Return what there is so far."""
        labels = tuple(
            LabelReport(
                request=name,
                sent=label.sent,
                differing=label.differing,
                old_ms=latencies(label.old_s),
                new_ms=latencies(label.new_s),
                examples=tuple(label.examples.values()),
            )
            for name, label in self._labels.items()
        )
        return DiffReport(
            old=self._old,
            new=self._new,
            sent=sum(label.sent for label in labels),
            differing=sum(label.differing for label in labels),
            left_out=self._left_out,
            requests=labels,
            reasons=tuple(self._reasons),
            was_interrupted=was_interrupted,
        )


def latencies(seconds: Sequence[float]) -> Latencies:
    """Return the percentiles of some times."""
    ordered = sorted(seconds)
    return Latencies(*(round(_percentile(ordered, part) * 1000, 3) for part in (0.5, 0.95, 0.99)))


def _percentile(ordered: Sequence[float], part: float) -> float:
    return ordered[max(math.ceil(part * len(ordered)) - 1, 0)] if ordered else 0.0
