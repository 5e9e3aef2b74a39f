"""The leases that a worker holds, and its answers until the broker has them. Pure: no socket, no clock.

An answer is kept beyond its sending: it is sent again where it was lost on the way, and to the next broker,
should this one end before the answer got to its gateway.
"""

from collections import deque
from collections.abc import Collection, Sequence
from itertools import chain, islice
from math import inf
from typing import TypeGuard

import msgspec

from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import PayloadOrPiece
from torchrelay.shared.wire.fields import HELD_LIMIT
from torchrelay.shared.wire.serials import Unheard

#: Answers that are kept though they were sent: messages, and bytes. Far more than can be on their way.
KEPT_LIMIT = 32_768
KEPT_LIMIT_BYTES = 16 << 20
#: Beats of the broker for which it keeps what the broker has: by then that is at its gateway.
KEPT_BEATS = 3
#: Batches whose answers go in one message at most.
ROW_LIMIT = 64


class AssignedJob(msgspec.Struct, frozen=True, gc=False):
    """One job of a batch as it came; `sequence` is "" unless the model batches by sequence.

    Its client waits until `given_up_at`, in the time of this process.
    `gateway` and `number` are its own in the whole fleet.
    """

    meta: bytes
    frames: Sequence[PayloadOrPiece] = ()
    sequence: str = ""
    starts_sequence: bool = False
    given_up_at: float = inf
    gateway: bytes = b""
    number: int = 0


class Batch(msgspec.Struct, frozen=True):
    """The jobs of one lease, which the handler gets in one call."""

    lease: int
    is_describe: bool
    jobs: list[AssignedJob]


def batches_of(assign: m.Assign, frames: Sequence[PayloadOrPiece], now: float) -> list[Batch]:
    """Return the batches of a message that came with these frames. Raises WireError where they don't fit."""
    parts = codec.split_frames([item.frames for item in assign.items], frames)
    jobs = [
        AssignedJob(
            item.meta,
            part,
            item.sequence,
            item.starts_sequence,
            now + item.left_ms / 1000 if item.left_ms else inf,
            item.gateway,
            item.job,
        )
        for item, part in zip(assign.items, parts, strict=True)
    ]
    if not assign.ahead:
        return [Batch(assign.lease, assign.is_describe, jobs)]
    start = len(jobs) - sum(batch.jobs for batch in assign.ahead)
    if start < 1 or not all(batch.jobs for batch in assign.ahead):
        counts = [batch.jobs for batch in assign.ahead]
        raise codec.WireError(f"{len(jobs)} jobs came for a batch and others of {counts}")
    batches = [Batch(assign.lease, assign.is_describe, jobs[:start])]
    for one in assign.ahead:
        batches.append(Batch(one.lease, False, jobs[start : start + one.jobs]))
        start += one.jobs
    return batches


class _Begun(msgspec.Struct):
    """A lease that was begun and is not answered."""

    batch: Batch
    #: The Streamed messages that there were for it.
    streamed: int = 0


class HeldLeases:
    """What a worker holds: batches to begin, oldest first, those begun, and its answers."""

    def __init__(self) -> None:
        self._waiting: deque[Batch] = deque()
        self._begun: dict[int, _Begun] = {}
        #: Leases waiting or begun -> the indexes of jobs whose clients have gone.
        self._gone: dict[int, set[int]] = {}
        self._outbox: deque[tuple[m.Completed | m.Streamed, Sequence[PayloadOrPiece]]] = deque()
        self._sent: Unheard[m.Completed | m.Streamed, PayloadOrPiece] = Unheard(KEPT_LIMIT, KEPT_LIMIT_BYTES)
        #: How many of the outbox the message has that goes out next.
        self._going = 1
        #: Leases whose answers are in either of these -> the serial of the latest, and their jobs.
        self._answered: dict[int, tuple[int, tuple[m.HeldJob, ...]]] = {}
        #: What the broker said with each of its latest beats: up to which serial it has our messages.
        self._heard: deque[int] = deque(maxlen=KEPT_BEATS)
        #: The latest lease that was assigned: they rise, so that one up to it came before.
        self._latest = -1

    @property
    def held(self) -> tuple[int, ...]:
        """All leases whose answers have not been sent."""
        answered = (message.lease for message, _ in self._outbox if isinstance(message, m.Completed))
        return (*answered, *self._begun, *(batch.lease for batch in self._waiting))

    @property
    def named(self) -> tuple[m.HeldLease, ...]:
        """What a broker that has just begun must know: what is held, oldest first, and was answered lately.

        Of more than one message has room for, the answers from longest ago are left out.
        """
        held = [_named(one.batch, one.streamed) for one in self._begun.values()]
        held += [_named(batch, 0) for batch in self._waiting]
        answered = (
            m.HeldLease(lease, True, False, 0, self._answered[lease][1]) for lease in reversed(self._answered)
        )
        named: list[m.HeldLease] = []
        room = codec.HEAD_FILL_BYTES
        for one in chain(held, answered):
            room -= 32 + sum(32 + len(job.gateway) + 4 * len(job.sequence) for job in one.jobs)
            if room < 0 or len(named) == HELD_LIMIT:
                break
            named.append(one)
        return tuple(named)

    @property
    def serial(self) -> int:
        """The serial of the latest message that was sent."""
        return self._outbox[0][0].serial - 1 if self._outbox else self._sent.latest

    @property
    def has_waiting(self) -> bool:
        """Whether there is a batch to begin."""
        return bool(self._waiting)

    @property
    def has_unsent(self) -> bool:
        """Whether there is a message to send."""
        return bool(self._outbox)

    @property
    def has_begun(self) -> bool:
        """Whether there is a batch that was begun and is not answered."""
        return bool(self._begun)

    def assigned(self, batch: Batch) -> None:
        """Take a batch, unless it has come before."""
        if batch.lease > self._latest:
            self._latest = batch.lease
            self._waiting.append(batch)

    def cancelled(self, lease: int, indexes: tuple[int, ...]) -> None:
        """Take note that the clients of these jobs have gone, unless their answer is on its way."""
        if self._is_open(lease):
            self._gone.setdefault(lease, set()).update(indexes)

    def is_gone(self, lease: int, index: int) -> bool:
        """Tell whether nobody waits for a job any more."""
        return bool(self._gone) and index in self._gone.get(lease, ())

    def all_gone(self, batch: Batch) -> bool:
        """Tell whether nobody waits for any job of a batch any more."""
        gone = self._gone.get(batch.lease)
        return gone is not None and gone.issuperset(range(len(batch.jobs)))

    def is_wanted(self, lease: int, index: int) -> bool:
        """Tell whether a job was begun, and somebody waits for its answer, which has not been given."""
        return lease in self._begun and not self.is_gone(lease, index)

    def gateway_of(self, lease: int, index: int) -> bytes:
        """Return the peer id of the gateway of a job; empty where its lease is not begun."""
        begun = self._begun.get(lease)
        return b"" if begun is None else begun.batch.jobs[index].gateway

    def next_batch(self) -> Batch | None:
        """Hand out the oldest batch, which is begun by it."""
        if not self._waiting:
            return None
        batch = self._waiting.popleft()
        self._begun[batch.lease] = _Begun(batch)
        return batch

    def streamed(
        self, lease: int, items: tuple[m.StreamedItem, ...], frames: Sequence[PayloadOrPiece]
    ) -> None:
        """Keep parts of answers until they are sent; of a lease that is not begun any more, nothing."""
        begun = self._begun.get(lease)
        if begun is not None:
            number, begun.streamed = begun.streamed, begun.streamed + 1
            self._outbox.append((m.Streamed(lease, items, number, self._sent.next_serial()), frames))

    def completed(
        self,
        lease: int,
        handler_us: int,
        items: tuple[m.CompletedItem, ...],
        frames: Sequence[PayloadOrPiece],
    ) -> None:
        """Keep a batch's answer until it is sent; of one that is not begun any more, nothing."""
        begun = self._begun.pop(lease, None)
        self._gone.pop(lease, None)
        if begun is not None:
            serial = self._sent.next_serial()
            self._answered[lease] = serial, _jobs(begun.batch)
            self._outbox.append((m.Completed(lease, handler_us, items, begun.streamed, serial), frames))

    # Sending

    def first(self) -> tuple[m.Completed | m.CompletedInRow | m.Streamed, Sequence[PayloadOrPiece]] | None:
        """Return the next message to send, which stays that until `sent`."""
        if not self._outbox:
            return None
        self._going = 1
        first, frames = self._outbox[0]
        if len(self._outbox) == 1 or not _may_go_in_row(first, frames):
            return first, frames
        room = codec.INLINE_TOTAL_LIMIT_BYTES - _head_size(first)
        row, of_all = [first], list(frames)
        for message, its_frames in islice(self._outbox, 1, ROW_LIMIT):
            room -= _head_size(message)
            is_full = room < 0 or len(of_all) + len(its_frames) > codec.FRAMES_LIMIT
            if is_full or not _may_go_in_row(message, its_frames):
                break
            row.append(message)
            of_all += its_frames
        self._going = len(row)
        return (first if len(row) == 1 else m.CompletedInRow(tuple(row))), of_all

    def sent(self) -> None:
        """Take note that the next message has been sent."""
        for _ in range(self._going):
            message, frames = self._outbox.popleft()
            self._forget_answered(self._sent.keep(message, frames, _size(message, frames)))
        self._going = 1

    def heard(self, serial: int) -> None:
        """Take note of a beat of the broker, which has had our messages up to this serial."""
        self._heard.append(serial)
        if len(self._heard) == KEPT_BEATS:
            self._forget_answered(self._sent.heard(self._heard[0]))

    def missed(self, after: int) -> None:
        """Send again what was sent after this serial: it was lost."""
        for message, frames in self._outbox:
            self._sent.keep(message, frames, _size(message, frames))
        self._outbox = deque(self._sent.after(after))
        self._sent.clear()
        self._answered = {
            message.lease: (message.serial, self._answered[message.lease][1])
            for message, _ in self._outbox
            if isinstance(message, m.Completed)
        }

    def answer_again(self, leases: Collection[int]) -> None:
        """Send answers again, to a broker that was not there when they were sent; it may ask repeatedly."""
        # What was sent again once is kept once more: the latest of each counts.
        asked = {
            (message.lease, message.number if isinstance(message, m.Streamed) else None): (message, frames)
            for message, frames in self._sent.kept
            if message.lease in leases
        }
        for message, frames in asked.values():
            numbered = msgspec.structs.replace(message, serial=self._sent.next_serial())
            self._outbox.append((numbered, frames))
            if isinstance(numbered, m.Completed):
                self._answered[numbered.lease] = numbered.serial, self._answered[numbered.lease][1]

    def forget(self) -> None:
        """Drop everything: the broker holds nothing of this worker, and has given its jobs to others."""
        self._sent.latest = self.serial
        self._waiting.clear()
        self._begun.clear()
        self._gone.clear()
        self._outbox.clear()
        self._sent.clear()
        self._answered.clear()
        self._heard.clear()

    def _is_open(self, lease: int) -> bool:
        return lease in self._begun or any(batch.lease == lease for batch in self._waiting)

    def _forget_answered(self, messages: Sequence[m.Completed | m.Streamed]) -> None:
        """Forget the leases whose answers these were, but those that have been answered again since."""
        for message in messages:
            if isinstance(message, m.Completed) and self._answered[message.lease][0] == message.serial:
                del self._answered[message.lease]


def _named(batch: Batch, streamed: int) -> m.HeldLease:
    return m.HeldLease(batch.lease, False, batch.is_describe, streamed, _jobs(batch))


def _jobs(batch: Batch) -> tuple[m.HeldJob, ...]:
    return tuple(m.HeldJob(job.gateway, job.number, job.sequence) for job in batch.jobs)


def _may_go_in_row(
    message: m.Completed | m.Streamed, frames: Sequence[PayloadOrPiece]
) -> TypeGuard[m.Completed]:
    return isinstance(message, m.Completed) and not (frames and codec.go_by_socket(frames))


def _head_size(message: m.Completed | m.Streamed) -> int:
    return sum([len(item.meta) for item in message.items])


def _size(message: m.Completed | m.Streamed, frames: Sequence[PayloadOrPiece]) -> int:
    return _head_size(message) + sum(map(len, frames))
