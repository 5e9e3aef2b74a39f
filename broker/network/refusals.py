"""The log's lines about those that the broker doesn't let in: few, however often they try. No zmq here."""

import logging
from collections import OrderedDict

from torchrelay.shared.quoting import quoted
from torchrelay.shared.wire import curve

logger = logging.getLogger(__name__)

#: Between two lines about one key.
INTERVAL_S = 60.0
#: Keys about which a line was written lately; for more there is one line in a second.
KEYS_LIMIT = 1024
OTHERS_INTERVAL_S = 1.0


class Refusals:
    """Writes a line about a key once a minute, and one a second where keys come by the thousand."""

    def __init__(self) -> None:
        #: When a line about a key may be written again, the oldest first.
        self._due_at: OrderedDict[str, float] = OrderedDict()
        self._others_due_at = 0.0

    def log(self, public_key: str, address: str, reason: str, now: float) -> None:
        """Report that a key was refused, and why."""
        while self._due_at and next(iter(self._due_at.values())) <= now:
            self._due_at.popitem(last=False)
        if public_key in self._due_at:
            return
        if len(self._due_at) >= KEYS_LIMIT:
            if now < self._others_due_at:
                return
            self._others_due_at = now + OTHERS_INTERVAL_S
        else:
            self._due_at[public_key] = now + INTERVAL_S
        facts = {"key": curve.shown(public_key), "address": quoted(address), "reason": reason}
        logger.warning("peer.refused", extra=facts)
