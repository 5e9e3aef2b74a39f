"""When a worker's answers go out: at once, or together with those of the next batches. Pure.

A message costs each part that it goes through as much as an answer, so that answers of batches that take no
time go out several at a time. What has been answered must not wait for a handler: so it is for those alone
that have answered hundreds of batches in a row faster than an answer may wait.
"""

from torchrelay.shared.recent_peak import recent_peak

#: How long an answer may wait for the next ones, which is about what a message takes on its way.
WAIT_S = 0.0003
#: Answers that wait at most: with more the parts of the fleet would work in turn instead of at the same time.
WAITING_LIMIT_JOBS = 8


class Coalescing:
    """Decides whether answers wait for those of the batches that are here."""

    def __init__(self) -> None:
        #: How long the handler took over the slowest of the latest batches; before the first, long.
        self._slowest_s = 1.0
        #: Jobs whose answers wait, and when the oldest of these was given.
        self._jobs = 0
        self._since = 0.0

    def answered(self, jobs: int, handler_us: int, now: float) -> None:
        """Take note of a batch that is answered, which is to be sent."""
        self._slowest_s = recent_peak(self._slowest_s, handler_us / 1e6)
        if not self._jobs:
            self._since = now
        self._jobs += jobs

    def waits(self, now: float, *, has_waiting: bool) -> bool:
        """Tell whether answers wait now; `has_waiting`: there is a batch to begin."""
        return (
            has_waiting
            and 0 < self._jobs < WAITING_LIMIT_JOBS
            and self._slowest_s < WAIT_S
            and now - self._since < WAIT_S
        )

    def sent(self) -> None:
        """Take note that no answer waits any more."""
        self._jobs = 0
