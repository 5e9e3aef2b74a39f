"""Async handlers: every request is a call of its own, and as many run as were assigned; no I/O.

Source: TorchServe's `asyncCommunication`. Each call has its own copy of the context.
"""

import asyncio
import copy
import functools
import inspect
import logging
from collections.abc import Awaitable
from dataclasses import dataclass, field

import msgspec

from torchrelay.shared import clock
from torchrelay.shared.wire import codec
from torchrelay.worker.common.handler_errors import guarded
from torchrelay.worker.model import outputs
from torchrelay.worker.model.engines import (
    AnswerSender,
    BatchEngine,
    GenerationEngine,
    Share,
    client_gone,
)
from torchrelay.worker.model.held_leases import AssignedJob, Batch, HeldLeases
from torchrelay.worker.model.runner import Runner
from torchrelay.worker.model.streaming import ClientWatch, Part, SendParts

logger = logging.getLogger(__name__)


class _Call(msgspec.Struct, eq=False):
    """A lease whose requests run, each in a task."""

    batch: Batch
    task: asyncio.Task[None] | None = None
    #: What the handler returned to be awaited, by index of its request.
    awaited: dict[int, asyncio.Future[object]] = {}


@dataclass(eq=False)
class AsyncEngine:
    """Runs requests side by side on the event loop of the worker's one thread."""

    runner: Runner
    leases: HeldLeases
    answers: AnswerSender
    loop: asyncio.AbstractEventLoop
    _calls: dict[int, _Call] = field(default_factory=dict, init=False)

    def cancelled(self, lease: int, indexes: tuple[int, ...]) -> None:
        """Cancel what the handler awaits; it is the handler's to see to it."""
        self.leases.cancelled(lease, indexes)
        call = self._calls.get(lease)
        if call is not None:
            for index in indexes:
                if index in call.awaited:
                    call.awaited[index].cancel()

    def forget(self) -> None:
        """Drop all calls, and cancel what they await."""
        calls, self._calls = self._calls, {}
        for call in calls.values():
            for awaited in call.awaited.values():
                awaited.cancel()

    def work(self) -> bool:
        """Start what has come; the event loop does the rest."""
        while batch := self.leases.next_batch():
            call = _Call(batch, awaited={})
            self._calls[batch.lease] = call
            call.task = self.loop.create_task(self._run(call))
        return False

    async def _run(self, call: _Call) -> None:
        started = clock.monotonic()
        ended = await asyncio.gather(
            *(self._answer(call, idx, job) for idx, job in enumerate(call.batch.jobs)),
            return_exceptions=True,
        )
        replies = [_reply(answer) for answer in ended]
        if self._calls.get(call.batch.lease) is call:
            del self._calls[call.batch.lease]
            handler_us = round((clock.monotonic() - started) * 1_000_000)
            self.answers.send_answers(call.batch.lease, handler_us, replies)

    async def _answer(self, call: _Call, idx: int, job: AssignedJob) -> codec.Response:
        opened = self.runner.open(job)
        if isinstance(opened, codec.Response):
            return opened
        if not self._is_wanted(call, idx):
            return client_gone()
        context = guarded(copy.deepcopy, self.runner.model.context)
        if isinstance(context, BaseException):
            return outputs.raised(context)
        assert isinstance(context, type(self.runner.model.context))
        part_sender = self.runner.new_part_sender(context, self._sender(call), self._watch(call))
        data = self.runner.begin(context, [opened], is_describe=call.batch.is_describe)
        part_sender.open([(call.batch.lease, idx)], [opened])
        started = clock.monotonic()
        output = guarded(self.runner.model.entry_point, data, context)
        if inspect.isawaitable(output):
            call.awaited[idx] = asyncio.ensure_future(_outcome(output))
            [output] = await asyncio.gather(call.awaited[idx], return_exceptions=True)
        output = guarded(outputs.plain_output, output)
        part_sender.close()
        self.runner.ended(output, [opened], round((clock.monotonic() - started) * 1_000_000))
        failure = outputs.batch_failure(output, 1)
        if failure is not None:
            return failure
        assert isinstance(output, list)
        return outputs.guarded_answer(part_sender.last, 0, output[0])

    def _sender(self, call: _Call) -> SendParts:
        """Return what sends parts from whatever thread: the link belongs to the loop's."""

        def send(parts: list[Part]) -> None:
            wanted = [part for part in parts if self._is_wanted(call, part[0][1])]
            if wanted:
                self.answers.send_parts(wanted)

        def from_any_thread(parts: list[Part]) -> None:
            if _is_running(self.loop):
                send(parts)
            else:
                self.loop.call_soon_threadsafe(functools.partial(send, parts))

        return from_any_thread

    def _watch(self, call: _Call) -> ClientWatch:
        """Return what tells who waits. Of all threads only the loop's keeps the loop from receiving."""

        def receive() -> None:
            if _is_running(self.loop):
                self.answers.receive_all()

        return ClientWatch(receive, lambda lease, idx: self._is_wanted(call, idx))

    def _is_wanted(self, call: _Call, idx: int) -> bool:
        """Tell whether somebody waits for a request, and the broker still holds this worker to it."""
        lease = call.batch.lease
        return self._calls.get(lease) is call and not self.leases.is_gone(lease, idx)


#: Takes batches from the worker's leases and has each answered.
Engine = BatchEngine | AsyncEngine


def engine_for(runner: Runner, leases: HeldLeases, answers: AnswerSender, share: Share | None) -> Engine:
    """Make the engine that a model's config asks for."""
    model = runner.model
    if model.loop is not None:
        return AsyncEngine(runner, leases, answers, model.loop)
    kind = GenerationEngine if model.config.continuous_batching else BatchEngine
    return kind(runner, leases, answers, share)


async def _outcome(awaited: Awaitable[object]) -> object:
    """Await what a handler returned; of all that it may raise, this alone would end the event loop."""
    try:
        return await awaited
    except KeyboardInterrupt as error:
        return error


def _reply(ended: codec.Response | BaseException) -> codec.Response:
    """Return a request's answer, also where none could be made of what its handler has left."""
    if isinstance(ended, codec.Response):
        return ended
    logger.warning("answer.failed", exc_info=ended)
    return outputs.raised(ended)


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether this thread is the loop's."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
