"""Requests that a model's config names, answered by its handler before the worker counts as ready.

They go the way of all others: through the engine, and to the worker's other processes. Nobody gets their
answers, and no metric counts them; one that fails is the worker's failure to start.
"""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torchrelay.shared import clock
from torchrelay.shared.archives.model_config import WarmupRequest
from torchrelay.shared.errors import OutOfResources
from torchrelay.shared.wire import codec
from torchrelay.worker.model.async_engine import Engine, engine_for
from torchrelay.worker.model.engines import Share
from torchrelay.worker.model.held_leases import AssignedJob, Batch, HeldLeases
from torchrelay.worker.model.runner import Runner
from torchrelay.worker.model.streaming import Part

logger = logging.getLogger(__name__)

#: What handlers find as the sequence of such a request, where the model batches by sequence.
SEQUENCE = "warmup"
#: The first status that is no success.
_FAILED_FROM = 400
#: How much of a body is shown as the reason of a failure.
_SHOWN_BYTES = 200


class WarmupFailed(RuntimeError):
    """The handler failed to answer a warm-up request."""


class WarmupOutOfMemory(WarmupFailed, MemoryError):
    """It did so for lack of memory."""


def warm_up(runner: Runner, share: Share | None, model_dir: Path) -> None:
    """Have the handler answer each warm-up request of its model's config. Raises WarmupFailed."""
    config = runner.model.config
    runner.measuring.is_due(clock.monotonic())  # takes in what the handler has measured while it loaded
    answers = _Answers(runner.model.loop)
    engine = engine_for(runner, answers.leases, answers, share)
    sequence = SEQUENCE if config.sequence_batching else ""
    number = 0
    for position, request in enumerate(config.warmup, start=1):
        what = f"warm-up request {position} of {len(config.warmup)}" + (request.file and f" ({request.file})")
        body = _body_of(request, what, model_dir)
        started = clock.monotonic()
        for job in _jobs(request, body, sequence, number):
            number += 1
            answers.leases.assigned(Batch(number, False, [job]))
            if failure := _failure(answers.reply_of(engine), what):
                raise failure
        took_ms = round(1000 * (clock.monotonic() - started))
        logger.info("%s: %d answered in %d ms", what, request.repeat, took_ms)
    runner.measuring.forget_latest()
    runner.model.context.request_ids = None  # as while it loaded


@dataclass(eq=False)
class _Answers:
    """Takes the answers of an engine, which has leases of its own meanwhile."""

    loop: asyncio.AbstractEventLoop | None
    leases: HeldLeases = field(default_factory=HeldLeases)
    _reply: codec.Response | None = None
    _answered: asyncio.Future[None] | None = None

    def reply_of(self, engine: Engine) -> codec.Response:
        """Let an engine work until it has answered the one lease that there is."""
        self._reply = None
        if self.loop is not None:
            self._answered = self.loop.create_future()
            engine.work()
            self.loop.run_until_complete(self._answered)
        while self._reply is None:
            engine.work()
        return self._reply

    def receive_all(self) -> None:
        """Receive nothing: the broker doesn't know this worker yet."""

    def send_parts(self, parts: list[Part]) -> None:
        """Drop parts of answers."""

    def send_answers(self, lease: int, handler_us: int, replies: list[codec.Response], *_ends: str) -> None:
        """Keep the answer."""
        self.leases.completed(lease, handler_us, (), ())
        self.leases.sent()
        [self._reply] = replies
        if self._answered is not None:
            self._answered.set_result(None)


def _jobs(request: WarmupRequest, body: bytes, sequence: str, number: int) -> Iterator[AssignedJob]:
    """Yield a request as often as it is to be repeated, packed as the gateway does it."""
    headers = [("content-length", str(len(body))), ("explain", "False"), ("url_path", "")]
    if request.content_type:
        headers.insert(0, ("content-type", request.content_type))
    inputs = [(request.name, request.content_type, body)]
    for more in range(1, request.repeat + 1):
        meta, frames = codec.pack_request(f"warmup-{number + more}", headers, inputs)
        yield AssignedJob(meta, frames, sequence, bool(sequence) and number + more == 1)


def _body_of(request: WarmupRequest, what: str, model_dir: Path) -> bytes:
    if not request.file:
        return request.body.encode()
    try:
        return (model_dir / request.file).read_bytes()
    except OSError as error:
        raise WarmupFailed(f"{what}: the archive's file can't be read: {error.strerror}") from error


def _failure(reply: codec.Response, what: str) -> WarmupFailed | None:
    """Return what is to be raised for an answer that is no success."""
    if reply.error is not None:
        name, message, details = reply.error
        kind = WarmupOutOfMemory if name == OutOfResources.__name__ else WarmupFailed
        return kind(f"{what} failed: {details or message}")
    if reply.status < _FAILED_FROM:
        return None
    body = reply.body if isinstance(reply.body, bytes) else b""
    shown = body[:_SHOWN_BYTES].decode(errors="replace")
    return WarmupFailed(f"{what} failed: status {reply.status} {shown}".strip())
