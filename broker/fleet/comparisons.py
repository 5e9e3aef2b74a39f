"""Which versions are to be compared with what is there: all of them, but a bounded number in a turn. Pure."""

from collections.abc import Callable, Iterable
from itertools import islice

from torchrelay.broker.fleet.rounds import Rounds
from torchrelay.broker.models.catalog import Key

#: Versions that one turn compares, nearly all of them by two counts, in 3 us.
COMPARED_PER_TURN = 500
#: Versions that each sweep compares though nothing is known to have changed.
COMPARED_PER_SWEEP = 100


class Comparisons:
    """The versions of which something has changed, and those that lack what may be there later."""

    def __init__(self, every: Callable[[], Iterable[Key]]) -> None:
        """`every` yields all versions that are wanted or have workers."""
        self._every = every
        self._noted: dict[Key, None] = {}
        #: Nodes or places have changed, so that all are to be compared.
        self.is_for_all = True
        self._unsettled: dict[Key, None] = {}
        self._rounds = Rounds(every, COMPARED_PER_SWEEP)

    @property
    def is_due(self) -> bool:
        """Whether there is something to compare at once."""
        return self.is_for_all or bool(self._noted)

    def note(self, key: Key) -> None:
        """Have a version compared in this turn or soon after."""
        self._noted[key] = None

    def is_noted(self, key: Key) -> bool:
        """Tell whether a version is to be compared, in the next turn if this one has compared it."""
        return self.is_for_all or key in self._noted

    def note_unsettled(self, key: Key) -> None:
        """Have a version compared at the next sweep: it lacks something, and time may bring it."""
        self._unsettled[key] = None

    def sweep(self) -> None:
        """Have what is unsettled compared, and a part of all others: small fleets as a whole."""
        self._noted.update(self._unsettled)
        self._unsettled.clear()
        self._noted.update(dict.fromkeys(self._rounds.next_part()))

    def take(self) -> list[Key]:
        """Return the versions that are to be compared in this turn."""
        if self.is_for_all:
            self.is_for_all = False
            self._noted.update(dict.fromkeys(self._every()))
        if len(self._noted) <= COMPARED_PER_TURN:
            keys = list(self._noted)
            self._noted = {}
            return keys
        keys = list(islice(self._noted, COMPARED_PER_TURN))
        for key in keys:
            del self._noted[key]
        return keys
