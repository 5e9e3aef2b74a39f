"""All jobs that wait: a queue for each version, their bytes, and which queues changed in this turn. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf

from torchrelay.broker.core.answers import Answers, no_worker
from torchrelay.broker.core.states import JobState
from torchrelay.broker.core.stats import Stats
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.fleet.rounds import Rounds
from torchrelay.broker.fleet.worker import FleetWorker
from torchrelay.broker.jobs import batching
from torchrelay.broker.jobs.load import QueueLoad, backlog_s, latest_begin_s, left_of_batch_s
from torchrelay.broker.jobs.queues import Job, VersionQueue
from torchrelay.broker.models.catalog import Catalog, Key
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared.deadlines import Deadlines, retry_after_s
from torchrelay.shared.settings import BrokerSettings

#: Queues that one sweep looks at, 1 us each: of ten times as many each is looked at every other beat.
EXPIRED_AT_ONCE = 1000


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
    #: Of the jobs whose clients have a limit, by real time; a job is named by its gateway and its number.
    deadlines: Deadlines[tuple[bytes, int]] = field(init=False)
    _rounds: Rounds[tuple[Key, VersionQueue]] = field(init=False)

    def __post_init__(self) -> None:
        self._rounds = Rounds(self.queues.items, EXPIRED_AT_ONCE)
        self.deadlines = Deadlines(lambda named: self.answers.job(*named) is not None)

    def unqueue(self, *jobs: Job) -> None:
        """Take jobs of one version out of its queue."""
        key = jobs[0].key
        self.queues[key].remove(*jobs)
        self.queued_bytes -= sum(job.size for job in jobs)
        if any(job.suspicion for job in jobs):
            self.changed[key] = None  # a worker may be kept for them

    def refuse(self, jobs: Iterable[Job], why: str, retry_after_s: int = 1) -> None:
        """Refuse jobs that have just left their queue."""
        for job in jobs:
            self.queued_bytes -= job.size
            self.answers.refuse(job, no_worker(job, why, retry_after_s))

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
        """Have those versions looked at whose jobs have waited, or whose sequences idled, for too long.

        In a part of all queues.
        """
        for key, queue in self._rounds.next_part():
            if self.queues.get(key) is not queue:
                continue
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

    def idle(self, record: VersionRecord, queue: VersionQueue) -> int:
        """Return how many jobs could go to a worker at once."""
        return sum(
            batching.room(record, leases=len(worker.leases))
            for worker in self._reachable(queue)
            if worker.worker_id != queue.kept_worker
        )

    def load(self, record: VersionRecord, queue: VersionQueue, now: float) -> QueueLoad:
        """Return what a new job of a version finds."""
        service_s = queue.service_s
        free_in_s: list[float] = []
        for worker in self._reachable(queue):
            left_s = [
                left_of_batch_s(0.0 if lease.began_at is None else now - lease.began_at, service_s)
                for lease in worker.leases
            ]
            if queue.runs_in_order:
                free_in_s.append(sum(left_s))
            else:
                room = batching.room(record, leases=len(worker.leases))
                free_in_s += left_s + [0.0] * room
        return QueueLoad(
            depth=len(queue.row),
            batch_size=record.batch_size if queue.runs_in_order else 1,
            free_in_s=sorted(free_in_s),
            service_s=service_s,
        )

    def begins_by_s(self, record: VersionRecord, queue: VersionQueue) -> float:
        """Return when a new job of a version begins at the latest, which takes no look at each worker."""
        workers = self.fleet.versions.get(queue.key)
        fewest = None if workers is None else workers.fewest_leases
        if workers is None or fewest is None:
            return inf
        return latest_begin_s(
            depth=len(queue.row), batch_size=record.batch_size if queue.runs_in_order else 1,
            workers=workers.reachable, fewest_leases=fewest, service_s=queue.service_s,
        )  # fmt: skip

    def retry_after_s(self, record: VersionRecord, queue: VersionQueue) -> int:
        """Return when to try again what finds no place: when what waits now is done, as far as is known."""
        workers = self.fleet.versions.get(queue.key)
        capacity = batching.capacity(record, workers=0 if workers is None else workers.reachable)
        return retry_after_s(backlog_s(depth=len(queue), capacity=capacity, service_s=queue.service_s))

    def _reachable(self, queue: VersionQueue) -> list[FleetWorker]:
        return [worker for worker in self.fleet.ready(queue.key) if not worker.is_cut]
