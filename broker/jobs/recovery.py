"""What workers run, and have answered, since before the broker's restart: it is not run again. Pure.

A gateway sends its jobs again to a broker that was restarted. Those that the broker before it was sent wait
until it is known whether a worker has them: until the nodes of before are back, and the workers that these
hold (one that runs a batch says nothing meanwhile). Workers name in their hello what they hold and what they
have answered lately; the answer to such a job is the one that the worker gives, or has given.

Everything in here is bounded and ends: what is named, by what fits into a hello; answers that nobody has
claimed, by bytes and ANSWERS_KEPT_S; waiting, by the response_timeout of the version.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from torchrelay.broker.core.answers import Send
from torchrelay.broker.core.states import WorkerState
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.fleet.worker import FleetWorker
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import Frame

#: As long as a gateway waits for a broker that is away, unless it is told otherwise.
ANSWERS_KEPT_S = 30.0
ANSWERS_LIMIT_BYTES = 64 << 20
#: How often a worker is asked for an answer that it gave before: it takes no notice while it says hello.
ASK_INTERVAL_S = 0.5
#: Jobs that were lost with their workers, as long as their gateways have not claimed them.
LOST_LIMIT = 10_000

#: A gateway's peer id and its number for the job.
JobId = tuple[bytes, int]


@dataclass(slots=True, eq=False)
class NamedLease:
    """A lease of a broker before this one, as a worker named it."""

    worker_id: int
    jobs: tuple[m.HeldJob, ...]
    is_answered: bool
    #: Parts of answers went to the broker before; what they were is not known here.
    is_broken: bool
    #: When its answer was first asked for once more, and last: the question may be lost as well.
    asked_at: float | None = None
    asked_last: float = -inf
    #: Parts that came since, by the index of their job.
    parts: dict[int, list[tuple[bytes, tuple[Frame, ...]]]] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class RecoveredAnswer:
    """A worker's answer to a job that its gateway has not claimed yet."""

    parts: Sequence[tuple[bytes, tuple[Frame, ...]]]
    final: m.CompletedItem
    frames: tuple[Frame, ...]
    since: float
    #: A part of it is lost.
    is_broken: bool

    @property
    def size(self) -> int:
        """How many bytes it takes."""
        parts = (*self.parts, (self.final.meta, self.frames))
        return sum(len(meta) + sum(map(len, frames)) for meta, frames in parts)


@dataclass(slots=True, eq=False)
class Recovery:
    """The leases of brokers before this one."""

    _fleet: Fleet
    _send: Send
    #: Leases with lower numbers are those of brokers before.
    _first_lease: int
    _started_at: float
    _settle_s: float
    leases: dict[int, NamedLease] = field(default_factory=dict)
    #: The leases above, by their jobs.
    _by_job: dict[JobId, int] = field(default_factory=dict)
    _answers: dict[JobId, RecoveredAnswer] = field(default_factory=dict)
    #: What ran on workers that were lost since, the oldest first: it may have been run.
    _lost: dict[JobId, None] = field(default_factory=dict)
    _bytes: int = 0

    def named(self, worker: FleetWorker, held: Sequence[m.HeldLease]) -> bool:
        """Take in what a worker names that has just come; tell whether it keeps that.

        One that this broker knew before, and has given up, doesn't: its jobs are with others.
        """
        if not held or any(one.lease >= self._first_lease for one in held):
            return False
        for one in held:
            named = NamedLease(worker.worker_id, one.jobs, one.is_answered, one.streamed > 0)
            self.leases[one.lease] = named
            for job in one.jobs:
                self._by_job.setdefault((job.gateway, job.job), one.lease)
        self._fleet.must_reconcile = True
        return True

    # Answers

    def streamed(self, message: m.Streamed, parts: Sequence[tuple[Frame, ...]]) -> None:
        """Keep parts of answers to a lease of before."""
        lease = self.leases.get(message.lease)
        if lease is None:
            return
        for item, frames in zip(message.items, parts, strict=True):
            lease.parts.setdefault(item.index, []).append((item.meta, frames))
        self._bytes += sum(len(item.meta) for item in message.items) + sum(len(f) for p in parts for f in p)
        if self._bytes > ANSWERS_LIMIT_BYTES:
            lease.parts.clear()
            lease.is_broken = True

    def completed(self, done: m.Completed, parts: Sequence[tuple[Frame, ...]], now: float) -> None:
        """Keep the answers to a lease of before, until their gateways claim them."""
        if done.lease not in self.leases:
            return
        lease = self._drop(done.lease)
        for index, (job, item, frames) in enumerate(zip(lease.jobs, done.items, parts, strict=False)):
            of_job = lease.parts.get(index, ())
            is_broken = lease.is_broken or (lease.is_answered and done.streamed > 0 and not of_job)
            answer = RecoveredAnswer(of_job, item, frames, now, is_broken)
            self._answers[job.gateway, job.job] = answer
        self._shrink(now)
        self._fleet.must_reconcile = True

    def claim(self, gateway: bytes, number: int) -> RecoveredAnswer | None:
        """Return the answer to a job that came again, if a worker gave it."""
        return self._answers.pop((gateway, number), None)

    def may_have_run(self, gateway: bytes, number: int) -> bool:
        """Tell whether a worker had a job that is handed out all the same: it is lost, or late."""
        return (gateway, number) in self._by_job or (gateway, number) in self._lost

    # Waiting

    def is_open(self, now: float) -> bool:
        """Tell whether a worker may have what a broker before this one was sent."""
        return bool(self._by_job or self._answers or self._fleet.awaited) or (
            now < self._started_at + ANSWERS_KEPT_S
        )

    def must_wait(self, gateway: bytes, job: m.SubmitItem, record: VersionRecord, now: float) -> bool:
        """Tell whether a worker may still answer a job that came again; ask for an answer given before."""
        if (gateway, job.job) in self._answers:
            return False
        limit = self._started_at + record.response_timeout_s
        number = self._by_job.get((gateway, job.job))
        if number is not None:
            lease = self.leases[number]
            worker = self._fleet.workers.get(lease.worker_id)
            if worker is None or worker.peer is None:
                return False
            if lease.is_answered and now >= lease.asked_last + ASK_INTERVAL_S:
                lease.asked_at = now if lease.asked_at is None else lease.asked_at
                lease.asked_last = now
                self._send(worker.peer, m.AnswerAgain((number,)), ())
            return now < (limit if lease.asked_at is None else lease.asked_at + self._settle_s)
        if self._fleet.is_settling(now):
            return True
        key = (record.model, record.version)
        if now < limit and any(self._is_missing(worker) for worker in self._fleet.of_version(key)):
            return True
        return bool(job.sequence) and now < limit and self._runs_sequence(gateway, job.sequence)

    def _is_missing(self, worker: FleetWorker) -> bool:
        """Tell whether a worker that its node brought along has not come back yet."""
        is_of_before = self._fleet.is_of_before(worker)
        return is_of_before and worker.state is WorkerState.STARTING and not worker.note

    def _runs_sequence(self, gateway: bytes, sequence: str) -> bool:
        return any(
            job.gateway == gateway and job.sequence == sequence
            for lease in self.leases.values()
            if not lease.is_answered and lease.worker_id in self._fleet.workers
            for job in lease.jobs
        )

    # Ends

    def expire(self, now: float) -> None:
        """Forget what workers had that are gone, and answers that nobody has claimed for long."""
        if not self.leases and not self._answers:
            return
        for number, lease in list(self.leases.items()):
            is_late = lease.is_answered and now > self._started_at + 2 * ANSWERS_KEPT_S
            is_lost = lease.worker_id not in self._fleet.workers
            if is_late or is_lost:
                self._drop(number)
            if is_lost:
                self._lost.update(((job.gateway, job.job), None) for job in lease.jobs)
        while len(self._lost) > LOST_LIMIT:
            del self._lost[next(iter(self._lost))]
        self._shrink(now)

    def _drop(self, number: int) -> NamedLease:
        lease = self.leases.pop(number)
        for job in lease.jobs:
            if self._by_job.get((job.gateway, job.job)) == number:
                del self._by_job[job.gateway, job.job]
        return lease

    def _shrink(self, now: float) -> None:
        """Let go of the oldest answers, until what is kept is young and small enough."""
        self._bytes = sum(answer.size for answer in self._answers.values())
        for job, answer in list(self._answers.items()):
            if self._bytes <= ANSWERS_LIMIT_BYTES and now <= answer.since + ANSWERS_KEPT_S:
                return
            self._bytes -= answer.size
            del self._answers[job]
