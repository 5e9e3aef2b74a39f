"""When the broker's process looks for cycles among its objects, which is done while nobody is served.

The core makes no cycles (`tests/broker/test_collecting.py`): what it is done with is gone at once. Only
threads and libraries leave a few behind.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: New objects between two looks at those alone. Most are the fleet's and stay, half a microsecond each.
AFTER_OBJECTS = 2_000
#: Such looks between two that see again what one has seen before.
AGAIN_AFTER = 2
#: And between two at everything: that is for `Collections` to begin.
NEVER = 1 << 30
#: How often everything is looked at, see `seldom` for how long.
INTERVAL_S = 3600.0
#: And how often what is new: after a start of 10,000 workers these are 40,000 objects, 6 to 16 ms, which
#: would else be somebody's who has a job done.
NEW_INTERVAL_S = 1.0


@contextmanager
def seldom() -> Iterator[None]:
    """Have Python look for cycles seldom meanwhile, and never at what is here already.

    PERF: by itself it looks at everything whenever there is a quarter more of it, and finds nothing. With a
    fleet of 10,000 workers that took 60 to 80 ms on a busy machine, and 10 ms once while they started.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(AFTER_OBJECTS, AGAIN_AFTER, NEVER)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Collections:
    """Looks at objects once in a while; times are those of the monotonic clock, in seconds."""

    def __init__(self, now: float) -> None:
        self._due = now + INTERVAL_S
        self._new_due = now + NEW_INTERVAL_S

    def go_on(self, now: float) -> None:
        """Look at everything, or what is new, if it is time for that. For when there is nothing to do."""
        if now < self._new_due:
            return
        self._new_due = now + NEW_INTERVAL_S
        if now < self._due:
            gc.collect(1)
        else:
            gc.collect()
            self._due = now + INTERVAL_S
