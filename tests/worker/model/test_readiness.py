"""What a handler says of itself: `is_ready()`, asked at a bounded pace."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from tests.support import eventually_async
from torchrelay.worker.model.readiness import ANSWER_LIMIT_S, INTERVAL_S, Readiness


class Broken:
    def __bool__(self) -> bool:
        raise RuntimeError("no truth")


@pytest.mark.parametrize(
    ("says", "why_not"),
    [
        (lambda: True, ""),
        (lambda: 1, ""),
        (lambda: False, "is_ready() says no"),
        (lambda: None, "is_ready() says no"),
        (lambda: 1 / 0, "is_ready() raised ZeroDivisionError: division by zero"),
        (lambda: Broken(), "is_ready() raised RuntimeError: no truth"),
    ],
)
@pytest.mark.parametrize("is_coroutine", [False, True], ids=["plain", "coroutine"])
def test_whatever_it_answers_or_raises_is_yes_or_no(
    says: Callable[[], object], why_not: str, is_coroutine: bool
) -> None:
    async def awaited() -> object:
        return says()

    readiness = Readiness(awaited if is_coroutine else says)
    readiness.ask_if_due(0.0)
    assert readiness.why_not == why_not


def test_it_is_asked_once_an_interval() -> None:
    answers = iter(range(100))
    readiness = Readiness(lambda: next(answers))
    for tenth in range(31):
        readiness.ask_if_due(tenth * INTERVAL_S / 10)
    assert next(answers) == 4


def test_a_worker_waits_until_its_handler_is_ready() -> None:
    answers: Iterator[bool] = iter((False, False, True))
    readiness = Readiness(lambda: next(answers))
    readiness.wait()
    assert readiness.why_not == ""
    assert not list(answers)


def test_what_makes_an_async_handler_ready_may_run_on_its_loop_meanwhile() -> None:
    loop = asyncio.new_event_loop()
    ready = asyncio.Event()
    loop.call_later(0.01, ready.set)

    async def is_ready() -> bool:
        return ready.is_set()

    Readiness(is_ready, loop).wait()
    loop.close()
    assert ready.is_set()


async def test_an_async_handler_is_asked_beside_what_runs() -> None:
    gate = asyncio.Event()

    async def is_ready() -> bool:
        await gate.wait()
        return False

    readiness = Readiness(is_ready, asyncio.get_running_loop())
    readiness.ask_if_due(0.0)
    assert readiness.why_not == ""
    gate.set()
    await eventually_async(lambda: readiness.why_not == "is_ready() says no")


async def test_an_answer_that_does_not_come_counts_as_no_until_it_comes() -> None:
    gate = asyncio.Event()

    async def is_ready() -> bool:
        await gate.wait()
        return True

    readiness = Readiness(is_ready, asyncio.get_running_loop())
    readiness.ask_if_due(0.0)
    await asyncio.sleep(0)
    readiness.ask_if_due(ANSWER_LIMIT_S + 1)
    assert readiness.why_not == "is_ready() raised TimeoutError: no answer for 5 s"
    gate.set()
    await eventually_async(lambda: readiness.why_not == "")
