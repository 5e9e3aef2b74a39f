"""An engine under test: a handler, leases, and a sender of answers that remembers what it was told."""

from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple

from ts.context import Context
from ts.metrics.metrics_cache import MetricsCache

from torchrelay.shared.wire import codec
from torchrelay.worker.model.async_engine import Engine
from torchrelay.worker.model.held_leases import AssignedJob, Batch, HeldLeases
from torchrelay.worker.model.inputs import Row
from torchrelay.worker.model.loading import LoadedModel
from torchrelay.worker.model.runner import Runner
from torchrelay.worker.model.streaming import Part

Handler = Callable[[list[Row], Context], object]


class Done(NamedTuple):
    """The answer to a lease."""

    lease: int
    replies: list[codec.Response]
    ends: tuple[str, ...]


class Bench:
    """Plays the worker's shell."""

    def __init__(self, handler: Handler, limit_bytes: int = 1_000_000) -> None:
        self.context = Context("m", "/", {}, 1, None, "0", metrics=MetricsCache("m"))
        model = LoadedModel(lambda data, context: handler(data or [], context), self.context)
        self.runner = Runner(model=model, decode_input=True, response_limit_bytes=limit_bytes)
        self.leases = HeldLeases()
        self.told: list[Part | Done] = []
        #: Leases whose clients are found to have gone while a handler runs.
        self.gone: list[int] = []
        #: How often it was asked to look for what has come.
        self.received = 0
        self.engine: Engine | None = None

    def receive_all(self) -> None:
        assert self.engine is not None
        self.received += 1
        for lease in self.gone:
            self.engine.cancelled(lease, (0,))

    def send_parts(self, parts: list[Part]) -> None:
        self.told += parts

    def send_answers(self, lease: int, handler_us: int, replies: list[codec.Response], *ends: str) -> None:
        assert handler_us >= 0
        self.leases.completed(lease, handler_us, (), ())
        self.told.append(Done(lease, replies, ends))

    def assign(
        self,
        lease: int,
        *bodies: bytes,
        is_describe: bool = False,
        sequence: str = "",
        given_up_at: Sequence[float] = (),
    ) -> None:
        """Give it a batch; `given_up_at` says when the clients of the first jobs give up."""
        limits = [*given_up_at, *[inf] * len(bodies)]
        jobs = [
            AssignedJob(
                *codec.pack_request(f"r{lease}-{idx}", [], [("body", "", body)]),
                sequence,
                bool(sequence),
                limits[idx],
            )
            for idx, body in enumerate(bodies)
        ]
        self.leases.assigned(Batch(lease, is_describe, jobs))

    def said(self) -> list[tuple[int, int, object] | tuple[int, list[object]]]:
        """Return what was told, and forget it: (lease, index, body) of parts, (lease, bodies) of answers.

        An error stands as its message.
        """
        told, self.told = self.told, []
        return [
            (item.lease, [content(reply) for reply in item.replies])
            if isinstance(item, Done)
            else (*item[0], content(item[1]))
            for item in told
        ]


def content(reply: codec.Response) -> object:
    return reply.error[1] if reply.error else reply.body


def bodies(rows: Sequence[Row]) -> list[str]:
    """Return each row's body as text; of an empty row nothing."""
    return [bytes(row["body"]).decode() if "body" in row else "" for row in rows]  # type: ignore[call-overload]  # rows hold anything
