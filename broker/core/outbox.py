"""What the core wants done at the end of a turn, in order. Pure."""

from collections.abc import Sequence

from torchrelay.broker.core.effects import Effect, Report, Send
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import Frame


class Outbox:
    """The effects of the current turn."""

    def __init__(self) -> None:
        self._effects: list[Effect] = []

    def emit(self, effect: Effect) -> None:
        """Add an effect behind those before it."""
        self._effects.append(effect)

    def send(self, peer: bytes, message: m.Message, frames: Sequence[Frame] = ()) -> None:
        """Send a message to a peer."""
        self._effects.append(Send(peer, message, tuple(frames)))

    def report(self, level: int, event: str, **facts: object) -> None:
        """Write a line to the log: an event name of ours and its facts."""
        self._effects.append(Report(level, event, facts))

    def take(self) -> list[Effect]:
        """Return the effects since the last call."""
        effects, self._effects = self._effects, []
        return effects
