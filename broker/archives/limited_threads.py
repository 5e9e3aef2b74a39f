"""Work that waits for others, such as downloads: so much at once, and so much of it for one origin.

`Places` decides and is pure; `PlacedThreads` runs what it lets in, in threads that nobody waits for to the
end: a name that isn't resolved and a disk that hangs can't be told to stop.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from torchrelay.shared import clock

logger = logging.getLogger(__name__)

Work = Callable[[], None]


class Places:
    """What runs and what waits: origins in turn, and what each one has in the order in which it came."""

    def __init__(self, limit: int, limit_per_origin: int) -> None:
        self._limit, self._limit_per_origin = limit, limit_per_origin
        self._running: Counter[str] = Counter()
        #: By origin, the one whose turn it is first; none is empty.
        self._waiting: dict[str, deque[Work]] = {}

    @property
    def running(self) -> int:
        """How many places are taken."""
        return self._running.total()

    def ask(self, origin: str, work: Work) -> None:
        """Have work wait for a place."""
        self._waiting.setdefault(origin, deque()).append(work)

    def take(self) -> list[tuple[str, Work]]:
        """Give places to what waits, past those origins that have all of theirs."""
        begun = []
        while self.running < self._limit:
            # Few are passed over: where places are left, only so many origins can have all of theirs.
            free = (one for one in self._waiting if self._running[one] < self._limit_per_origin)
            if (origin := next(free, None)) is None:
                break
            works = self._waiting.pop(origin)
            self._running[origin] += 1
            begun.append((origin, works.popleft()))
            if works:
                self._waiting[origin] = works  # behind the others
        return begun

    def leave(self, origin: str) -> None:
        """Give a place back."""
        self._running[origin] -= 1
        self._running += Counter()  # forgets origins without any

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()


def start_thread(name: str, work: Work) -> None:
    """Have work done by a daemon: the process ends without it. Raises RuntimeError where none can be had."""
    threading.Thread(target=work, name=name, daemon=True).start()


class PlacedThreads:
    """Threads for the work that has a place."""

    def __init__(
        self,
        limit: int,
        limit_per_origin: int,
        name: str,
        start: Callable[[str, Work], None] = start_thread,
    ) -> None:
        self._places = Places(limit, limit_per_origin)
        self._name = name
        self._start = start
        self._changed = threading.Condition()
        self._is_closed = False

    def submit(self, origin: str, work: Work) -> None:
        """Have work done as soon as there is a place for it; never after `close`."""
        with self._changed:
            if not self._is_closed:
                self._places.ask(origin, work)
                self._begin()

    def close(self, deadline: float) -> bool:
        """Begin nothing more; tell whether all that ran has ended by the deadline."""
        with self._changed:
            self._is_closed = True
            self._places.clear()
            return self._changed.wait_for(
                lambda: not self._places.running, max(0, deadline - clock.monotonic())
            )

    def _begin(self) -> None:
        for origin, work in self._places.take():
            try:
                self._start(self._name, partial(self._run, origin, work))
            except RuntimeError as error:  # a limit of processes counts threads
                logger.warning("broker.no_thread", extra={"wanted_for": self._name, "reason": str(error)})
                self._places.leave(origin)
                self._places.ask(origin, work)  # until the next that comes or ends

    def _run(self, origin: str, work: Work) -> None:
        try:
            work()
        finally:
            with self._changed:
                self._places.leave(origin)
                self._begin()
                self._changed.notify_all()
