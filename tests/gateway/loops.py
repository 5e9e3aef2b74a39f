"""An event loop whose time a test moves on, so that what happens in a minute is seen at once."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any


class Loop(asyncio.SelectorEventLoop):
    """Runs on its own clock, which is ahead of the machine's by as much as was let pass."""

    def __init__(self) -> None:
        super().__init__()
        self._ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self._ahead_s

    def skip(self, seconds: float) -> None:
        self._ahead_s += seconds


async def turns(count: int = 3) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


async def let_pass(seconds: float) -> None:
    """Let time pass, and what is due then happen."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    loop.skip(seconds)
    await turns()


async def run_for(seconds: int) -> None:
    """Let time pass a second at a time, as for a process that runs and doesn't stand still meanwhile."""
    for _ in range(seconds):
        await let_pass(1)


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:  # Any: asyncio's
    """Run a test on such a loop."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:  # Any: pytest's fixtures
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(test(*args, **kwargs))

    return run
