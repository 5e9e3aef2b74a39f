"""How fast requests get their answers, by which it is said when to try again. Pure."""

from torchrelay.shared.deadlines import retry_after_s

#: How long answers are counted for one measurement.
INTERVAL_S = 1.0
#: Weight of the newest measurement in the average.
WEIGHT = 0.3


class AnswerRate:
    """Requests that end in a second, weighted to the recent; what was measured stays while nothing waits."""

    def __init__(self, now: float) -> None:
        self._since = now
        #: How many had ended then.
        self._ended = 0
        #: 0 before the first has ended.
        self.per_s = 0.0

    def note(self, ended: int, waiting: int, now: float) -> None:
        """Take note of how many have ended in all; call it many times a second."""
        if now - self._since < INTERVAL_S:
            return
        per_s = (ended - self._ended) / (now - self._since)
        if per_s or waiting:
            self.per_s = self.per_s + WEIGHT * (per_s - self.per_s) if self.per_s else per_s
        self._since, self._ended = now, ended

    def retry_after_s(self, waiting: int) -> int:
        """Return when to try again: when so many have their answers, or soon while that isn't known."""
        return retry_after_s(waiting / self.per_s if self.per_s else 0.0)
