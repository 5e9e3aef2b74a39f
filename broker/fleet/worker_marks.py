"""What proves whose a worker is: a mark that comes with the order to start it. Pure.

A node shows the marks of the workers that it holds, a worker its own. Nobody else was told them, so that
nobody can name, take over or stand in for a worker that it was not told to start; and since marks can be
reckoned out again, a broker that was restarted knows those of its former self.
"""

import hmac

from torchrelay.broker.models.catalog import Key
from torchrelay.shared.wire import messages as m


class Claims:
    """Makes marks, and tells those that it made; `secret` is the same for all lives of a broker."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def mark(self, worker_id: int, key: Key, archive: str) -> str:
        """Return the mark of a worker."""
        # The repr of numbers and texts in a tuple is that of no other tuple.
        return hmac.new(self._secret, repr((worker_id, *key, archive)).encode(), "sha256").hexdigest()

    def fits(self, worker: m.HeldWorker | m.HelloWorker) -> bool:
        """Tell whether a worker is what its broker ordered under that id."""
        mark = self.mark(worker.worker_id, (worker.model, worker.version), worker.archive)
        return hmac.compare_digest(mark, worker.claim.encode("ascii", "replace").decode("ascii"))
