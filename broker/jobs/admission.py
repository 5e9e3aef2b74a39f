"""Which jobs are taken in, and which are refused at once, and why. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from torchrelay.broker.core.answers import Gateway, no_worker, part_lost
from torchrelay.broker.jobs.dispatch import Dispatch
from torchrelay.broker.jobs.isolation import Isolation
from torchrelay.broker.jobs.load import MARGIN
from torchrelay.broker.jobs.queues import Job, VersionQueue
from torchrelay.broker.jobs.recovery import RecoveredAnswer
from torchrelay.broker.jobs.waiting_jobs import JobsPart
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared import errors
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import Frame


@dataclass(slots=True, eq=False)
class Admission(JobsPart):
    """Puts new jobs into their queues."""

    dispatch: Dispatch
    isolation: Isolation
    #: What ran on workers before a restart comes back as waiting until then: it had been accepted.
    comes_back_until: float
    #: Turns a time of the core into real time, which is what clients wait in.
    real_time: Callable[[float], float]
    new_sequence_id: Callable[[], str]

    def admit(
        self,
        gateway: Gateway,
        item: m.SubmitItem,
        frames: tuple[Frame, ...],
        now: float,
        *,
        held_limit: float,
    ) -> errors.RelayError | None:
        """Take a job in, or refuse it at once; of an unknown model, return the error instead.

        `held_limit`: how many may wait beside the queue's limit, this one among them; 0: it counts as others.
        """
        try:
            record = self.catalog.resolve(item.model, item.version)
        except errors.RelayError as error:
            return error.with_traceback(None)  # else it would be in a cycle with the frames of its callers
        queue = self.waiting.queues.get((record.model, record.version))
        if queue is None or queue.config is not record.config:
            queue = self.dispatch.queue_for(record)
        job = self._enter(gateway, item, frames, record, now, was_held=queue.row.held < held_limit)
        if queue.suspicions.known and self.isolation.refuses(queue, record, job, now):
            return None
        if item.left_ms or record.config.client_timeout_ms:
            self._set_limit(job, item.left_ms, record.config.client_timeout_ms, now)
        if why_not := self._why_not(record, queue, job, now):
            self.answers.refuse(job, no_worker(job, why_not, self.retry_after_s(record, queue)))
            return None
        if job.given_up_at < inf:
            self.waiting.deadlines.add(job.given_up_at, (job.gateway, job.number))
        queue.push(job)
        self.waiting.queued_bytes += job.size
        self.waiting.changed[queue.key] = None
        return None

    def admit_again(
        self, gateway: Gateway, item: m.SubmitItem, frames: tuple[Frame, ...], now: float, *, has_run: bool
    ) -> errors.RelayError | None:
        """Do the same with a job that a broker before this one was sent, as if that had been here.

        With `has_run` a worker had it, and it has used up a try.
        """
        if not has_run:
            return self.admit(gateway, item, frames, now, held_limit=inf)
        try:
            record = self.catalog.resolve(item.model, item.version)
        except errors.RelayError as unknown:
            return unknown.with_traceback(None)
        if self.settings.attempt_limit == 1 or (item.sequence and record.config.sequence_batching):
            job = self._enter(gateway, item, frames, record, now, was_held=True)
            self.answers.refuse(job, errors.WorkerDied("Worker died.", "after the broker was restarted"))
            return None
        error = self.admit(gateway, item, frames, now, held_limit=inf)
        if item.job in gateway.jobs:  # else it was refused
            gateway.jobs[item.job].attempt += 1
        return error

    def answer_recovered(
        self,
        gateway: Gateway,
        item: m.SubmitItem,
        frames: tuple[Frame, ...],
        answer: RecoveredAnswer,
        now: float,
    ) -> errors.RelayError | None:
        """Answer a job that came again by what a worker said to it; of an unknown model, return the error."""
        try:
            record = self.catalog.resolve(item.model, item.version)
        except errors.RelayError as error:
            return error.with_traceback(None)
        job = self._enter(gateway, item, frames, record, now, was_held=True)
        if answer.is_broken:
            self.answers.refuse(job, part_lost())
            return None
        for meta, of_part in answer.parts:
            self.answers.pass_on(job, meta, of_part, is_final=False)
        has_failed = answer.final.status >= 500
        self.answers.pass_on(job, answer.final.meta, answer.frames, is_final=True, has_failed=has_failed)
        return None

    def _enter(
        self,
        gateway: Gateway,
        item: m.SubmitItem,
        frames: tuple[Frame, ...],
        record: VersionRecord,
        now: float,
        *,
        was_held: bool,
    ) -> Job:
        key = (record.model, record.version)
        job = Job(
            gateway.peer, item.job, key, item.version is not None, item.is_describe, item.meta, frames,
            len(item.meta) + sum(map(len, frames)) if frames else len(item.meta),
            now, now + record.response_timeout_s, was_held,
        )  # fmt: skip
        if record.config.sequence_batching and not item.is_describe:
            job.starts_sequence = not item.sequence
            job.sequence = item.sequence or self.new_sequence_id()
        stats = self.stats.versions[key]
        stats.submitted += 1
        if not job.is_describe:
            (stats.named if job.names_version else stats.unnamed).requests += 1
            if not stats.is_touched:
                self.stats.touch(key, stats)
        gateway.jobs[job.number] = job
        return job

    def _set_limit(self, job: Job, own_ms: int, of_model_ms: int, now: float) -> None:
        """Note when the client's patience ends: what it said itself, or its model says; 0 is nothing said."""
        job.has_own_limit = bool(own_ms and (not of_model_ms or own_ms <= of_model_ms))
        job.given_up_at = self.real_time(now) + (own_ms if job.has_own_limit else of_model_ms) / 1000

    def _why_not(self, record: VersionRecord, queue: VersionQueue, job: Job, now: float) -> str:
        """Say why a job can't be taken in; empty if it can."""
        if record.min_workers == 0 and not self.fleet.live_count(queue.key):
            return "it has been scaled to 0 workers"
        if self.fleet.has_given_up(queue.key) and not self.fleet.live_count(queue.key):
            return f"its workers failed too often: {self.fleet.condition(queue.key).last_error}"
        queued_bytes = self.waiting.queued_bytes
        if queued_bytes and queued_bytes + job.size > self.settings.queue_limit_bytes:
            return f"the queues hold {queued_bytes} bytes, the limit of queue_limit_bytes"
        comes_back = job.was_held or now < self.comes_back_until
        waiting = len(queue.row)
        if not comes_back and record.config.use_job_ticket and self.idle(record, queue) <= waiting:
            return "no worker is idle, and it takes requests only for one that is (useJobTicket)"
        if job.sequence:
            return queue.why_not(job, record, is_bounded=not comes_back)
        if comes_back:
            return ""
        limit = record.config.job_queue_size or self.settings.job_queue_size
        if waiting >= limit:
            self.dispatch.dispatch(queue.key, now)  # a burst fills the workers first, then the queue
        if len(queue.row) >= limit and queue.bounded >= limit:
            return f"its queue holds {len(queue)} jobs, the limit of job_queue_size"
        has_limit = job.given_up_at < inf
        left_s = job.given_up_at - self.real_time(now) if has_limit else record.response_timeout_s
        # PERF: at the worst all that waits runs one by one, which seldom takes so long.
        if (waiting + 1) * queue.service_s > left_s:
            return self._why_too_late(record, queue, left_s, now, has_limit=has_limit)
        return ""

    def _why_too_late(
        self, record: VersionRecord, queue: VersionQueue, left_s: float, now: float, *, has_limit: bool
    ) -> str:
        """Say why a job can't begin within `left_s`, or with a limit of its own not end; "" if it can."""
        ends_after_s = (1 + MARGIN) * queue.service_s * has_limit
        if self.begins_by_s(record, queue) + ends_after_s <= left_s:
            return ""  # PERF: 1 us, where a look at each of 1,000 workers takes some ms
        load = self.load(record, queue, now)
        if not load.comes_too_late(left_s, must_end=has_limit):
            return ""
        ahead = f"its turn would come in about {load.begins_in_s:.1f} s, behind {load.depth} jobs"
        if not has_limit:
            return f"{ahead}, which is more than response_timeout ({left_s:.0f} s)"
        return f"{ahead}, a batch takes about {load.service_s:.1f} s, and its client waits {left_s:.1f} s"
