"""The leases that a worker holds, and its answers to them until they are sent. Pure: no socket, no clock."""

from collections import deque
from collections.abc import Sequence
from math import inf

import msgspec

from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import Payload


class AssignedJob(msgspec.Struct, frozen=True, gc=False):
    """One job of a batch as it came; `sequence` is "" unless the model batches by sequence.

    Its client waits until `given_up_at`, in the time of this process.
    """

    meta: bytes
    frames: Sequence[Payload] = ()
    sequence: str = ""
    starts_sequence: bool = False
    given_up_at: float = inf


class Batch(msgspec.Struct, frozen=True):
    """The jobs of one lease, which the handler gets in one call."""

    lease: int
    is_describe: bool
    jobs: list[AssignedJob]


def batch_of(assign: m.Assign, frames: Sequence[Payload], now: float) -> Batch:
    """Return the batch of a message that came with these frames. Raises WireError where they don't fit it."""
    parts = codec.split_frames([item.frames for item in assign.items], frames)
    jobs = [
        AssignedJob(
            item.meta,
            part,
            item.sequence,
            item.starts_sequence,
            now + item.left_ms / 1000 if item.left_ms else inf,
        )
        for item, part in zip(assign.items, parts, strict=True)
    ]
    return Batch(assign.lease, assign.is_describe, jobs)


class HeldLeases:
    """What a worker holds: batches to begin, oldest first, those begun, and what could not be sent yet."""

    def __init__(self) -> None:
        self._waiting: deque[Batch] = deque()
        #: Leases begun and not answered -> the Streamed messages there were for each.
        self._begun: dict[int, int] = {}
        #: Leases waiting or begun -> the indexes of jobs whose clients have gone.
        self._gone: dict[int, set[int]] = {}
        self._outbox: deque[tuple[m.Completed | m.Streamed, Sequence[Payload]]] = deque()

    @property
    def held(self) -> tuple[int, ...]:
        """All leases whose answers have not been sent."""
        answered = (message.lease for message, _ in self._outbox if isinstance(message, m.Completed))
        return (*answered, *self._begun, *(batch.lease for batch in self._waiting))

    @property
    def has_waiting(self) -> bool:
        """Whether there is a batch to begin."""
        return bool(self._waiting)

    @property
    def has_begun(self) -> bool:
        """Whether there is a batch that was begun and is not answered."""
        return bool(self._begun)

    def assigned(self, batch: Batch) -> None:
        """Take a batch; one that is held already came twice."""
        if not self._is_open(batch.lease):
            self._waiting.append(batch)

    def cancelled(self, lease: int, indexes: tuple[int, ...]) -> None:
        """Take note that the clients of these jobs have gone, unless their answer is on its way."""
        if self._is_open(lease):
            self._gone.setdefault(lease, set()).update(indexes)

    def is_gone(self, lease: int, index: int) -> bool:
        """Tell whether nobody waits for a job any more."""
        return bool(self._gone) and index in self._gone.get(lease, ())

    def is_wanted(self, lease: int, index: int) -> bool:
        """Tell whether a job was begun, and somebody waits for its answer, which has not been given."""
        return lease in self._begun and not self.is_gone(lease, index)

    def next_batch(self) -> Batch | None:
        """Hand out the oldest batch, which is begun by it."""
        if not self._waiting:
            return None
        batch = self._waiting.popleft()
        self._begun[batch.lease] = 0
        return batch

    def streamed(self, lease: int, items: tuple[m.StreamedItem, ...], frames: Sequence[Payload]) -> None:
        """Keep parts of answers until they are sent; of a lease that is not begun any more, nothing."""
        number = self._begun.get(lease)
        if number is not None:
            self._begun[lease] = number + 1
            self._outbox.append((m.Streamed(lease, items, number), frames))

    def completed(
        self, lease: int, handler_us: int, items: tuple[m.CompletedItem, ...], frames: Sequence[Payload]
    ) -> None:
        """Keep a batch's answer until it is sent; of one that is not begun any more, nothing."""
        number = self._begun.pop(lease, None)
        self._gone.pop(lease, None)
        if number is not None:
            self._outbox.append((m.Completed(lease, handler_us, items, number), frames))

    def first(self) -> tuple[m.Completed | m.Streamed, Sequence[Payload]] | None:
        """Return the oldest message to send, which stays the oldest until `sent`."""
        return self._outbox[0] if self._outbox else None

    def sent(self) -> None:
        """Drop the oldest message, which has been sent."""
        self._outbox.popleft()

    def forget(self) -> None:
        """Drop everything: the broker holds nothing of this worker, and has given its jobs to others."""
        self._waiting.clear()
        self._begun.clear()
        self._gone.clear()
        self._outbox.clear()

    def _is_open(self, lease: int) -> bool:
        return lease in self._begun or any(batch.lease == lease for batch in self._waiting)
