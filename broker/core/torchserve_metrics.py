"""TorchServe's metrics of the whole fleet: which exist, their values, and the lines for metrics logs. Pure.

Which metrics exist, and whether a value goes to the metrics API or to a log file, is the operator's to say
(metrics.yaml, metrics_mode). What handlers and hosts report is not trusted: names are checked, series
are bounded, and what doesn't fit is dropped and counted.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from torchrelay.broker.core.metrics_config import HOSTNAME, LABEL, LABEL_COUNTS, NAME, Declared, MetricsConfig
from torchrelay.broker.core.stats import Histogram, Stats, Tally, samples_of
from torchrelay.shared.wire import messages as m

Mode = Literal["prometheus", "log", "legacy"]

#: The metrics that metrics_mode `legacy` shows in the metrics API; the others go to logs.
LEGACY = frozenset(
    ("ts_inference_requests_total", "ts_inference_latency_microseconds", "ts_queue_latency_microseconds")
)
#: TorchServe's buckets, the default of its Prometheus library.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
#: Metrics that nobody declared and model_metrics_auto_detect lets in.
DETECTED_LIMIT = 200
#: Series of one metric; the oldest makes room for a new one, so that models of long ago go first.
SERIES_LIMIT = 1000
#: Samples of the metrics that handlers and hosts report, all together: they have to fit one message.
SAMPLES_LIMIT = 20_000
#: Versions whose tallies are taken in at a time, and samples that are read at a time.
SETTLED_PER_STEP = 100
SAMPLES_READ = 200
#: Names of torchrelay's own metrics begin so; those of handlers and hosts may not.
OWN_PREFIX = "torchrelay_"
#: Labels longer than this are an accident: a request's text, a traceback.
LABEL_LIMIT_CHARS = 256
LABELS_LIMIT = 16


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a metrics log; `labels` without the host."""

    is_model: bool
    name: str
    unit: str
    value: float
    labels: tuple[tuple[str, str], ...]
    hostname: str
    at_ms: int
    request_ids: tuple[str, ...] = ()


@dataclass(eq=False)
class Family:
    """One metric and its series, by the values of its labels."""

    declared: Declared
    is_model: bool
    is_logged: bool
    values: dict[tuple[str, ...], float] = field(default_factory=dict)
    histograms: dict[tuple[str, ...], Histogram] = field(default_factory=dict)

    def __post_init__(self) -> None:
        #: Samples that one series makes.
        self.samples_each = len(BUCKETS) + 3 if self.declared.kind == "histogram" else 1

    def record(self, labels: tuple[str, ...], value: float) -> None:
        """Add to a counter, set a gauge, observe in a histogram."""
        match self.declared.kind:
            case "counter":
                self.values[labels] = self.values.get(labels, 0.0) + value
            case "gauge":
                self.values[labels] = value
            case "histogram":
                self.histograms.setdefault(labels, Histogram(BUCKETS)).observe(value)
        if len(self) > SERIES_LIMIT:
            self.drop_oldest()

    def __len__(self) -> int:
        return len(self.values) or len(self.histograms)

    def __contains__(self, labels: tuple[str, ...]) -> bool:
        return labels in self.values or labels in self.histograms

    def drop_oldest(self) -> None:
        """Forget the oldest series."""
        series = self.values or self.histograms
        series.pop(next(iter(series)), None)

    def read(self) -> Iterator[m.MetricFamily]:
        """Yield all samples, some at a time; the help text is TorchServe's."""
        declared = self.declared
        text = f"Torchserve prometheus {declared.kind} metric with unit: {declared.unit}"
        every: list[tuple[tuple[str, ...], float | Histogram]] = [*self.values.items()]
        every += self.histograms.items()
        size = max(1, SAMPLES_READ // self.samples_each)
        for start in range(0, len(every) or 1, size):
            samples: list[m.Sample] = []
            for labels, value in every[start : start + size]:
                pairs = tuple(zip(declared.labels, labels, strict=True))
                if isinstance(value, Histogram):
                    samples += samples_of(pairs, value)
                else:
                    samples.append(m.Sample("", pairs, value))
            yield m.MetricFamily(declared.name, declared.kind, text, tuple(samples))


@dataclass(eq=False)
class Metrics:
    """All of TorchServe's metrics, and the lines that are still to be written to metrics logs."""

    config: MetricsConfig = field(default_factory=MetricsConfig)
    mode: Mode = "prometheus"
    auto_detect: bool = False
    hostname: str = ""
    #: The operator's metrics.yaml, for workers to read as well; empty for the built-in one.
    file_content: bytes = b""

    def __post_init__(self) -> None:
        #: Whether any metric goes to a log.
        self.is_logging = self.mode != "prometheus"
        self._server = {one.name: self._family(one, is_model=False) for one in self.config.server}
        self.model = {one.name: self._family(one, is_model=True) for one in self.config.model}
        self._declared_count = len(self.model)
        #: Points that were not taken, by reason.
        self.dropped: Counter[str] = Counter()
        self._lines: list[Line] = []
        #: Samples of the series that handlers and hosts reported.
        self._samples = 0

    # What the core tells

    def count_responses(self, hundreds: str, count: int, at_ms: int) -> None:
        """Count HTTP answers of one class; what is neither 2xx nor 4xx counts as 5xx, as in TorchServe."""
        name = {"2xx": "Requests2XX", "4xx": "Requests4XX"}.get(hundreds, "Requests5XX")
        self._record_own(name, ("Host", self.hostname), count, at_ms)

    def worker_loaded(self, worker: str, load_s: float, at_ms: int) -> None:
        """Note how long a worker took to be ready."""
        labels = (worker, "Host", self.hostname)
        self._record_own("WorkerLoadTime", labels, _milliseconds(load_s), at_ms)

    def worker_gone(self, worker: str) -> None:
        """Forget a worker."""
        if family := self._server.get("WorkerLoadTime"):
            family.values.pop((worker, "Host", self.hostname), None)

    def measured(self, hostname: str, points: Iterable[m.MetricPoint], *, by_node: bool) -> None:
        """Take in what handlers measured, or (`by_node`) a host's metrics and those that handlers printed."""
        hostname = hostname[:LABEL_LIMIT_CHARS]
        for point in points:
            family = self.model.get(point.name)
            if family is None and by_node and point.name not in LABEL_COUNTS:
                family = self._server.get(point.name)
            if family is None:
                family = self._detected(point)
            if why_not := self._take(family, hostname, point):
                self.dropped[why_not] += 1

    # What goes out

    def families(self, stats: Stats, at_ms: int) -> Iterator[m.MetricFamily | None]:
        """Yield the families that the metrics API shows, those with many series bit by bit.

        None comes after work that shows nothing, so that no step takes long.
        """
        while len(stats.touched) > SETTLED_PER_STEP:
            self._settle(stats, at_ms, SETTLED_PER_STEP)
            yield None
        self._settle(stats, at_ms)
        for family in [*self._server.values(), *self.model.values()]:
            if not family.is_logged:
                yield from family.read()

    def take_lines(self, stats: Stats, at_ms: int) -> tuple[Line, ...]:
        """Return the lines of log since the last call."""
        self._settle(stats, at_ms)
        lines, self._lines = tuple(self._lines), []
        return lines

    # Inside

    def _family(self, declared: Declared, *, is_model: bool) -> Family:
        is_logged = self.mode == "log" or (self.mode == "legacy" and declared.name not in LEGACY)
        return Family(declared, is_model=is_model, is_logged=is_logged)

    def _settle(self, stats: Stats, at_ms: int, count: int | None = None) -> None:
        """Take in the tallies of jobs since the last time: of all versions, or of so many."""
        touched, stats.touched = stats.touched[:count], [] if count is None else stats.touched[count:]
        for (model, number), version in touched:
            version.is_touched = False
            self._add((model, number, self.hostname), version.named, at_ms)
            self._add((model, "default", self.hostname), version.unnamed, at_ms)
            version.named, version.unnamed = Tally(), Tally()
        if stats.last_batch is not None:
            (queue_s, overhead_s), stats.last_batch = stats.last_batch, None
            labels = ("Host", self.hostname)
            self._record_own("QueueTime", labels, _milliseconds(queue_s), at_ms)
            self._record_own("WorkerThreadTime", labels, _milliseconds(overhead_s), at_ms)

    def _add(self, labels: tuple[str, ...], tally: Tally, at_ms: int) -> None:
        if tally.requests:
            self._record_own("ts_inference_requests_total", labels, tally.requests, at_ms)
        if tally.answered:
            latency_us = round(tally.latency_s * 1e6, 3)
            queue_us = round((tally.latency_s - tally.service_s) * 1e6, 3)
            self._record_own("ts_inference_latency_microseconds", labels, latency_us, at_ms)
            self._record_own("ts_queue_latency_microseconds", labels, queue_us, at_ms)

    def _record_own(self, name: str, labels: tuple[str, ...], value: float, at_ms: int) -> None:
        family = self._server.get(name)
        if family is not None:
            self._record(family, labels, float(value), at_ms, ())

    def _record(
        self, family: Family, labels: tuple[str, ...], value: float, at_ms: int, request_ids: tuple[str, ...]
    ) -> None:
        if not family.is_logged:
            family.record(labels, value)
            return
        declared = family.declared
        pairs = tuple(zip(declared.labels[:-1], labels[:-1], strict=True))
        self._lines.append(
            Line(family.is_model, declared.name, declared.unit, value, pairs, labels[-1], at_ms, request_ids)
        )

    def _take(self, family: Family | None, hostname: str, point: m.MetricPoint) -> str:
        """Record one point; return "" or why it was dropped."""
        if family is None:
            return "not listed"
        labels = (*(value for _, value in point.dimensions), hostname)
        if len(labels) != len(family.declared.labels):
            return "other dimensions"
        if any(len(label) > LABEL_LIMIT_CHARS for label in labels):
            return "long label"
        if family.declared.kind != "gauge" and not math.isfinite(point.value):
            return "not a number"
        if family.declared.kind == "counter" and point.value < 0:
            return "negative count"
        if not family.is_logged and labels not in family and not self._make_room(family):
            return "too many series"
        self._record(family, labels, point.value, point.at_ms, point.request_ids)
        return ""

    def _make_room(self, family: Family) -> bool:
        """Make room for a new series, if need be by dropping the family's oldest; tell whether it has."""
        if self._samples + family.samples_each > SAMPLES_LIMIT or len(family) >= SERIES_LIMIT:
            if not len(family):
                return False
            family.drop_oldest()
            return True
        self._samples += family.samples_each
        return True

    def _detected(self, point: m.MetricPoint) -> Family | None:
        """Add a metric that nobody declared, if model_metrics_auto_detect is on and its names are valid."""
        labels = (*(name for name, _ in point.dimensions), HOSTNAME)
        if (
            not self.auto_detect
            or point.name in self._server
            or len(self.model) - self._declared_count >= DETECTED_LIMIT
            or not NAME.fullmatch(point.name)
            or point.name.startswith(OWN_PREFIX)
            or not all(LABEL.fullmatch(label) for label in labels)
            or len(set(labels)) != len(labels)
            or len(labels) > LABELS_LIMIT
            or max(map(len, (point.name, point.unit, *labels))) > LABEL_LIMIT_CHARS
        ):
            return None
        declared = Declared(point.name, point.kind, point.unit, labels)
        family = self.model[point.name] = self._family(declared, is_model=True)
        return family


def _milliseconds(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 3)
