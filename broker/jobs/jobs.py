"""Jobs from their arrival to their end, as `machine` sees them. Pure.

`machine` tells of what peers said and of workers' lives; here it is decided which job goes to which worker,
and everybody who waits is answered. The parts, in the order in which a job meets them:

- `admission`: whether a job is taken in;
- `queues` and `sequences`: where it waits, of which `waiting_jobs` has one for each version;
- `dispatch`: which worker gets it, and when; `isolation` where it may have ended a worker;
- `recovery`: what a worker has of it since before the broker's restart;
- `leases`: what runs on workers, its answers, and what is taken back from them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from math import inf

from torchrelay.broker.core.answers import Answers, Send, late
from torchrelay.broker.core.states import JobState
from torchrelay.broker.core.stats import Stats
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.fleet.worker import FleetWorker
from torchrelay.broker.jobs.admission import Admission
from torchrelay.broker.jobs.dispatch import Dispatch
from torchrelay.broker.jobs.isolation import Isolation
from torchrelay.broker.jobs.leases import Leases
from torchrelay.broker.jobs.queues import Job
from torchrelay.broker.jobs.recovery import Recovery
from torchrelay.broker.jobs.waiting_jobs import WaitingJobs
from torchrelay.broker.models.catalog import Catalog, Key
from torchrelay.shared import errors
from torchrelay.shared.settings import BrokerSettings
from torchrelay.shared.wire import messages as m

#: Leases of one epoch lie apart from those of the next, whose workers may still speak of them.
EPOCH_SHIFT = 32


class Jobs:
    """Every job that has not ended, and the leases under which some of them run."""

    def __init__(
        self,
        catalog: Catalog,
        fleet: Fleet,
        stats: Stats,
        settings: BrokerSettings,
        *,
        epoch: int,
        now: float,
        real_time: Callable[[float], float],
        answers: Answers,
        send: Send,
        report: Callable[..., None],
        new_sequence_id: Callable[[], str],
    ) -> None:
        self._stats = stats
        self._real_time = real_time
        self._answers = answers
        self.waiting = WaitingJobs(catalog, stats, answers)
        common = self.waiting, catalog, fleet, stats, settings, answers
        self.recovery = Recovery(fleet, send, epoch << EPOCH_SHIFT, now, settings.settle_s)
        self._isolation = Isolation(*common, report)
        self._leases = Leases(
            *common, self._isolation, send, real_time, (epoch << EPOCH_SHIFT) + 1, self.recovery
        )
        self._dispatch = Dispatch(*common, self._isolation, self._leases.assign, real_time)
        self._admission = admission = Admission(
            *common, self._dispatch, self._isolation,
            comes_back_until=now + settings.settle_s if epoch > 1 else now,
            real_time=real_time, new_sequence_id=new_sequence_id,
        )  # fmt: skip
        self.queues = self.waiting.queues
        self.leases = self._leases.by_number
        # What one part does alone: called without a step in between, as every job and batch comes by.
        self.admit = admission.admit
        self.admit_again = admission.admit_again
        self.answer_recovered = admission.answer_recovered
        self.streamed = self._leases.streamed
        self.completed = self._leases.completed
        self.next_due = self._dispatch.next_due
        self.expire = self.waiting.expire
        self.overdue = self._leases.overdue
        self.give_up = self._leases.give_up
        self.take_back = self._leases.take_back
        self.take_back_lost = self._leases.take_back_lost
        self.take_back_unsent = self._leases.take_back_unsent

    @property
    def handler_s(self) -> float:
        """How long handlers take over a batch, one with another."""
        return self._leases.handler_s

    def next_deadline(self) -> float:
        """Return the real time at which the next job must be looked at; infinity without one."""
        return self.waiting.deadlines.next

    def end_turn(self, now: float, real_now: float) -> None:
        """End what is late, and hand out what can go."""
        if self.waiting.deadlines.next <= real_now:
            self._end_late(real_now)
        self._dispatch.run(now)
        self._leases.send_assigned(now)

    def hold_back(self) -> None:
        """Hand out nothing more: who waits is sent again by gateways to the broker that comes next."""
        self._dispatch.is_held_back = True
        self._admission.comes_back_until = inf  # what can't be handed out is no surplus

    def touch(self, key: Key) -> None:
        """Have a version looked at in this turn: it may have got a worker."""
        self.waiting.changed[key] = None

    def cancel(self, jobs: Iterable[Job]) -> None:
        """End jobs nobody waits for: at once where they wait; where they run, their worker is told."""
        jobs = list(jobs)
        for job in self._unqueue(jobs):
            self._answers.end(job, "cancelled")
        self._leases.end_running(jobs, None)

    def _end_late(self, real_now: float) -> None:
        """End the jobs whose own limit has come: their clients hear it now, wherever they are."""
        found = (self._answers.job(*named) for named in self.waiting.deadlines.take_due(real_now))
        # Another may have come under its number meanwhile.
        jobs = [job for job in found if job is not None and job.given_up_at <= real_now]
        for job in self._unqueue(jobs):
            self._answers.refuse(job, self._late(job))
        self._leases.end_running(jobs, self._late)

    def _late(self, job: Job) -> errors.PredictionTimeout:
        return late(job, job.given_up_at - self._real_time(job.arrived_at))

    def _unqueue(self, jobs: Iterable[Job]) -> list[Job]:
        """Take those of the jobs that wait out of their queues, by one pass through each, and return them."""
        waiting: defaultdict[Key, list[Job]] = defaultdict(list)
        for job in jobs:
            if job.state is JobState.QUEUED:
                waiting[job.key].append(job)
        for of_version in waiting.values():
            self.waiting.unqueue(*of_version)
        return [job for of_version in waiting.values() for job in of_version]

    def refuse_queue(self, key: Key, why: str) -> None:
        """Answer everything that waits for a version."""
        self.waiting.refuse(self.queues[key].take_all(), why)

    def drop_queue(self, key: Key) -> None:
        """Forget the queue of a version that is gone, and its figures once nothing of it runs."""
        self.refuse_queue(key, "it has been unregistered")
        if not any(lease.queue.key == key for lease in self.leases.values()):
            del self.queues[key]
            self._stats.versions.pop(key, None)

    def leave_service(self, worker: FleetWorker) -> None:
        """Take note that a worker gets no more jobs: its sequences end, whose state goes with it."""
        queue = self.queues.get(worker.key)
        if queue is not None:
            waiting = queue.lose_worker(worker.worker_id)
            self.waiting.refuse(waiting, "its sequence has ended with the worker that kept its state")
            self.touch(worker.key)

    def blame(self, worker: FleetWorker, gone: m.WorkerExited, now: float) -> bool:
        """Find out which job ended a worker, before its jobs are taken back; tell whether that is excused."""
        queue = self.queues.get(worker.key)
        self.touch(worker.key)
        return queue is not None and self._isolation.blame(queue, worker, gone, now)
