"""The one place where whatever a message, or what is done about it, raises is caught."""

from collections.abc import Callable, Iterator
from typing import TypeVar

ItemT = TypeVar("ItemT")


def first_fault(items: Iterator[ItemT], do: Callable[[ItemT], object]) -> tuple[ItemT, Exception] | None:
    """Do something with each item, up to the first that raises; return that one and what it raised.

    Called again it goes on behind that one. None where all is done.
    """
    for item in items:
        try:
            do(item)
        except Exception as error:  # noqa: BLE001  # boundary: a peer's message ends no process that serves others
            return item, error
    return None
