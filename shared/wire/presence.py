"""A peer and its broker keep in touch: hello and welcome, beats, silence. Pure; `now` is passed in.

A peer (gateway, node, worker) says hello until it is welcomed, and again when the broker doesn't know it or
has been silent for the peer_timeout that its Welcome told. While it is welcomed it sends a beat in every
beat_interval. Whatever comes from the broker shows that it is there; a message that is on its way for longer
than the other side may be silent is announced.
"""

from collections.abc import Sequence, Sized
from typing import Literal

from torchrelay.shared.wire import messages as m

#: Often enough that a broker is back within a blink, seldom enough that a thousand workers are no storm.
HELLO_INTERVAL_S = 0.25
#: While there is no connection a hello goes nowhere, so trying often troubles no one.
UNSENT_INTERVAL_S = 0.02
#: Messages above this are announced: they may take longer than a peer may be silent.
ANNOUNCED_ABOVE_BYTES = 8 << 20
#: What is announced as larger than this, which nobody sends, is waited for no longer.
ANNOUNCED_LIMIT_BYTES = 4 << 30
#: What a connection between two parts is trusted to carry at least.
SLOWEST_BYTES_PER_S = 4_000_000

#: A message that changes nothing in a broker which doesn't know its sender, and that it answers.
PROBE = m.GatewayBeat({})

#: greeting: it has not been welcomed yet, or was asked to introduce itself. welcomed: the broker of its epoch
#: knows it. away: the broker is silent, or takes no messages.
State = Literal["greeting", "welcomed", "away"]


class Presence:
    """What a peer knows of its broker, and when it has to say something."""

    def __init__(self, now: float) -> None:
        self.state: State = "greeting"
        #: The broker's that last welcomed this peer; 0 before the first.
        self.epoch = 0
        #: The number of the broker's latest beat.
        self.heard_beat = 0
        #: Whether the broker takes offers of memory.
        self.shares_memory = False
        self._hello_at = now
        # What follows means something only after the first Welcome.
        self._heard_at = now
        self._beat_at = now
        self._beat_interval_s = 0.0
        self._peer_timeout_s = 0.0

    def be_welcomed(self, welcome: m.Welcome, epoch: int, now: float) -> None:
        """Take note that the broker of this epoch knows this peer."""
        self.state = "welcomed"
        self.epoch = epoch
        self.heard_beat = welcome.beat
        self.shares_memory = welcome.shares_memory
        self._heard_at = now
        self._beat_interval_s = welcome.beat_interval_ms / 1000
        self._peer_timeout_s = welcome.peer_timeout_ms / 1000
        self._beat_at = now + self._beat_interval_s

    def note(self, message: m.Message, now: float) -> None:
        """Take note that the broker which welcomed this peer has said something."""
        self._heard_at = now
        if isinstance(message, m.Beat):
            self.heard_beat = message.number
        elif isinstance(message, m.Announced):
            self._heard_at += silence_s(message)

    def is_silent(self, now: float) -> bool:
        """Tell whether the broker, by which this peer is welcomed, has said nothing for its peer_timeout."""
        return self.state == "welcomed" and now >= self._heard_at + self._peer_timeout_s

    def due(self, now: float) -> Literal["hello", "beat"] | None:
        """Return what is to be sent now, which then counts as sent."""
        if self.state == "welcomed":
            if now < self._beat_at:
                return None
            self._beat_at = now + self._beat_interval_s
            return "beat"
        if now < self._hello_at:
            return None
        self._hello_at = now + HELLO_INTERVAL_S
        return "hello"

    def next_wake(self) -> float:
        """Return when something is due, or the broker counts as silent, if nothing is heard until then."""
        if self.state == "welcomed":
            return min(self._beat_at, self._heard_at + self._peer_timeout_s)
        return self._hello_at

    def hello_unsent(self, now: float) -> None:
        """Take note that the hello just due found no connection."""
        self._hello_at = now + UNSENT_INTERVAL_S

    def greet(self, state: Literal["greeting", "away"], now: float) -> None:
        """Have a hello due at once: the broker is silent, or doesn't know this peer."""
        self.state = state
        self._hello_at = now


def announcement(frames: Sequence[Sized]) -> m.Announced | None:
    """Return what is to be said before a message with these frames; None where that is nothing."""
    size = sum(map(len, frames)) if frames else 0
    return m.Announced(size) if size > ANNOUNCED_ABOVE_BYTES else None


def silence_s(message: m.Message) -> float:
    """Tell how long its sender may be silent after a message, beyond the time that peers may be anyway."""
    size_bytes = message.size_bytes if isinstance(message, m.Announced) else 0
    return max(0, min(size_bytes, ANNOUNCED_LIMIT_BYTES)) / SLOWEST_BYTES_PER_S
