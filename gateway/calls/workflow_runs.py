"""Runs a request through a workflow: each step is a job, and begins once those before it are answered.

Branches run side by side. Any protocol's presentation calls this; texts are TorchServe's.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from torchrelay.gateway.calls.prediction_jobs import Input, failure
from torchrelay.gateway.http.standard_responses import pretty
from torchrelay.gateway.link import Link
from torchrelay.shared import clock, errors
from torchrelay.shared.deadlines import TIMEOUT_HEADER
from torchrelay.shared.quoting import quoted
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

#: Of one step's answer that comes in parts: as much as TorchServe's largest answer, ten times.
STREAMED_LIMIT_BYTES = 64 << 20

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class WorkflowRequest:
    """What a client asks of a workflow; the first step gets `inputs`, and all of them its headers."""

    request_id: str
    inputs: Sequence[Input]
    #: Headers that are added behind the client's own, which are packed, see `codec.head`.
    added: Sequence[tuple[str, str]] = ()
    head: bytes = b""
    #: When its client gives up.
    answer_by: float | None = None
    #: Whether its body had its room while it was read.
    is_let_in: bool = False


async def steps_of(link: Link, workflow: str, answer_by: float | None = None) -> tuple[m.StepFacts, ...]:
    """Return a workflow's steps as they are now. Raises WorkflowNotFound, and what `Link.ask` does."""
    question = link.ask(m.DescribeWorkflow(0, workflow), m.WorkflowDescribed)
    return (await _within(question, answer_by)).steps


async def answer(link: Link, steps: Sequence[m.StepFacts], request: WorkflowRequest) -> bytes:
    """Return the answer of the last step; of several, a JSON object with the answers of all.

    Raises WorkflowStepFailed, or why a step could not be tried. If it is thrown out of this, as where the
    client leaves, what runs is cancelled.
    """
    run = asyncio.create_task(_Run(link, steps, request).finish())
    try:
        return await run
    finally:
        run.cancel()
        run.add_done_callback(_take_note)


def _take_note(run: "asyncio.Task[bytes]") -> None:
    """Have asyncio not complain of an error that nobody waits for."""
    if not run.cancelled():
        run.exception()


async def _within(question: Awaitable[T], answer_by: float | None) -> T:
    """Wait for a reply, but no longer than the client does. Raises PredictionTimeout."""
    if answer_by is None:
        return await question

    async def wait() -> T:  # asyncio's timeouts need a Task
        async with asyncio.timeout(answer_by - clock.monotonic()):
            return await question

    task = asyncio.create_task(wait())
    try:
        return await task
    except TimeoutError as error:
        why = "the broker has not told the workflow's steps"
        raise errors.PredictionTimeout(f"No answer within the request's {TIMEOUT_HEADER}", why) from error
    finally:
        task.cancel()


@dataclass(slots=True, eq=False)
class _Run:
    _link: Link
    _steps: Sequence[m.StepFacts]
    _request: WorkflowRequest
    #: Of the answers that steps behind them get.
    _kept_bytes: int = 0

    async def finish(self) -> bytes:
        """Run all steps, and put the answers of the last ones together."""
        before: dict[str, list[str]] = {step.name: [] for step in self._steps}
        for step in self._steps:
            for name in step.successors:
                before[name].append(step.name)
        answers: dict[str, asyncio.Task[bytes]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for step in self._steps:
                    made = self._run(step, before[step.name], answers)
                    answers[step.name] = group.create_task(made)
        except BaseExceptionGroup as failed:
            # The first is why, if there are others: of those that waited for that one.
            raise failed.exceptions[0] from None
        finally:
            self._link.room.give_back(self._kept_bytes)
        last = [step.name for step in self._steps if not step.successors]
        if len(last) == 1:
            return answers[last[0]].result()
        return pretty({name: _as_json(name, answers[name].result()) for name in last})

    async def _run(
        self, step: m.StepFacts, before: Sequence[str], answers: "dict[str, asyncio.Task[bytes]]"
    ) -> bytes:
        """Wait for the steps before this one, and run it with their answers."""
        if not before:
            inputs, self._request.inputs = self._request.inputs, ()
        elif len(before) == 1:
            inputs = [("body", "", await answers[before[0]])]
        else:
            inputs = [(name, "", await answers[name]) for name in before]
        why = ""
        for _ in range(step.retry_attempts + 1):
            try:
                answered = await self._try(step, inputs)
                if step.successors:
                    self._keep(step, len(answered))
                return answered
            except _TryFailed as failed:
                why = str(failed)
        raise _failed(step, f"{why}, after {step.retry_attempts + 1} tries" if step.retry_attempts else why)

    def _keep(self, step: m.StepFacts, size: int) -> None:
        """Count an answer that is kept for other steps. Raises ServiceUnavailable where there is no room."""
        try:
            self._link.room.take(size)
        except errors.ServiceUnavailable as error:
            raise _named(step, error) from error
        self._kept_bytes += size

    async def _try(self, step: m.StepFacts, inputs: Sequence[Input]) -> bytes:
        """Have a step's model answer once.

        Raises _TryFailed where another try may fare better, and otherwise the error of the whole request.
        What is the fleet's stays as it is, but for the step's name: the same request may be answered later.
        """
        ends_at, answer_by = clock.monotonic() + step.timeout_ms / 1000, self._request.answer_by
        is_clients = answer_by is not None and answer_by <= ends_at
        try:
            return await self._ask(step, inputs, answer_by if is_clients else ends_at)
        except errors.RequestQuarantined as error:
            raise _failed(step, error.details or error.message) from error
        except errors.HandlerFault as error:
            raise _TryFailed((error.details or error.message).removesuffix(".")) from error
        except errors.FleetFault as error:
            if isinstance(error, errors.PredictionTimeout) and not is_clients:
                raise _TryFailed(f"no answer within its {step.timeout_ms} ms") from error
            raise _named(step, error) from error
        except errors.ModelNotFound as error:
            raise _failed(step, "the workflow has been unregistered") from error

    async def _ask(self, step: m.StepFacts, inputs: Sequence[Input], answer_by: float | None) -> bytes:
        """Submit a step's job, and return its whole answer."""
        request = self._request
        meta, frames = codec.pack_request(request.request_id, request.added, inputs, request.head)
        is_let_in, request.is_let_in = request.is_let_in, False
        job = self._link.submit(step.model, None, meta, frames, is_let_in=is_let_in, answer_by=answer_by)
        answered, is_final = bytearray(), False
        try:
            while not is_final:
                part = await job
                response, body = codec.unpack_response(part.meta, part.frames)
                if response.error is not None:
                    raise failure(response)[0]
                is_final = part.is_final
                if is_final and not answered:
                    return bytes(body)
                answered += body
                if len(answered) > STREAMED_LIMIT_BYTES:
                    why = f"its answer comes in parts, with more than {STREAMED_LIMIT_BYTES} bytes in all"
                    raise errors.PredictionFailed("Prediction failed", why)
            return bytes(answered)
        finally:
            if not is_final:
                self._link.forget(job)


class _TryFailed(Exception):
    """One try of a step failed; says why."""


def _named(step: m.StepFacts, error: errors.RelayError) -> errors.RelayError:
    """Return an error of the fleet's with the name of the step that met it."""
    why = f"step {step.name}: {error.details or error.message}"
    return errors.rebuild(error.name, error.message, why, error.retry_after_s)


def _failed(step: m.StepFacts, why: str) -> errors.WorkflowStepFailed:
    """Return the error of a request that a step has failed for good."""
    return errors.WorkflowStepFailed(f"Error executing {step.name}", f"step {step.name}: {why}")


def _as_json(name: str, body: bytes) -> msgspec.Raw:
    """Return the answer of one of several last steps. Raises WorkflowStepFailed where it isn't JSON."""
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = f"step {name}: several steps are the last, and the answer of this one is not JSON: {error}"
        raise errors.WorkflowStepFailed(f"Error executing {name}", quoted(why)) from error
    return msgspec.Raw(body)
