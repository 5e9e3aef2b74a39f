"""Going through all of something again and again, a bounded part of it at a time. Pure."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class Rounds(Generic[ItemT]):
    """One round after the other through what `every` yields; up to `limit` of it are one part.

    Each round is of what was there when it began: what comes later is in the next, and what has gone since
    still comes.
    """

    def __init__(self, every: Callable[[], Iterable[ItemT]], limit: int) -> None:
        self._every = every
        self._limit = limit
        #: What is left of this round, the last first; empty once it is over.
        self.left: list[ItemT] = []

    def begin(self) -> None:
        """Begin a new round, whatever is left of the one before."""
        self.left = [*self._every()]
        self.left.reverse()

    def next_part(self) -> list[ItemT]:
        """Return the next part of a round; a new one begins where the last is over."""
        if not self.left:
            self.begin()
        part = self.left[-self._limit :]
        del self.left[-self._limit :]
        part.reverse()
        return part
