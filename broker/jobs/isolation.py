"""Requests that may have ended a worker: who they are, when and where each is run alone. Pure.

Rules, of which the first is that no request is refused because of others in its batch:

- what ran on a worker that ended by itself is suspect, and is run again with nothing beside it; where it had
  no try left and ran beside others, it has one more;
- at most one worker of a version is used for that at a time, while another serves the other requests; where
  there is one alone, it serves them first for as long as it took to come up, and between two suspects;
- one that ends that worker, too, has its content quarantined; those that were lost with it are cleared;
- one that is answered is cleared, and so is its content;
- while something is under suspicion, a new worker is given one job, and more once it has answered that: so
  it shows that it wasn't the version's fault if something ends it then.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf

from torchrelay.broker.core.answers import no_worker
from torchrelay.broker.core.states import JobState
from torchrelay.broker.fleet.worker import FleetWorker
from torchrelay.broker.jobs import batching
from torchrelay.broker.jobs.quarantine import Suspicion, refusal
from torchrelay.broker.jobs.queues import Job, Lease, VersionQueue
from torchrelay.broker.jobs.waiting_jobs import JobsPart
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared import errors
from torchrelay.shared.wire import messages as m

#: What ends processes from outside. A handler seldom sends it to itself, and the kernel says when it did.
SIGKILL = 9
#: Waiting jobs that are looked at when a worker has ended, 5 us each; of those behind them one more worker
#: may end.
SET_APART_LIMIT = 1000

Assign = Callable[[VersionQueue, tuple[Job, ...], VersionRecord, FleetWorker, float], None]


def judge(
    queue: VersionQueue, worker: FleetWorker, *, deaths_needed: int, now: float
) -> tuple[bool, list[Job]]:
    """Find out which of the jobs that a worker was running ended it, or put all of them under suspicion.

    Return whether its end is excused, and the jobs whose content ends workers, as is known by now. Excused
    says nothing against the version: the worker had answered others, or what it ran had ended such one.
    """
    # Jobs whose clients have left are run by their workers all the same.
    running = [
        job
        for lease in worker.leases
        if lease.queue is queue and lease.began_at is not None and not lease.is_describe
        for job in lease.jobs
    ]
    if not running:
        return False, []
    is_alone = len(running) == 1
    is_excused = worker.has_answered or all(job.suspicion and job.suspicion.is_excused for job in running)
    for job in running:
        was_sent_ahead = job.has_spare_try and job.suspicion is None  # and so may not have begun
        job.has_spare_try = not is_alone or was_sent_ahead
    find = queue.suspicions.find
    if known := [job for job in running if (one := find(job.meta, job.frames)) and one.digest]:
        return True, known
    suspicions: set[Suspicion] = set()  # twice the same content in a batch is one suspicion
    for job in running:
        job.suspicion = queue.suspicions.suspect(job.meta, job.frames, now, job.suspicion)
        suspicions.add(job.suspicion)
    for suspicion in suspicions:
        suspicion.deaths += 1
        suspicion.is_excused = is_excused
        if not is_alone:
            suspicion.lost_with = worker.worker_id
    is_proved = is_alone and all(one.outline and one.deaths >= deaths_needed for one in suspicions)
    return is_excused, running if is_proved else []


def set_apart(queue: VersionQueue) -> None:
    """Have those of the waiting jobs that have a suspect's content run alone, too."""
    if not queue.suspicions.known:
        return
    for job in [job for job in islice(queue.jobs, SET_APART_LIMIT) if job.suspicion is None]:
        if suspicion := queue.suspicions.find(job.meta, job.frames):
            queue.suspect(job, suspicion)


def clear(queue: VersionQueue, suspicions: Collection[Suspicion]) -> None:
    """Let those of the waiting suspects go with the others again."""
    for suspicion in suspicions:
        queue.suspicions.clear(suspicion)
    cleared = [job for job in queue.suspects if job.suspicion in suspicions]
    for job in cleared:
        queue.remove(job)
        job.suspicion = None
    queue.put_back(cleared)


def lost_with(queue: VersionQueue, culprit: Suspicion) -> set[Suspicion]:
    """Return what was suspected only because it ran together with a culprit that has been found."""
    suspicions = {job.suspicion for job in queue.suspects if job.suspicion} - {culprit}
    return {one for one in suspicions if 0 != one.lost_with == culprit.lost_with and one.deaths == 1}


def due(queue: VersionQueue, ready: Sequence[FleetWorker], *, is_more_coming: bool) -> float:
    """Return when the next suspect may be given to a worker; all waiting ends at half of its patience."""
    if not ready:
        return inf
    job = queue.suspects.first
    patience_s = min(job.expires_at - job.arrived_at, queue.config.client_timeout_ms / 1000 or inf)
    at_last = job.arrived_at + patience_s / 2
    if len(ready) > 1:
        return 0.0
    if is_more_coming:
        return at_last  # or as soon as a second one is ready, which serves the others
    (worker,) = ready
    if len(queue.jobs) == len(queue.suspects) and not worker.leases:
        return 0.0
    if worker.last_assigned_at < worker.since or worker.last_assigned_at <= queue.isolated_at:
        return at_last  # or as soon as it has been given something else
    return min(at_last, worker.since + (worker.since - worker.started_at))


@dataclass(slots=True, eq=False)
class Isolation(JobsPart):
    """Applies the rules for `jobs`, and answers those who are refused by them."""

    report: Callable[..., None]

    def refuses(self, queue: VersionQueue, record: VersionRecord, job: Job, now: float) -> bool:
        """Look at a new job of a version of whose contents some are known, and refuse it if need be."""
        job.suspicion = queue.suspicions.find(job.meta, job.frames)
        if job.suspicion is None:
            return False
        if job.suspicion.digest:
            job.suspicion.refused += 1
            self.answers.refuse(job, refusal(job.suspicion, now))
            return True
        limit = record.config.job_queue_size or self.settings.job_queue_size
        if len(queue.suspects) < limit:
            return False
        why = f"{limit} requests wait whose like has ended a worker, the limit of job_queue_size"
        self.answers.refuse(job, no_worker(job, why))
        return True

    def hand_out(self, queue: VersionQueue, record: VersionRecord, now: float, assign: Assign) -> float:
        """Give the next suspects to a worker if they may go; return when to look again if not."""
        all_ready = self.fleet.ready(queue.key)
        kept_before = queue.kept_worker
        leases = [lease for worker in all_ready if worker.worker_id == kept_before for lease in worker.leases]
        if any(lease.jobs[0].suspicion for lease in leases):
            return inf  # it is looked at again when they have ended
        queue.kept_worker = 0
        if not queue.suspects:
            return inf
        ready = [worker for worker in all_ready if not worker.is_cut]
        condition = self.fleet.condition(queue.key)
        is_more_coming = len(self.fleet.live(queue.key)) > len(ready) or condition.next_start_at > now
        at = due(queue, ready, is_more_coming=is_more_coming)
        if at > now:
            return at
        # What runs on the one that is kept may take long; one that is idle need not wait for that.
        kept = min(
            ready,
            key=lambda w: (
                bool(w.leases), w.worker_id != kept_before, not w.has_answered, len(w.leases), w.worker_id
            ),
        )  # fmt: skip
        queue.kept_worker = kept.worker_id
        if kept.leases:
            return inf
        head = queue.suspects.first
        share = (now - head.arrived_at) / (head.expires_at - head.arrived_at)
        count = batching.isolated_count(suspects=len(queue.suspects), waited_share=share)
        count = min(count, batching.room(record, leases=len(kept.leases)))
        limit = self.settings.attempt_limit
        if count > 1 and any(job.attempt >= limit for job in islice(queue.suspects, count)):
            count = 1  # it has its spare try alone: there is none after it
        jobs = queue.take_suspects(count)
        for batch in [jobs] if queue.runs_in_order else [(job,) for job in jobs]:
            assign(queue, batch, record, kept, now)
        queue.isolated_at = now
        return inf

    def answered(self, lease: Lease) -> None:
        """Clear suspects that their worker has survived."""
        if suspicions := [one.suspicion for one in lease.jobs if one.suspicion and not one.suspicion.digest]:
            clear(lease.queue, suspicions)

    def blame(self, queue: VersionQueue, worker: FleetWorker, gone: m.WorkerExited, now: float) -> bool:
        """Find out what ended a worker, and answer it if it is found; tell whether that is excused."""
        limit = self.settings.attempt_limit
        # All of a client's requests may be the same: a second kill by chance would have them all refused.
        was_killed = gone.signal == SIGKILL and not gone.out_of_memory
        needed = max(2, limit) + was_killed
        is_excused, culprits = judge(queue, worker, deaths_needed=needed, now=now)
        set_apart(queue)
        if not self.settings.quarantine_s:
            return is_excused
        for job in culprits:
            suspicion = queue.suspicions.find(job.meta, job.frames) or job.suspicion
            assert suspicion is not None, job
            if not suspicion.digest:
                self._quarantine(queue, job, suspicion, gone.reason, now)
            if job.state is JobState.RUNNING:
                cls = errors.OutOfResources if gone.out_of_memory else errors.WorkerDied
                left_s = suspicion.forgotten_at - now
                details = (
                    f"{gone.reason} (in {job.attempt} tries); {suspicion.deaths} workers ended while they "
                    f"ran this content, so requests with it are refused for {left_s:.0f} s"
                )
                self.answers.refuse(job, cls("Worker died.", details))
        return is_excused

    def _quarantine(
        self, queue: VersionQueue, job: Job, suspicion: Suspicion, reason: str, now: float
    ) -> None:
        until = now + self.settings.quarantine_s
        queue.suspicions.quarantine(suspicion, job.meta, job.frames, until=until, reason=reason)
        model, version = queue.key
        self.report(
            logging.WARNING, "job.quarantined", model=model, version=version, request=suspicion.request_id,
            content=suspicion.digest.hex(), reason=reason, workers_lost=suspicion.deaths,
            for_s=self.settings.quarantine_s,
        )  # fmt: skip
        clear(queue, lost_with(queue, suspicion))
        for same in [job for job in queue.jobs if job.suspicion is suspicion]:
            if queue.suspicions.find(same.meta, same.frames) is suspicion:
                suspicion.refused += 1
                self.waiting.unqueue(same)
                self.answers.refuse(same, refusal(suspicion, now))
