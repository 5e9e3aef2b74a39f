"""The log's lines about those that the broker doesn't let in: few, however often they try. No zmq here."""

import logging
from collections import OrderedDict

from torchrelay.shared.quoting import quoted
from torchrelay.shared.wire import curve

logger = logging.getLogger(__name__)

#: Between two lines about one key, or about one address.
INTERVAL_S = 60.0
#: Keys and addresses about which a line was written lately; for more there is one line in a second.
NAMES_LIMIT = 1024
OTHERS_INTERVAL_S = 1.0
WHY_FAILED = (
    "its handshake failed: it came without a key, or with another key of this broker's than it has,"
    " or said again what another has said"
)


class Refusals:
    """Writes a line about a key once a minute, and one a second where keys come by the thousand."""

    def __init__(self) -> None:
        self._keys, self._addresses = _Intervals(), _Intervals()

    def log(self, public_key: str, address: str, reason: str, now: float) -> None:
        """Report that a key was refused, and why."""
        self._addresses.is_due(address, now)  # no more is to be said of its connections
        if self._keys.is_due(public_key, now):
            facts = {"key": curve.shown(public_key), "address": quoted(address), "reason": reason}
            logger.warning("peer.refused", extra=facts)

    def log_failed_handshake(self, address: str, now: float) -> None:
        """Report a handshake that has failed for what was said in it; libzmq doesn't tell more."""
        if self._addresses.is_due(address, now):
            logger.warning("peer.refused", extra={"address": quoted(address), "reason": WHY_FAILED})


class _Intervals:
    """Tells of names whether a line about one may be written."""

    def __init__(self) -> None:
        #: When a line about a name may be written again, the oldest first.
        self._due_at: OrderedDict[str, float] = OrderedDict()
        self._others_due_at = 0.0

    def is_due(self, name: str, now: float) -> bool:
        """Tell whether a line may be written now, which then counts as written."""
        while self._due_at and next(iter(self._due_at.values())) <= now:
            self._due_at.popitem(last=False)
        if name in self._due_at:
            return False
        if len(self._due_at) < NAMES_LIMIT:
            self._due_at[name] = now + INTERVAL_S
            return True
        is_due = now >= self._others_due_at
        if is_due:
            self._others_due_at = now + OTHERS_INTERVAL_S
        return is_due
