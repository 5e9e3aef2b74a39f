"""The fleet's statistics: counters and histograms, kept by the core and read by `questions`. Pure."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from torchrelay.broker.jobs.queues import Job, Lease
from torchrelay.broker.models.catalog import Key
from torchrelay.shared.wire import messages as m

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

    def observe_all(self, values: Sequence[float]) -> None:
        """Count many observations. PERF: half of what a call for each costs."""
        bounds, counts = self.bounds, self.counts
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self.total += sum(values)


def samples_of(labels: tuple[tuple[str, str], ...], histogram: Histogram) -> list[m.Sample]:
    """Return a histogram's samples, cumulative as Prometheus wants them."""
    samples, below = [], 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        below += count
        le = "+Inf" if bound == float("inf") else repr(bound)
        samples.append(m.Sample("_bucket", (*labels, ("le", le)), float(below)))
    samples.append(m.Sample("_count", labels, float(below)))
    return [*samples, m.Sample("_sum", labels, histogram.total)]


@dataclass(slots=True)
class Tally:
    """Sums over inference requests since they were read.

    PERF: plain sums, added to for a job or a batch; series and lines of log are made once for many.
    """

    requests: int = 0
    answered: int = 0
    #: From arrival to answer, and the part of it on a worker, over the requests answered.
    latency_s: float = 0.0
    service_s: float = 0.0


class VersionStats:
    """The statistics of one model version. Jobs end in exactly one of `outcomes`."""

    def __init__(self) -> None:
        self.submitted = 0
        #: `answered`, `failed`, `cancelled`, or the name of the error a job was refused with.
        self.outcomes: Counter[str] = Counter()
        self.queue_seconds = Histogram(SECONDS_BUCKETS)
        self.handler_seconds = Histogram(SECONDS_BUCKETS)
        self.total_seconds = Histogram(SECONDS_BUCKETS)
        self.batch_jobs = Histogram(BATCH_BUCKETS)
        #: Of requests that named this version, and of those that named none.
        self.named, self.unnamed = Tally(), Tally()
        #: Whether it is among `Stats.touched`.
        self.is_touched = False


class Stats:
    """All statistics that only grow; gauges are computed from the core's state when they are asked for."""

    def __init__(self) -> None:
        self.versions: defaultdict[Key, VersionStats] = defaultdict(VersionStats)
        #: Those whose tallies have changed since they were read.
        self.touched: list[tuple[Key, VersionStats]] = []
        #: Seconds that the latest batch waited for its worker, and spent there beyond the handler.
        self.last_batch: tuple[float, float] | None = None
        #: HTTP answers by status class, as the gateways report them.
        self.responses: Counter[str] = Counter()
        #: Requests with a wrong key, as the gateways report them.
        self.wrong_keys = 0
        #: Results whose lease was no longer valid: late, or from a worker that had been given up.
        self.stale_results = 0
        #: Jobs handed to another worker after theirs was lost.
        self.retries = 0
        #: Workers that ended unasked, by version.
        self.worker_failures: Counter[Key] = Counter()
        #: Messages that could not be read or were out of place.
        self.misunderstood = 0

    def touch(self, key: Key, version: VersionStats) -> None:
        """Mark a version's tallies as changed since they were read."""
        version.is_touched = True
        self.touched.append((key, version))

    def batch_done(
        self, lease: Lease, answered: Sequence[tuple[Job, int]], handler_s: float, began_at: float, now: float
    ) -> None:
        """Count a batch that is done; `answered` has its jobs with the HTTP statuses of their answers."""
        version = self.versions[lease.queue.key]
        service_s = now - began_at
        latencies_s = []
        for job, status in answered:
            latency_s = now - job.arrived_at
            latencies_s.append(latency_s)
            if status < 400 and not lease.is_describe:
                tally = version.named if job.names_version else version.unnamed
                tally.answered += 1
                tally.latency_s += latency_s
                tally.service_s += service_s
        version.total_seconds.observe_all(latencies_s)
        version.handler_seconds.observe(handler_s)
        if not lease.is_describe:
            self.last_batch = began_at - lease.jobs[0].arrived_at, service_s - handler_s
            if not version.is_touched:
                self.touch(lease.queue.key, version)
