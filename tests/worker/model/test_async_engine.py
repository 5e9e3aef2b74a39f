"""Async handlers: requests at the same time on the event loop of the worker."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

from ts.context import Context
from ts.handler_utils.utils import send_intermediate_predict_response

from tests.support import eventually_async
from tests.worker.engine_bench import Bench, Done, bodies
from torchrelay.worker.model.async_engine import AsyncEngine
from torchrelay.worker.model.inputs import Row


def concurrent(handler: Callable[[list[Row], Context], Awaitable[object]]) -> Bench:
    made = Bench(handler)
    made.engine = AsyncEngine(made.runner, made.leases, made, asyncio.get_running_loop())
    return made


def begin(made: Bench) -> None:
    assert made.engine is not None
    assert not made.engine.work()


async def test_async_requests_run_side_by_side_and_end_in_any_order() -> None:
    gates = {name: asyncio.Event() for name in ("a", "b", "c")}

    async def handler(data: list[Row], context: Context) -> object:
        [name] = bodies(data)
        await gates[name].wait()
        return [f"{name} {context.get_request_id()}"]

    made = concurrent(handler)
    for lease, name in enumerate(gates):
        made.assign(lease, name.encode())
    begin(made)
    for number, name in enumerate(("c", "a", "b")):
        assert len(made.told) == number
        gates[name].set()
        await eventually_async(lambda: len(made.told) > number)  # noqa: B023  # awaited in this very turn
    assert made.said() == [(2, [b"c r2-0"]), (0, [b"a r0-0"]), (1, [b"b r1-0"])]


async def test_each_async_call_has_a_context_of_its_own_that_measures_together() -> None:
    both_run = asyncio.Barrier(2)

    async def handler(data: list[Row], context: Context) -> object:
        [name] = bodies(data)
        context.cache.append(name)  # type: ignore[attr-defined]  # a handler's own
        context.set_response_header(0, "x-name", name)
        await both_run.wait()
        assert context.metrics is not None
        context.metrics.add_counter("Calls", 1)
        return [[context.cache, context.get_response_headers(0)]]  # type: ignore[attr-defined]  # a handler's own

    made = concurrent(handler)
    made.context.cache = ["shared"]  # type: ignore[attr-defined]  # a handler's own
    made.assign(1, b"a")
    made.assign(2, b"b")
    begin(made)
    await eventually_async(lambda: len(made.told) == 2)
    assert sorted(str(said).count("shared") for said in made.said()) == [1, 1]
    assert made.context.cache == ["shared"]  # type: ignore[attr-defined]  # a handler's own
    assert made.context.metrics is not None
    points = made.context.metrics.take_points()
    assert sorted(point.request_ids for point in points) == [("r1-0",), ("r2-0",)]


async def test_an_async_handler_streams_from_the_loop_and_from_threads() -> None:
    def send(text: str, context: Context) -> None:
        send_intermediate_predict_response([text], context.request_ids or {}, "", 200, context)

    async def handler(data: list[Row], context: Context) -> object:
        send("one", context)
        await asyncio.to_thread(send, "two", context)
        send("three", context)
        return ["last"]

    made = concurrent(handler)
    made.assign(1, b"x")
    begin(made)
    await eventually_async(lambda: len(made.told) == 4)
    assert made.said() == [(1, 0, b"one"), (1, 0, b"two"), (1, 0, b"three"), (1, [b"last"])]


class Endless:
    """A handler that answers nothing, and says when it has begun and when it was cancelled."""

    def __init__(self) -> None:
        self.has_begun, self.was_cancelled = asyncio.Event(), asyncio.Event()

    async def __call__(self, data: list[Row], context: Context) -> object:
        try:
            self.has_begun.set()
            return await asyncio.Event().wait()
        finally:
            self.was_cancelled.set()


async def test_an_async_request_whose_client_has_gone_is_cancelled_where_it_waits() -> None:
    handler = Endless()
    made = concurrent(handler)
    made.assign(1, b"x")
    begin(made)
    await handler.has_begun.wait()
    assert made.engine is not None
    made.engine.cancelled(1, (0,))
    await eventually_async(lambda: made.told)
    assert handler.was_cancelled.is_set()
    assert made.said() == [(1, ["Prediction failed"])]


async def test_an_async_request_whose_client_goes_before_it_begins_is_not_run() -> None:
    handler = Endless()
    made = concurrent(handler)
    made.assign(1, b"x")
    assert made.engine is not None
    made.engine.cancelled(1, (0,))
    begin(made)
    await eventually_async(lambda: made.told)
    assert made.said() == [(1, ["Prediction failed"])]
    assert not handler.has_begun.is_set()


async def test_what_an_async_handler_raises_or_returns_wrongly_fails_its_request_alone() -> None:
    async def handler(data: list[Row], context: Context) -> object:
        [name] = bodies(data)
        if name == "raise":
            raise MemoryError("no room")
        if name == "interrupt":
            raise KeyboardInterrupt
        return {"dict": 1} if name == "dict" else ["fine"]

    made = concurrent(handler)
    for lease, name in enumerate([b"raise", b"dict", b"fine", b"interrupt"]):
        made.assign(lease, name)
    begin(made)
    await eventually_async(lambda: len(made.told) == 4)
    assert sorted(made.said()) == [
        (0, ["Out of resources"]),
        (1, ["Invalid model predict output"]),
        (2, [b"fine"]),
        (3, ["Prediction failed"]),
    ]


async def test_a_context_that_cannot_be_copied_fails_the_request_with_the_reason() -> None:
    async def handler(data: list[Row], context: Context) -> object:
        return ["never"]

    made = concurrent(handler)
    made.context.lock = threading.Lock()  # type: ignore[attr-defined]  # a handler's own
    made.assign(1, b"x")
    begin(made)
    await eventually_async(lambda: made.told)
    done = made.told[0]
    assert isinstance(done, Done)
    assert done.replies[0].error == (
        "PredictionFailed",
        "Prediction failed",
        "TypeError: cannot pickle '_thread.lock' object",
    )


async def test_an_async_request_of_whose_context_no_answer_can_be_made_is_answered_all_the_same() -> None:
    async def handler(data: list[Row], context: Context) -> object:
        if bodies(data) == ["bad"]:
            context.request_processor = []
        return ["fine"]

    made = concurrent(handler)
    made.assign(1, b"bad")
    made.assign(2, b"x")
    begin(made)
    await eventually_async(lambda: len(made.told) == 2)
    assert sorted(made.said(), key=str) == [(1, ["Prediction failed"]), (2, [b"fine"])]


async def test_what_the_broker_took_back_is_cancelled_and_not_answered() -> None:
    handler = Endless()
    made = concurrent(handler)
    made.assign(1, b"x")
    begin(made)
    await handler.has_begun.wait()
    assert made.engine is not None
    made.engine.forget()
    made.leases.forget()
    await handler.was_cancelled.wait()
    assert made.told == []
