"""`context.is_cancelled` and `remaining_ms`: whether a handler still works for anybody, in every mode."""

import asyncio
import copy
import threading
from math import inf

import pytest
from ts.context import Context
from ts.torch_handler.unit_tests.test_utils.mock_context import MockContext

from tests.support import eventually_async
from tests.worker.engine_bench import Bench, Handler, bodies
from torchrelay.shared import clock
from torchrelay.worker.model.async_engine import AsyncEngine
from torchrelay.worker.model.engines import BatchEngine, FollowerEngine, GenerationEngine
from torchrelay.worker.model.held_leases import Batch
from torchrelay.worker.model.inputs import Row

Engines = type[BatchEngine] | type[GenerationEngine]
BOTH = pytest.mark.parametrize("engine", [BatchEngine, GenerationEngine])


def bench(handler: Handler, engine: Engines = BatchEngine) -> Bench:
    made = Bench(handler)
    made.engine = engine(made.runner, made.leases, made)
    return made


def work(made: Bench) -> None:
    assert made.engine is not None
    assert made.engine.work()


@BOTH
def test_a_handler_sees_that_its_client_has_left_while_it_runs(engine: Engines) -> None:
    seen: list[bool] = []

    def handler(data: list[Row], context: Context) -> object:
        seen.append(context.is_cancelled())
        made.gone.append(7)  # the broker says so, and nobody has looked yet
        seen.extend((context.is_cancelled(), context.is_cancelled(0)))
        return ["dropped"]

    made = bench(handler, engine)
    made.assign(7, b"x")
    work(made)
    assert seen == [False, True, True]
    assert made.received == 3, "each time it looks for what has come"


def test_one_of_a_batch_that_left_is_told_from_the_others_and_all_only_when_all_have() -> None:
    seen: list[list[bool]] = []

    def handler(data: list[Row], context: Context) -> object:
        for gone in ((1,), (0, 2)):
            assert made.engine is not None
            made.engine.cancelled(7, gone)
            seen.append([context.is_cancelled(idx) for idx in range(3)] + [context.is_cancelled()])
        return bodies(data)

    made = bench(handler)
    made.assign(7, b"a", b"b", b"c")
    work(made)
    assert seen == [[False, True, False, False], [True, True, True, True]]


def test_a_request_of_continuous_batching_is_told_by_its_place_in_the_call() -> None:
    seen: list[list[bool]] = []

    def handler(data: list[Row], context: Context) -> object:
        context.stopping_criteria = [lambda _: True for _ in data]
        made.gone.append(2)
        seen.append([context.is_cancelled(idx) for idx in range(len(data))])
        return bodies(data)

    made = bench(handler, GenerationEngine)
    for lease in (1, 2, 3):
        made.assign(lease, b"x")
    work(made)
    assert seen == [[False, True, False]]


@BOTH
def test_a_deadline_cancels_though_the_broker_has_not_said_so(engine: Engines) -> None:
    seen: list[object] = []

    def handler(data: list[Row], context: Context) -> object:
        seen.extend((context.is_cancelled(), context.remaining_ms()))
        return ["late"]

    made = bench(handler, engine)
    made.assign(1, b"x", given_up_at=[clock.monotonic() - 0.001])
    work(made)
    assert seen == [True, 0]


def test_the_time_that_is_left_is_each_clients_own_and_of_all_the_most_patient_ones() -> None:
    seen: list[int | None] = []

    def handler(data: list[Row], context: Context) -> object:
        seen.extend(context.remaining_ms(idx) for idx in (0, 1, None))
        return bodies(data)

    made = bench(handler)
    now = clock.monotonic()
    made.assign(1, b"a", b"b", given_up_at=[now + 100, now + 200])
    made.assign(2, b"a", b"b", given_up_at=[now + 100, inf])
    work(made)
    first, second, longest = (left or 0 for left in seen)
    assert 0 < first <= 100_000 < second <= longest <= 200_000
    seen.clear()
    work(made)
    assert seen[1:] == [None, None], "one of them waits as long as it takes"


def test_what_the_broker_took_back_is_cancelled() -> None:
    seen: list[bool] = []

    def handler(data: list[Row], context: Context) -> object:
        made.leases.forget()  # as at a welcome of a broker that holds nothing of this worker
        seen.append(context.is_cancelled())
        return ["nobody's"]

    made = bench(handler)
    made.assign(1, b"x")
    work(made)
    assert seen == [True]


def test_any_thread_of_a_handler_may_ask_also_once_its_call_has_ended() -> None:
    seen: list[bool] = []
    go_on, asked = threading.Event(), threading.Event()

    def ask(context: Context) -> None:
        seen.append(context.is_cancelled())
        asked.set()
        go_on.wait(10)
        seen.append(context.is_cancelled())

    def handler(data: list[Row], context: Context) -> object:
        thread = threading.Thread(target=ask, args=(copy.copy(context),))
        threads.append(thread)
        thread.start()
        asked.wait(10)
        return ["done"]

    threads: list[threading.Thread] = []
    made = bench(handler)
    made.assign(1, b"x")
    work(made)
    received = made.received
    go_on.set()
    threads[0].join(10)
    assert seen == [False, True], "its answer is given: nobody waits for what it still does"
    assert made.received == received, "the socket is the main thread's again"


def test_there_is_nothing_to_ask_while_a_model_loads() -> None:
    context = Context("m", "/", {}, 1, None, "0")
    assert (context.is_cancelled(), context.remaining_ms()) == (False, None)
    mock = MockContext(model_file=None)
    assert (mock.is_cancelled(0), mock.remaining_ms()) == (False, None)


def test_all_processes_of_a_worker_hear_the_same() -> None:
    """One that stops where another goes on leaves it waiting for ever."""
    seen: list[object] = []

    def handler(data: list[Row], context: Context) -> object:
        made.gone.append(1)
        seen.extend((context.is_cancelled(), context.remaining_ms()))
        return bodies(data)

    made = Bench(handler)
    made.engine = BatchEngine(made.runner, made.leases, made, share=lambda batch, leases: None)
    made.assign(1, b"x", given_up_at=[clock.monotonic() - 1])
    job = made.leases._waiting[0].jobs[0]
    work(made)
    FollowerEngine(made.runner).run(Batch(1, False, [job]), ())
    assert seen == [False, None, False, None]


async def test_an_async_handler_sees_it_where_it_awaits_nothing() -> None:
    seen: list[bool] = []

    async def handler(data: list[Row], context: Context) -> object:
        seen.append(context.is_cancelled())
        made.gone.append(1)
        seen.append(context.is_cancelled())
        return ["x"]

    made = Bench(handler)
    engine = made.engine = AsyncEngine(made.runner, made.leases, made, asyncio.get_running_loop())
    made.assign(1, b"x")
    engine.work()
    await eventually_async(lambda: made.told)
    assert seen == [False, True]


async def test_a_thread_of_an_async_handler_leaves_the_socket_to_the_loop() -> None:
    seen: list[bool] = []

    async def handler(data: list[Row], context: Context) -> object:
        seen.append(await asyncio.to_thread(context.is_cancelled))
        made.leases.cancelled(1, (0,))  # the loop has received it
        seen.append(await asyncio.to_thread(context.is_cancelled))
        return ["x"]

    made = Bench(handler)
    engine = made.engine = AsyncEngine(made.runner, made.leases, made, asyncio.get_running_loop())
    made.assign(1, b"x")
    engine.work()
    await eventually_async(lambda: made.told)
    assert (seen, made.received) == ([False, True], 0)
