from collections.abc import Callable
from functools import partial
from itertools import count

import pytest
import torch
from ts.context import Context

from tests.worker.engine_bench import Bench, Done, Handler, bodies
from torchrelay.shared.wire import messages as m
from torchrelay.worker.common.measuring import GATHER_S, POINTS_LIMIT, POINTS_PER_S
from torchrelay.worker.model.engines import BatchEngine, FollowerEngine, GenerationEngine
from torchrelay.worker.model.held_leases import AssignedJob, Batch
from torchrelay.worker.model.inputs import Row

Calls = list[tuple[list[str], list[str]]]


def generation(handler: Handler) -> Bench:
    made = Bench(handler)
    made.engine = GenerationEngine(made.runner, made.leases, made)
    return made


def counting(calls: Calls) -> Handler:
    """Return a handler that answers each request in as many calls as its body says, and keeps a book."""
    left: dict[str, int] = {}

    def is_last(request_id: str, result: object) -> bool:
        return left[request_id] <= 0

    def handler(data: list[Row], context: Context) -> object:
        ids = list((context.request_ids or {}).values())
        calls.append((ids, bodies(data)))
        for request_id, body in zip(ids, bodies(data), strict=True):
            left.setdefault(request_id, int(body or 0))
        for request_id in ids:
            left[request_id] -= 1
        context.stopping_criteria = [partial(is_last, request_id) for request_id in ids]
        return [f"{request_id} {left[request_id]};" for request_id in ids]

    return handler


def work(made: Bench, times: int = 1) -> None:
    assert made.engine is not None
    for _ in range(times):
        assert made.engine.work()


def test_requests_join_and_leave_between_calls_and_go_on_with_empty_inputs() -> None:
    calls: Calls = []
    made = generation(counting(calls))
    made.assign(1, b"3")
    work(made)
    made.assign(2, b"1")
    made.assign(3, b"2")
    work(made, 2)
    assert calls == [
        (["r1-0"], ["3"]),
        (["r1-0", "r2-0", "r3-0"], ["", "1", "2"]),
        (["r1-0", "r3-0"], ["", ""]),
    ]
    assert made.said() == [
        (1, 0, b"r1-0 2;"),
        (1, 0, b"r1-0 1;"),
        (2, [b"r2-0 0;"]),
        (3, 0, b"r3-0 1;"),
        (1, [b"r1-0 0;"]),
        (3, [b"r3-0 0;"]),
    ]
    assert made.engine is not None
    assert not made.engine.work()


def test_a_first_result_that_is_the_last_is_an_ordinary_answer() -> None:
    made = generation(counting([]))
    made.assign(1, b"1")
    work(made)
    [done] = made.told
    assert isinstance(done, Done)
    assert done.replies[0].headers == ()


def test_parts_have_the_mark_of_a_stream_and_the_last_one_its_end() -> None:
    made = generation(counting([]))
    made.assign(1, b"2")
    work(made, 2)
    part, done = made.told
    assert not isinstance(part, Done)
    assert isinstance(done, Done)
    assert dict(part[1].headers) == {"ts_stream_next": "true"}


@pytest.mark.parametrize("criteria", [None, [], [lambda result: None]])
def test_without_a_verdict_a_result_is_an_ordinary_answer(
    criteria: list[Callable[[object], bool | None]] | None,
) -> None:
    def handler(data: list[Row], context: Context) -> object:
        context.stopping_criteria = criteria
        return ["whole"]

    made = generation(handler)
    made.assign(1, b"x")
    work(made)
    assert made.said() == [(1, [b"whole"])]
    assert made.leases.held == (1,)  # until it has been sent


def test_a_criterion_that_raises_fails_its_request_alone() -> None:
    def bad(result: object) -> bool | None:
        raise KeyError(result)

    def handler(data: list[Row], context: Context) -> object:
        context.stopping_criteria = [bad, lambda result: True]
        return ["a", "b", "c"]

    made = generation(handler)
    for lease in (1, 2, 3):
        made.assign(lease, b"x")
    work(made)
    # The third has no criterion at all.
    assert made.said() == [(1, ["Prediction failed"]), (2, [b"b"]), (3, ["Prediction failed"])]


def test_a_verdict_that_is_neither_yes_nor_no_fails_its_request_alone() -> None:
    def handler(data: list[Row], context: Context) -> object:
        context.stopping_criteria = [lambda result: torch.zeros(2), lambda result: True]  # type: ignore[list-item,return-value]  # what a handler may do
        return ["a", "b"]

    made = generation(handler)
    for lease in (1, 2):
        made.assign(lease, b"x")
    work(made)
    assert made.said() == [(1, ["Prediction failed"]), (2, [b"b"])]


def test_a_generation_whose_responses_were_thrown_away_fails_its_request_alone() -> None:
    def handler(data: list[Row], context: Context) -> object:
        context.request_processor = []
        context.stopping_criteria = [lambda result: False]
        return ["a"]

    made = generation(handler)
    made.assign(1, b"x")
    work(made)
    assert made.said() == [(1, ["Prediction failed"])]


def test_a_handler_that_raises_fails_every_request_of_the_call_and_none_after_it() -> None:
    calls: Calls = []
    inner = counting(calls)

    def handler(data: list[Row], context: Context) -> object:
        if "boom" in bodies(data):
            raise RuntimeError("boom")
        return inner(data, context)

    made = generation(handler)
    made.assign(1, b"5")
    work(made)
    made.assign(2, b"boom")
    work(made)
    made.assign(3, b"1")
    work(made)
    assert made.said() == [
        (1, 0, b"r1-0 4;"),
        (1, ["Prediction failed"]),
        (2, ["Prediction failed"]),
        (3, [b"r3-0 0;"]),
    ]


def test_a_request_whose_client_has_gone_leaves_and_is_answered_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: Calls = []
    made = generation(counting(calls))
    made.assign(1, b"9")
    made.assign(2, b"2")
    work(made)
    assert made.engine is not None
    made.engine.cancelled(1, (0,))
    made.engine.cancelled(77, (0,))
    with caplog.at_level("INFO"):
        work(made)
    assert calls[-1] == (["r2-0"], [""])
    assert made.said()[2:] == [(1, ["Prediction failed"]), (2, [b"r2-0 0;"])]
    assert "Connection to client got closed; Removing job: r1-0" in caplog.text


def test_a_request_whose_client_goes_before_it_joins_is_not_run() -> None:
    calls: Calls = []
    made = generation(counting(calls))
    made.assign(1, b"9")
    made.assign(2, b"1")
    assert made.engine is not None
    made.engine.cancelled(1, (0,))
    work(made)
    assert calls == [(["r2-0"], ["1"])]
    assert made.said() == [(1, ["Prediction failed"]), (2, [b"r2-0 0;"])]


def test_a_description_is_a_call_of_its_own() -> None:
    calls: Calls = []
    inner = counting(calls)

    def handler(data: list[Row], context: Context) -> object:
        if context.get_request_header(0, "describe") == "True":
            return [{"rows": len(data)}]
        return inner(data, context)

    made = generation(handler)
    made.assign(1, b"2")
    work(made)
    made.assign(2, b"", is_describe=True)
    work(made)
    assert made.said() == [(1, 0, b"r1-0 1;"), (2, [b'{\n  "rows": 1\n}']), (1, [b"r1-0 0;"])]


def test_a_request_that_cannot_be_read_fails_alone() -> None:
    made = generation(counting([]))
    made.leases.assigned(Batch(1, False, [AssignedJob(b"\xc1")]))
    made.assign(2, b"1")
    work(made)
    assert made.said() == [(1, ["The request reached its worker in pieces."]), (2, [b"r2-0 0;"])]


def test_handlers_are_told_of_sequences_and_close_them_by_a_header() -> None:
    seen: list[dict[str, object]] = []

    def handler(data: list[Row], context: Context) -> object:
        seen.append(context.get_all_request_header(0))
        context.set_response_header(0, "ts_request_sequence_end", f"s{len(seen)}; other")
        context.stopping_criteria = [lambda result: len(seen) > 1]
        return ["x"]

    made = generation(handler)
    made.assign(1, b"x", sequence="s")
    work(made, 2)
    assert [(row["ts_request_sequence_id"], row["ts_request_sequence_start"]) for row in seen] == [
        ("s", "true")
    ] * 2
    done = made.told[-1]
    assert isinstance(done, Done)
    assert done.ends == ("s1", "other")


def test_what_the_broker_took_back_is_forgotten() -> None:
    calls: Calls = []
    made = generation(counting(calls))
    made.assign(1, b"9")
    work(made)
    assert made.engine is not None
    made.engine.forget()
    made.leases.forget()
    assert not made.engine.work()


def with_echo(handler: Handler, echoing: Handler) -> tuple[Bench, Bench]:
    """Return the process that speaks for a worker, and another one that it shares what it runs with."""
    made, other = Bench(handler), Bench(echoing)
    made.engine = GenerationEngine(made.runner, made.leases, made, FollowerEngine(other.runner).run)
    return made, other


def test_another_process_makes_the_same_calls_and_says_nothing() -> None:
    calls: Calls = []
    echoed: Calls = []
    made, other = with_echo(counting(calls), counting(echoed))
    made.assign(1, b"3")
    work(made)
    made.assign(2, b"9")
    made.assign(3, b"2")
    work(made)
    assert made.engine is not None
    made.engine.cancelled(2, (0,))
    made.assign(4, b"", is_describe=True)
    work(made)
    assert (
        echoed
        == calls
        == [
            (["r1-0"], ["3"]),
            (["r1-0", "r2-0", "r3-0"], ["", "9", "2"]),
            (["r4-0"], [""]),
            (["r1-0", "r3-0"], ["", ""]),
        ]
    )
    assert other.said() == []


@pytest.mark.parametrize("verdict", [True, False, None])
def test_which_requests_go_on_is_for_the_first_process_alone_to_say(verdict: bool | None) -> None:
    asked: list[object] = []
    echoed: list[list[str]] = []

    def ask(result: object) -> bool | None:
        asked.append(result)
        return verdict

    def echoing(data: list[Row], context: Context) -> object:
        echoed.append(list((context.request_ids or {}).values()))
        context.stopping_criteria = [ask] * len(data)
        return [f"echo of {body}" for body in bodies(data)]

    made, _ = with_echo(counting([]), echoing)
    made.assign(1, b"2")
    made.assign(2, b"1")
    work(made, 2)
    assert echoed == [["r1-0", "r2-0"], ["r1-0"]]
    # Asked they are: handlers let them clear up.
    assert asked == ["echo of 2", "echo of 1", "echo of "]


def test_a_failure_of_one_process_is_not_the_others() -> None:
    calls: Calls = []
    echoed: Calls = []

    def failing(at: int, made: Calls) -> Handler:
        inner = counting(made)

        def handler(data: list[Row], context: Context) -> object:
            output = inner(data, context)
            if len(made) == at:
                raise RuntimeError
            return output

        return handler

    made, _ = with_echo(failing(1, calls), failing(2, echoed))
    made.assign(1, b"5")
    work(made)
    made.assign(2, b"2")
    work(made, 2)
    assert echoed == calls == [(["r1-0"], ["5"]), (["r2-0"], ["2"]), (["r2-0"], [""])]
    assert made.said() == [(1, ["Prediction failed"]), (2, 0, b"r2-0 1;"), (2, [b"r2-0 0;"])]


def test_a_lease_that_was_taken_back_means_nothing_to_those_after_it() -> None:
    echoed: Calls = []
    made, _ = with_echo(counting([]), counting(echoed))
    made.assign(1, b"9")
    work(made)
    assert made.engine is not None
    made.engine.forget()
    made.leases.forget()
    made.assign(2, b"1")
    made.assign(3, b"4")
    work(made)
    assert echoed[-1] == (["r2-0", "r3-0"], ["1", "4"])


def test_a_batch_of_several_runs_in_one_call_and_in_order() -> None:
    calls: list[list[str]] = []

    def handler(data: list[Row], context: Context) -> object:
        calls.append(bodies(data))
        return bodies(data)

    made = Bench(handler)
    made.engine = BatchEngine(made.runner, made.leases, made)
    made.assign(1, b"a", b"b")
    made.assign(2, b"c")
    work(made, 2)
    assert not made.engine.work()
    assert calls == [["a", "b"], ["c"]]
    assert made.said() == [(1, [b"a", b"b"]), (2, [b"c"])]


def test_what_is_measured_goes_out_at_once_when_idle_and_gathered_when_busy() -> None:
    def handler(data: list[Row], context: Context) -> object:
        assert context.metrics is not None
        context.metrics.add_counter("Calls", 2)
        return ["x"] * len(data)

    made = Bench(handler)
    made.engine = BatchEngine(made.runner, made.leases, made)
    measuring = made.runner.measuring
    leases = count()

    def due(now: float, *, is_idle: bool) -> list[str]:
        made.assign(next(leases), b"x")
        work(made)
        measured = measuring.due(now, is_idle=is_idle)
        if measured is None:
            return []
        measuring.sent(now)
        return [point.name for point in measured.points]

    assert due(100.0, is_idle=False) == ["Calls", "PredictionTime"]
    assert due(100.1, is_idle=True) == ["Calls", "PredictionTime"]
    assert due(100.2, is_idle=False) == []
    assert measuring.next_wake() == pytest.approx(100.6)
    assert due(100.7, is_idle=False) == ["Calls", "Calls", "PredictionTime"]
    assert measuring.due(200.0, is_idle=True) is None
    assert measuring.next_wake() == float("inf")


def test_what_cannot_be_sent_is_kept_and_tried_again_in_a_while() -> None:
    made = Bench(lambda data, context: bodies(data))
    measuring = made.runner.measuring
    assert made.context.metrics is not None
    made.context.metrics.add_counter("Calls", 2)
    for now in (100.0, 100.1, 100.6):
        measured = measuring.due(now, is_idle=True)
        assert measured is not None
        assert [point.name for point in measured.points] == ["Calls"]
        measuring.put_off(now)
        assert measuring.next_wake() == now + GATHER_S


def test_of_more_points_than_the_broker_should_take_in_the_rest_waits() -> None:
    made = Bench(lambda data, context: bodies(data))
    measuring = made.runner.measuring
    metrics = made.context.metrics
    assert metrics is not None

    def told_of(count: int, now: float) -> int:
        for _ in range(count):
            metrics.add_counter("Calls", 1)
        measured = measuring.due(now, is_idle=True)
        if measured is None:
            return 0
        measuring.sent(now)
        return len(measured.points)

    assert told_of(POINTS_LIMIT + 5, 100.0) == POINTS_LIMIT
    assert told_of(POINTS_LIMIT + 5, 100.0) == 0
    assert measuring.next_wake() == 100.0 + GATHER_S
    assert told_of(0, 101.0) == POINTS_PER_S
    assert told_of(0, 102.0) == POINTS_LIMIT - POINTS_PER_S
    assert measuring.next_wake() == float("inf")


def test_a_prediction_is_measured_as_torchserve_does_and_only_if_it_went_well() -> None:
    def handler(data: list[Row], context: Context) -> object:
        return bodies(data) if bodies(data) != ["bad"] else None

    made = Bench(handler)
    made.engine = BatchEngine(made.runner, made.leases, made)
    made.assign(1, b"bad")
    work(made)
    assert made.runner.measuring.due(100.0, is_idle=True) is None
    made.assign(2, b"a", b"b")
    work(made)
    measured = made.runner.measuring.due(100.0, is_idle=True)
    assert measured is not None
    [point] = measured.points
    assert isinstance(point, m.MetricPoint)
    assert (point.name, point.kind, point.unit, point.request_ids) == (
        "PredictionTime",
        "gauge",
        "Milliseconds",
        ("r2-0", "r2-1"),
    )
    assert point.dimensions == (("ModelName", "m"), ("Level", "Model"))
