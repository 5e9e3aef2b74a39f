"""What a request awaits of the link: one object that is the session's record, a future, and a bound."""

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

from torchrelay.gateway.http.client_pace import ClientBacklog, Unsent
from torchrelay.gateway.http.exchange import ClientLeft
from torchrelay.gateway.session import Answer, Outcome, Pending
from torchrelay.shared import errors

#: Parts of one answer that wait for a slow client; above either, its connection is cut.
BACKLOG_LIMIT_PARTS = 4096
BACKLOG_LIMIT_BYTES = 16 << 20

T = TypeVar("T")


class WaitedOn(Protocol):
    """What a waiter needs of the link that made it."""

    loop: asyncio.AbstractEventLoop
    unsent: Unsent

    def forget(self, waiter: "Waiter[Any]") -> None:
        """Wait for this answer no longer."""


class Waiter(Pending, Generic[T]):
    """What a request awaits: a reply, or an answer, which may come in parts.

    PERF: it is the session's record and a future in one, and whoever awaits it goes on at once instead
    of at the loop's next turn, which only an asyncio Task needs: an asyncio future alone takes 2,600
    instructions to make, and as many again to wake somebody up.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_backlog",
        "_callback",
        "_link",
        "_outcomes",
        "_wanted",
        "backlog_bytes",
    )

    def __init__(self, link: WaitedOn, wanted: type[T]) -> None:
        self._asyncio_future_blocking = False
        self._link = link
        self._wanted = wanted
        self._outcomes: list[Outcome | asyncio.CancelledError] = []
        #: What came while nobody waited for it.
        self.backlog_bytes = 0
        self._backlog: ClientBacklog | None = None
        self._callback: Callable[[], object] | None = None

    def __await__(self) -> Generator["Waiter[T]", None, T]:
        """Return what came, or wait for it. Raises the error that it was, and what is thrown in."""
        if not self._outcomes:
            self._asyncio_future_blocking = True
            try:
                yield self
            except (ClientLeft, asyncio.CancelledError):
                self._link.forget(self)
                raise
        if isinstance(self._outcomes[0], errors.RelayError):
            # Without a name: its traceback holds this frame, so that the two, and with them the request that
            # waits here, would be left to the collector: 41 objects for each refusal.
            raise cast(errors.RelayError, self._outcomes.pop(0))
        outcome = self._outcomes.pop(0)
        if self.backlog_bytes:
            self.backlog_bytes -= _size(outcome)
            self._count_backlog()
        if isinstance(outcome, self._wanted):
            return outcome
        raise errors.InternalError("The broker gave an answer to another question.", type(outcome).__name__)

    def tell(self, outcome: Outcome | asyncio.CancelledError) -> None:
        """Hand an outcome over to whoever awaits it."""
        self._outcomes.append(outcome)
        if self._callback is not None:
            callback, self._callback = self._callback, None
            callback()
        else:
            self._bound_backlog(_size(outcome))

    def _bound_backlog(self, more_bytes: int) -> None:
        """Give up an answer whose parts come faster than its client takes them."""
        self.backlog_bytes += more_bytes
        if len(self._outcomes) > BACKLOG_LIMIT_PARTS or self.backlog_bytes > BACKLOG_LIMIT_BYTES:
            self.give_up()
        elif self.backlog_bytes:
            self._count_backlog()

    def _count_backlog(self) -> None:
        """Count the waiting parts towards unsent_limit_bytes."""
        if self._backlog is None:
            self._backlog = ClientBacklog(lambda: self.backlog_bytes, self.give_up)
        for slowest in self._link.unsent.keep(self._backlog, self._link.loop.time()):
            slowest.cut()

    def give_up(self) -> None:
        """End the answer, whose client takes it too slowly."""
        self._link.forget(self)
        self._outcomes = [errors.ServiceUnavailable("The client takes its answer too slowly.")]

    def drop_backlog(self) -> None:
        """Let go of what came: nobody will take it."""
        self._callback = None
        self._outcomes.clear()
        self.backlog_bytes = 0
        if self._backlog is not None:
            self._count_backlog()

    # What asyncio wants of a future

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop of the link."""
        return self._link.loop

    def add_done_callback(
        self, callback: Callable[["Waiter[T]"], object], *, context: Context | None = None
    ) -> None:
        """Have the next outcome announced: to a Task, which brings a context, by the loop."""
        if context is None:
            self._callback = partial(callback, self)
        else:
            self._callback = partial(self._link.loop.call_soon, callback, self, context=context)

    def result(self) -> None:
        """Say that there is an outcome, which `await` then takes. Raises CancelledError after `cancel`."""
        if self._outcomes and isinstance(self._outcomes[0], asyncio.CancelledError):
            raise cast(asyncio.CancelledError, self._outcomes.pop(0))

    def cancel(self, msg: object = None) -> bool:
        """Have the Task that waits go on with a CancelledError; return whether one waits."""
        if self._callback is None:
            return False
        self.tell(asyncio.CancelledError())
        return True


def _size(outcome: object) -> int:
    return len(outcome.meta) + sum(map(len, outcome.frames)) if isinstance(outcome, Answer) else 0
