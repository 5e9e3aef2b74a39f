"""A node's or worker's presence at the broker, and which of its messages count: pure, no socket, no clock.

A shell tells it what came (`heard`) and asks what is due (`due`). Every message that came must be told before
`due` is asked: a worker that was busy for a minute finds a minute's beats waiting, and only afterwards may
call the broker silent.
"""

from typing import Literal

import msgspec

from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.presence import Presence


class PeerSession(Presence):
    """Presence that whatever the broker says after a silence takes up again; its epoch never goes back."""

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
                if self.state == "welcomed":
                    self.greet("greeting", now)
                self.state = "greeting"  # hellos that are under way already keep their pace
                return None
            case m.Leave():
                return message
        if epoch != self.epoch or self.state == "greeting":
            return None
        self.note(message, now)
        self.state = "welcomed"
        return None if isinstance(message, m.Beat | m.Announced) else message

    def due(self, now: float) -> Literal["hello", "beat"] | None:
        """Return what is to be sent now, which then counts as sent; a silent broker is greeted anew."""
        if self.is_silent(now):
            self.greet("away", now)
        return super().due(now)

    def _welcomed(self, welcome: m.Welcome, epoch: int, now: float) -> m.Welcome | None:
        is_new = welcome.is_new or epoch != self.epoch
        # Hellos that had piled up before a slow broker are each answered; one answer says it all.
        is_repeated = self.state == "welcomed" and not is_new
        self.be_welcomed(welcome, epoch, now)
        return None if is_repeated else msgspec.structs.replace(welcome, is_new=is_new)
