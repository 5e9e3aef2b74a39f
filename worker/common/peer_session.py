"""One peer's side of the link to the broker, and the leases a worker holds: pure, no socket, no clock.

A shell tells it what came (`heard`) and asks what is due (`due`); `now` is always given. Every message
that came must be told before `due` is asked: a worker that was busy for a minute finds a minute's beats
waiting, and only afterwards may call the broker silent.
"""

import enum
from collections import deque
from collections.abc import Sequence
from typing import Literal

import msgspec

from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

#: Often enough that a broker is back within a blink, seldom enough that a thousand workers are no storm.
HELLO_INTERVAL_S = 0.25
#: While there is no connection a hello goes nowhere, so trying often troubles no one.
UNSENT_INTERVAL_S = 0.02

Payload = codec.Payload


class State(enum.StrEnum):
    """Where a peer stands with the broker."""

    #: Says hello, at start and when the broker asked for it, until it is welcomed.
    GREETING = "greeting"
    #: Known to the broker of this epoch; sends its beats.
    WELCOMED = "welcomed"
    #: Has heard nothing for `peer_timeout`; says hello as well, and takes up again what it hears.
    AWAY = "away"


class Session:
    """Tells when to say hello and when to beat, and which messages count."""

    def __init__(self, now: float) -> None:
        self.state = State.GREETING
        #: The broker's, from its latest Welcome; 0 before the first. Never goes back.
        self.epoch = 0
        #: The number of its latest beat.
        self.heard_beat = 0
        self._hello_at = now
        # From here on meaningful only once welcomed.
        self._heard_at = now
        self._beat_at = now
        self._beat_interval_s = 0.0
        self._peer_timeout_s = 0.0

    def heard(self, message: m.Message, epoch: int, now: float) -> m.Message | None:
        """Take note of a message; return it if the peer itself has to act on it.

        A Welcome that is returned has `is_new` set if its epoch is new, whatever the broker says.
        """
        if epoch < self.epoch:
            return None
        match message:
            case m.Welcome():
                return self._welcomed(message, epoch, now)
            case m.IntroduceYourself():
                self._introduce(now)
                return None
            case m.Leave():
                return message
        if epoch != self.epoch or self.state is State.GREETING:
            return None
        self._heard_at = now + m.silence_s(message)
        self.state = State.WELCOMED
        if isinstance(message, m.Beat):
            self.heard_beat = message.number
            return None
        return None if isinstance(message, m.Announced) else message

    def due(self, now: float) -> Literal["hello", "beat"] | None:
        """Return what is to be sent now, which then counts as sent."""
        if self.state is State.WELCOMED and now >= self._heard_at + self._peer_timeout_s:
            self.state = State.AWAY
            self._hello_at = now
        if self.state is State.WELCOMED:
            if now < self._beat_at:
                return None
            self._beat_at = now + self._beat_interval_s
            return "beat"
        if now < self._hello_at:
            return None
        self._hello_at = now + HELLO_INTERVAL_S
        return "hello"

    def hello_unsent(self, now: float) -> None:
        """Take note that the hello just due found no connection."""
        self._hello_at = now + UNSENT_INTERVAL_S

    def next_wake(self) -> float:
        """Return when `due` may have something, if nothing is heard until then."""
        if self.state is State.WELCOMED:
            return min(self._beat_at, self._heard_at + self._peer_timeout_s)
        return self._hello_at

    def _welcomed(self, welcome: m.Welcome, epoch: int, now: float) -> m.Welcome | None:
        is_new = welcome.is_new or epoch != self.epoch
        # Hellos that had piled up before a slow broker are each answered; one answer says it all.
        is_repeated = self.state is State.WELCOMED and not is_new
        self.state = State.WELCOMED
        self.epoch = epoch
        self.heard_beat = welcome.beat
        self._heard_at = now
        # Never zero, which would have the shell spin.
        self._beat_interval_s = max(1, welcome.beat_interval_ms) / 1000
        self._peer_timeout_s = welcome.peer_timeout_ms / 1000
        self._beat_at = now + self._beat_interval_s
        return None if is_repeated else msgspec.structs.replace(welcome, is_new=is_new)

    def _introduce(self, now: float) -> None:
        """Say hello at once; while hellos are under way already, they keep their pace."""
        if self.state is State.WELCOMED:
            self._hello_at = now
        self.state = State.GREETING


class Job(msgspec.Struct, frozen=True, gc=False):
    """One job of a batch as it came; `sequence` is "" unless the model batches by sequence."""

    meta: bytes
    frames: Sequence[Payload] = ()
    sequence: str = ""
    starts_sequence: bool = False


class Batch(msgspec.Struct, frozen=True):
    """Jobs that came together."""

    lease: int
    is_describe: bool
    jobs: list[Job]


class Leases:
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
        """Show the oldest message to send."""
        return self._outbox[0] if self._outbox else None

    def sent(self) -> None:
        """Drop the oldest message."""
        self._outbox.popleft()

    def forget(self) -> None:
        """Drop everything: the broker holds nothing of this worker, and has given its jobs to others."""
        self._waiting.clear()
        self._begun.clear()
        self._gone.clear()
        self._outbox.clear()

    def _is_open(self, lease: int) -> bool:
        return lease in self._begun or any(batch.lease == lease for batch in self._waiting)
