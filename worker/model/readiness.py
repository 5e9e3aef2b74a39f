"""Asks a handler, at a bounded pace, whether it takes requests now: `is_ready()`, where it has one.

It may be a coroutine function. Whatever it raises counts as no, and so does an answer that is awaited for too
long. What isn't awaited runs in the worker's one thread, and holds up all else meanwhile.
"""

import asyncio
import inspect
import logging
import threading
from dataclasses import dataclass, field
from math import inf

from ts.model_loader import IsReady

from torchrelay.shared import clock
from torchrelay.worker.common.handler_errors import guarded, one_line

logger = logging.getLogger(__name__)

#: The pace at the start, which gets slower by half each time, down to that of a worker that serves.
FIRST_INTERVAL_S = 0.05
INTERVAL_S = 1.0
#: How long a coroutine may take while the worker serves, before that counts as no.
ANSWER_LIMIT_S = 5.0


@dataclass(eq=False)
class Readiness:
    """What a handler has last said; `loop` is that of an async handler."""

    is_ready: IsReady
    loop: asyncio.AbstractEventLoop | None = None
    #: Empty while it is ready.
    why_not: str = ""
    #: When to ask next.
    _due: float = -inf
    #: An answer that is awaited, and since when.
    _asking: asyncio.Task[None] | None = None
    _asked_at: float = 0.0
    _own_loop: asyncio.AbstractEventLoop | None = field(default=None, init=False)

    def wait(self) -> None:
        """Ask until the handler is ready; how long that may take, the broker says."""
        pause = threading.Event().wait
        interval_s = FIRST_INTERVAL_S
        while not self._ask():
            if self.loop is not None:
                self.loop.run_until_complete(asyncio.sleep(interval_s))  # what makes it ready may run there
            else:
                pause(interval_s)
            interval_s = min(INTERVAL_S, interval_s * 1.5)
        self._due = clock.monotonic() + INTERVAL_S

    def ask_if_due(self, now: float) -> None:
        """Ask if it is time to, and heed the answer at once; an async handler's, when it comes."""
        if self._asking is not None:
            if now - self._asked_at > ANSWER_LIMIT_S:
                self._said(TimeoutError(f"no answer for {ANSWER_LIMIT_S:.0f} s"))
            return
        if now < self._due:
            return
        self._due = now + INTERVAL_S
        if self.loop is None:
            self._ask()
            return
        self._asked_at = now
        self._asking = self.loop.create_task(self._ask_beside())

    async def _ask_beside(self) -> None:
        said = guarded(self.is_ready)
        if inspect.isawaitable(said):
            [said] = await asyncio.gather(said, return_exceptions=True)
        self._asking = None
        self._said(said)

    def _ask(self) -> bool:
        """Ask, and wait for the answer."""
        said = guarded(self.is_ready)
        if inspect.isawaitable(said):
            if self.loop is None and self._own_loop is None:
                self._own_loop = asyncio.new_event_loop()
            loop = self.loop or self._own_loop
            assert loop is not None
            [said] = loop.run_until_complete(_outcome(said))
        return self._said(said)

    def _said(self, said: object) -> bool:
        answer = said if isinstance(said, BaseException) else guarded(bool, said)
        if isinstance(answer, BaseException):
            why_not = f"is_ready() raised {one_line(answer)}"
        else:
            why_not = "" if answer else "is_ready() says no"
        if why_not != self.why_not:
            self.why_not = why_not
            logger.info("handler.%s", f"not_ready: {why_not}" if why_not else "ready")
        return not why_not


async def _outcome(said: object) -> list[object]:
    return await asyncio.gather(said, return_exceptions=True)  # type: ignore[call-overload, no-any-return]  # it is awaitable
