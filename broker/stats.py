"""The fleet's figures: counters and histograms, kept by the core and read by `facts`. Pure."""

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from broker.catalog import Key

#: From a no-op on this host to a slow network on a large input.
SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


class Histogram:
    """Counts of observations up to each bound, as Prometheus has them."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        #: One more than bounds: the last counts what is above all of them. Not cumulative.
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class VersionStats:
    """The figures of one model version. Jobs end in exactly one of `outcomes`."""

    submitted: int = 0
    #: `answered`, `cancelled`, or the name of the error a job was refused with.
    outcomes: Counter[str] = field(default_factory=Counter)
    queue_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS_BUCKETS))
    handler_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS_BUCKETS))
    total_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS_BUCKETS))
    batch_jobs: Histogram = field(default_factory=lambda: Histogram(BATCH_BUCKETS))


class Stats:
    """All figures that only grow; gauges are read off the core when asked for."""

    def __init__(self) -> None:
        self.versions: defaultdict[Key, VersionStats] = defaultdict(VersionStats)
        #: HTTP answers by status class, as the gateways report them.
        self.responses: Counter[str] = Counter()
        #: Results whose lease was no longer valid: late, or from a worker that had been given up.
        self.stale_results = 0
        #: Jobs handed to another worker after theirs was lost.
        self.retries = 0
        #: Workers that ended unasked, by version.
        self.worker_failures: Counter[Key] = Counter()
        #: Messages that could not be read or were out of place.
        self.misunderstood = 0

    def forget(self, key: Key) -> None:
        """Drop the figures of a version that is gone."""
        self.versions.pop(key, None)
        self.worker_failures.pop(key, None)
