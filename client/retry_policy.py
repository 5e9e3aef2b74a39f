"""Which calls are tried again, and when. Pure: chance comes in as a number.

What may be repeated depends on what a failed try may have done:

- nothing was sent (no connection): any call;
- the server says that it may be tried again (503 with `Retry-After`): what reads or sets a value, and
  predictions;
- the connection broke, so that nobody knows: what reads or sets a value; predictions only where that is
  wished, since their handler may run twice.

Nothing else is tried again: an error that is an answer would be the same one.
"""

from typing import Literal

import msgspec

from torchrelay.client.call_failures import (
    CertificateNotTrusted,
    ConnectionLost,
    ServerNotReached,
    was_refused,
)
from torchrelay.shared.errors import RelayError

#: What carrying a call out twice does: nothing new; it runs a handler twice; it makes or ends two things.
Repeated = Literal["harmless", "runs twice", "harmful"]


class Retries(msgspec.Struct, frozen=True):
    """How often, and when, a call is tried again."""

    #: Tries after the first one.
    limit: int = 2
    #: Before the first of them, where the server doesn't say; doubled each time.
    pause_s: float = 0.2
    #: A server that asks for a longer pause than this is not waited for.
    pause_limit_s: float = 20.0
    #: Whether a prediction whose connection broke is sent again, though its handler may run twice.
    resend_lost: bool = False

    def pause_before(self, tries: int, error: RelayError, repeated: Repeated, chance: float) -> float | None:
        """Return the seconds before the next try, or None for no further one.

        `tries` have failed so far, the latest with `error`; `chance` is from 0 to 1, and spreads clients that
        failed together.
        """
        if tries > self.limit or not self._may_repeat(error, repeated):
            return None
        if was_refused(error):
            pause_s = error.retry_after_s * (1 + chance / 4)
            return pause_s if error.retry_after_s <= self.pause_limit_s else None
        return min(self.pause_s * (1 << tries - 1), self.pause_limit_s) * (0.5 + chance / 2)

    def _may_repeat(self, error: RelayError, repeated: Repeated) -> bool:
        if isinstance(error, ServerNotReached):
            return not isinstance(error, CertificateNotTrusted)
        if was_refused(error):
            return repeated != "harmful"
        if isinstance(error, ConnectionLost):
            return repeated == "harmless" or (repeated == "runs twice" and self.resend_lost)
        return False


#: For those who don't say.
DEFAULT_RETRIES = Retries()
#: For callers that try again themselves, or tell a person at once.
NO_RETRIES = Retries(limit=0)
