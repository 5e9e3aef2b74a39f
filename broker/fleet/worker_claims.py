"""The claim that a worker is the one that this broker had started: an HMAC in the order to start it. Pure.

A node sends the claims of the workers that it holds, a worker its own. Nobody else is told a claim, so that
nobody can name, take over or stand in for a worker that it was not told to start. Claims are computed and
never stored: a broker that was restarted knows those that it made before.
"""

import hmac

from torchrelay.broker.models.catalog import Key
from torchrelay.shared.wire import messages as m


class Claims:
    """Makes and checks claims; `secret` must be the same after a restart of the broker."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, worker_id: int, key: Key, archive: str) -> str:
        """Return the claim of a worker, in hex; `archive` is the sha256 of what it loads."""
        # The repr of numbers and texts in a tuple is that of no other tuple.
        return hmac.digest(self._secret, repr((worker_id, *key, archive)).encode(), "sha256").hex()

    def is_genuine(self, worker: m.HeldWorker | m.HelloWorker) -> bool:
        """Tell whether a worker is what this broker ordered under that id; compares in constant time."""
        claim = self.make(worker.worker_id, (worker.model, worker.version), worker.archive)
        return hmac.compare_digest(claim, worker.claim.encode("ascii", "replace").decode("ascii"))
