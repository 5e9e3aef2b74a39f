"""How a worker goes through what it is assigned: batch by batch, or merging requests call by call; no I/O.

Its shell (`worker.model.process`) fills the leases, calls `work` when there is time, and carries answers out.
Async handlers have an engine of their own in `worker.model.async_engine`.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from ts.context import Context

from torchrelay.shared.errors import PredictionFailed
from torchrelay.shared.wire import codec
from torchrelay.worker.common.handler_errors import guarded
from torchrelay.worker.model import outputs
from torchrelay.worker.model.held_leases import AssignedJob, Batch, HeldLeases
from torchrelay.worker.model.inputs import Opened
from torchrelay.worker.model.outputs import STREAM_HEADER
from torchrelay.worker.model.runner import Runner
from torchrelay.worker.model.streaming import ClientWatch, Part

logger = logging.getLogger(__name__)

#: Passes on to the worker's other processes what is run: a batch; or a call that goes on with requests they
#: have, by the leases of all its requests, with a batch of those that are new, which come last.
Share = Callable[[Batch, Sequence[int]], None]


class AnswerSender(Protocol):
    """Sends answers to the broker, and receives what it sends meanwhile."""

    def receive_all(self) -> None:
        """Receive what has come while a handler runs; it may be asked before each of its parts."""

    def send_parts(self, parts: list[Part]) -> None:
        """Send parts of answers to the broker at once."""

    def send_answers(self, lease: int, handler_us: int, replies: list[codec.Response], *ends: str) -> None:
        """Answer a lease; `ends` are sequences that parts of it have closed."""


@dataclass(eq=False)
class BatchEngine:
    """Runs batches one after another."""

    runner: Runner
    leases: HeldLeases
    answers: AnswerSender
    share: Share | None = None

    def __post_init__(self) -> None:
        self._context = self.runner.model.context
        watch = ClientWatch(self.answers.receive_all, self.leases.is_wanted) if self.share is None else None
        self._part_sender = self.runner.new_part_sender(self._context, self._send, watch)

    def cancelled(self, lease: int, indexes: tuple[int, ...]) -> None:
        """Take note that the clients of these jobs have gone; a handler that runs may ask."""
        self.leases.cancelled(lease, indexes)

    def forget(self) -> None:
        """Drop nothing: between two batches none has begun."""

    def work(self) -> bool:
        """Run the oldest batch."""
        batch = self.leases.next_batch()
        if batch is None:
            return False
        if self.leases.all_gone(batch):
            replies, handler_us = [client_gone()] * len(batch.jobs), 0
        else:
            if self.share is not None:
                self.share(batch, ())
            replies, handler_us = self.runner.run(self._part_sender, batch)
        self.answers.send_answers(batch.lease, handler_us, replies)
        return True

    def _send(self, parts: list[Part]) -> None:
        self.answers.receive_all()
        wanted = [part for part in parts if not self.leases.is_gone(*part[0])]
        if wanted:
            self.answers.send_parts(wanted)


class _Running(msgspec.Struct, eq=False):
    """A request that takes part in one call after another."""

    lease: int
    #: As it came.
    came: AssignedJob
    job: Opened
    #: Whether the handler has seen it.
    is_known: bool = False
    handler_us: int = 0
    #: Sequences that its parts have closed.
    ends: tuple[str, ...] = ()


@dataclass(eq=False)
class GenerationEngine(BatchEngine):
    """Continuous batching: each call has all requests of the moment; those that are done leave.

    Source: TorchServe's `continuousBatching`. A request that goes on comes with empty inputs, and
    `context.stopping_criteria[index](result)` tells whether it ends: True for the last part of a stream,
    None for an answer that is none, False for a part.
    """

    #: By lease; those that the handler knows come first, since a request joins at the end.
    _running: dict[int, _Running] = field(default_factory=dict, init=False)

    def forget(self) -> None:
        """Drop all requests that run."""
        self._running.clear()

    def work(self) -> bool:
        """Call the handler with every request that is here, and part with those that are done."""
        has_run = self._let_join()
        self._part_with_cancelled()
        requests = list(self._running.values())
        if not requests:
            return has_run
        if self.share is not None:
            new = [request.came for request in requests if not request.is_known]
            self.share(Batch(0, False, new), [request.lease for request in requests])
        output, handler_us = self.runner.call(
            self._part_sender,
            [request.job for request in requests],
            [(request.lease, 0) for request in requests],
            known=sum(request.is_known for request in requests),
        )
        failure = outputs.batch_failure(output, len(requests))
        for idx, request in enumerate(requests):
            request.handler_us += handler_us
            if failure is not None:
                self._end(request, failure)
            else:
                assert isinstance(output, list)
                self._settle(request, idx, output[idx])
        return True

    def _let_join(self) -> bool:
        """Take in every request that waits; return whether there was one that is answered by it."""
        has_run = False
        while batch := self.leases.next_batch():
            job = self.runner.open(batch.jobs[0]) if len(batch.jobs) == 1 else None
            if batch.is_describe or not isinstance(job, Opened):
                if self.share is not None:
                    self.share(batch, ())
                replies, handler_us = self.runner.run(self._part_sender, batch)
                self.answers.send_answers(batch.lease, handler_us, replies)
                has_run = True
            else:
                self._running[batch.lease] = _Running(batch.lease, batch.jobs[0], job)
        return has_run

    def _send(self, parts: list[Part]) -> None:
        self.answers.receive_all()
        wanted = [
            (place, part)
            for place, part in parts
            if place[0] in self._running and not self.leases.is_gone(*place)
        ]
        if wanted:
            self.answers.send_parts(wanted)

    def _part_with_cancelled(self) -> None:
        gone = [request for request in self._running.values() if self.leases.is_gone(request.lease, 0)]
        for request in gone:
            # TorchServe's words, which its tests look for.
            request_id = request.job.request.request_id
            logger.info("Connection to client got closed; Removing job: %s", request_id)
            self._end(request, client_gone())

    def _settle(self, request: _Running, idx: int, value: object) -> None:
        """End a request or let it go on, as its stopping criterion says of the value."""
        request.is_known = True
        verdict = guarded(_verdict, self._context, idx, value)
        if isinstance(verdict, BaseException):
            self._end(request, outputs.raised(verdict))
            return
        if verdict is False:
            part = outputs.guarded_answer(self._part, idx, value)
            if part.error is None:
                request.ends += ended_sequences(part, self.runner.sequence_headers.end)
                self.answers.send_parts([((request.lease, 0), part)])
                return
            self._end(request, part)
        else:
            self._end(request, outputs.guarded_answer(self._part_sender.last, idx, value))

    def _part(self, idx: int, value: object) -> codec.Response:
        self._context.set_response_header(idx, STREAM_HEADER, "true")
        processor = self._context.request_processor[idx]
        return outputs.answer(processor, value, self.runner.response_limit_bytes)

    def _end(self, request: _Running, reply: codec.Response) -> None:
        # Forgotten meanwhile, if the broker took its leases back while the handler ran.
        self._running.pop(request.lease, None)
        self.answers.send_answers(request.lease, request.handler_us, [reply], *request.ends)


class FollowerEngine:
    """What a worker's other processes do: run what rank 0 runs; nobody hears of what comes of it.

    Which requests go on is rank 0's to say. Stopping criteria are asked all the same, since handlers let
    them clear up behind a request.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._part_sender = runner.new_part_sender(runner.model.context, lambda parts: None)
        #: The requests of the latest call, by lease.
        self._running: dict[int, Opened] = {}

    def run(self, batch: Batch, leases: Sequence[int]) -> None:
        """Run what was shared; see `Share`."""
        if not leases:
            self._runner.run(self._part_sender, batch)
            return
        known = len(leases) - len(batch.jobs)
        requests = [self._running[lease] for lease in leases[:known]]
        for job in batch.jobs:
            opened = self._runner.open(job)
            assert isinstance(opened, Opened), "rank 0 could read it"
            requests.append(opened)
        self._running = dict(zip(leases, requests, strict=True))
        places = [(lease, 0) for lease in leases]
        output, _ = self._runner.call(self._part_sender, requests, places, known=known)
        if outputs.batch_failure(output, len(requests)) is None:
            assert isinstance(output, list)
            for idx, value in enumerate(output):
                guarded(_verdict, self._runner.model.context, idx, value)


def _verdict(context: Context, idx: int, value: object) -> bool | None:
    """Ask a request's stopping criterion, if it has one."""
    criteria = context.stopping_criteria
    verdict = criteria[idx](value) if criteria else None
    return None if verdict is None else bool(verdict)


def client_gone() -> codec.Response:
    """Return the answer for a client that doesn't wait for one."""
    return outputs.failed(PredictionFailed("Prediction failed", "the client has gone"))


def ended_sequences(reply: codec.Response, header: str) -> tuple[str, ...]:
    """Return the sequences that a handler closes with an answer."""
    value = dict(reply.headers).get(header, "")
    return tuple(name for name in (part.strip() for part in value.split(";")) if name)
