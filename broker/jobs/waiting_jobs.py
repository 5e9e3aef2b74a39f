"""All jobs that wait: a queue for each version, their bytes, and which queues changed in this turn. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torchrelay.broker.core.answers import Answers, no_worker
from torchrelay.broker.core.states import JobState
from torchrelay.broker.core.stats import Stats
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.jobs.queues import Job, VersionQueue
from torchrelay.broker.models.catalog import Catalog, Key
from torchrelay.shared.settings import BrokerSettings


@dataclass(slots=True, eq=False)
class WaitingJobs:
    """The queues of all versions; those that leave one without a worker are answered here."""

    catalog: Catalog
    stats: Stats
    answers: Answers
    queues: dict[Key, VersionQueue] = field(default_factory=dict)
    #: Bytes waiting in all queues.
    queued_bytes: int = 0
    #: Versions whose queue or workers changed in this turn, in the order in which they did.
    changed: dict[Key, None] = field(default_factory=dict)
    #: A heap of the jobs whose clients have a limit, by real time; only their names are kept (gateway and
    #: number), so that one that has ended costs little.
    deadlines: list[tuple[float, bytes, int]] = field(default_factory=list)

    def unqueue(self, *jobs: Job) -> None:
        """Take jobs of one version out of its queue."""
        key = jobs[0].key
        self.queues[key].remove(*jobs)
        self.queued_bytes -= sum(job.size for job in jobs)
        if any(job.suspicion for job in jobs):
            self.changed[key] = None  # a worker may be kept for them

    def refuse(self, jobs: Iterable[Job], why: str) -> None:
        """Refuse jobs that have just left their queue."""
        for job in jobs:
            self.queued_bytes -= job.size
            self.answers.refuse(job, no_worker(job, why))

    def put_back(self, queue: VersionQueue, jobs: Sequence[Job]) -> None:
        """Return jobs that ran to the head of their queue; refuse them where that is gone."""
        if not jobs:
            return
        for job in jobs:
            job.move(JobState.QUEUED)
            job.lease = 0
            self.queued_bytes += job.size
        if self.catalog.get(queue.key) is None or self.queues.get(queue.key) is not queue:
            self.refuse(jobs, "it has been unregistered")
            return
        self.stats.retries += len(jobs)
        queue.put_back(jobs)
        self.changed[queue.key] = None

    def expire(self, now: float) -> None:
        """Have those versions looked at whose jobs have waited, or whose sequences idled, for too long."""
        for key, queue in self.queues.items():
            if (oldest := queue.oldest) is not None and oldest.expires_at <= now:
                self.changed[key] = None
            queue.forget_idle(now)
            queue.suspicions.forget_old(now)


@dataclass(slots=True, eq=False)
class JobsPart:
    """One of the parts of `jobs`: all of them work with these."""

    waiting: WaitingJobs
    catalog: Catalog
    fleet: Fleet
    stats: Stats
    settings: BrokerSettings
    answers: Answers
