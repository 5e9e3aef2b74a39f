import copy
import threading

import pytest
from ts.context import Context
from ts.handler_utils.utils import create_predict_response, import_class, send_intermediate_predict_response
from ts.protocol import otf_message_handler

from tests.worker.engine_bench import Bench, Done, Handler, bodies
from torchrelay.shared.wire import codec
from torchrelay.worker.model.engines import BatchEngine
from torchrelay.worker.model.inputs import Row

SEND = send_intermediate_predict_response


def bench(handler: Handler, limit_bytes: int = 1_000_000) -> Bench:
    made = Bench(handler, limit_bytes)
    made.engine = BatchEngine(made.runner, made.leases, made)
    return made


def run(handler: Handler, *requests: bytes, limit_bytes: int = 1_000_000) -> Bench:
    made = bench(handler, limit_bytes)
    made.assign(7, *(requests or (b"x",)))
    assert made.engine is not None
    assert made.engine.work()
    return made


def send(rows: list[object], context: Context, ids: dict[int, str] | None = None) -> None:
    SEND(rows, context.request_ids if ids is None else ids, "Intermediate", 200, context)  # type: ignore[arg-type]  # set while it runs


def test_parts_go_out_before_the_handler_returns_and_the_last_one_is_its_answer() -> None:
    def handler(data: list[Row], context: Context) -> object:
        send(["one"], context)
        assert made.told, "the part waits for the handler"
        send([{"two": 2}], context)
        return ["last"]

    made = bench(handler)
    made.assign(7, b"x")
    assert made.engine is not None
    made.engine.work()
    assert made.said() == [(7, 0, b"one"), (7, 0, b'{\n  "two": 2\n}'), (7, [b"last"])]


def test_the_first_part_has_the_headers_and_the_mark_of_a_stream() -> None:
    def handler(data: list[Row], context: Context) -> object:
        context.set_response_content_type(0, "text/event-stream")
        context.set_response_status(201, "Made", 0)
        send(["one"], context)
        return ["last"]

    part, done = run(handler).told
    assert not isinstance(part, Done)
    assert isinstance(done, Done)
    head = part[1]
    assert (head.status, head.reason) == (201, "Made")
    assert dict(head.headers) == {"content-type": "text/event-stream", "ts_stream_next": "true"}
    assert dict(done.replies[0].headers)["ts_stream_next"] == "false"


def test_an_answer_without_parts_has_no_mark_of_a_stream() -> None:
    [done] = run(lambda data, context: ["last"]).told
    assert isinstance(done, Done)
    assert done.replies[0].headers == ()


def test_each_request_of_a_batch_gets_its_own_parts() -> None:
    def handler(data: list[Row], context: Context) -> object:
        send([f"part of {body}" for body in bodies(data)], context)
        return bodies(data)

    assert run(handler, b"a", b"b").said() == [
        (7, 0, b"part of a"),
        (7, 1, b"part of b"),
        (7, [b"a", b"b"]),
    ]


def test_a_request_is_known_by_its_id_where_the_handler_numbers_anew() -> None:
    def handler(data: list[Row], context: Context) -> object:
        send(["for b"], context, {0: "r7-1"})
        send(["for nobody"], context, {0: "unknown"})
        return bodies(data)

    assert run(handler, b"a", b"b").said() == [(7, 1, b"for b"), (7, [b"a", b"b"])]


def test_any_thread_of_the_handler_may_send_until_the_handler_returns() -> None:
    may_end, has_tried = threading.Event(), threading.Event()

    def handler(data: list[Row], context: Context) -> object:
        early = threading.Thread(target=send, args=(["early"], context))
        early.start()
        early.join()
        threading.Thread(target=late, args=(context, dict(context.request_ids or {}))).start()
        return ["last"]

    def late(context: Context, ids: dict[int, str]) -> None:
        may_end.wait(10)
        send(["late"], context, ids)
        has_tried.set()

    made = run(handler)
    may_end.set()
    assert has_tried.wait(10)
    assert made.said() == [(7, 0, b"early"), (7, [b"last"])]


def test_parts_of_a_client_that_has_gone_are_dropped_and_others_go_on() -> None:
    def handler(data: list[Row], context: Context) -> object:
        send(["1", "1"], context)
        made.gone = [7]
        send(["2", "2"], context)
        return ["last", "last"]

    made = bench(handler)
    made.assign(7, b"a", b"b")
    assert made.engine is not None
    made.engine.work()
    assert made.said() == [(7, 0, b"1"), (7, 1, b"1"), (7, 1, b"2"), (7, [b"last", b"last"])]


def test_a_batch_all_of_whose_clients_have_gone_is_not_run() -> None:
    made = bench(lambda data, context: pytest.fail("it ran"))
    made.assign(7, b"a", b"b")
    assert made.engine is not None
    made.engine.cancelled(7, (0, 1))
    made.engine.work()
    assert made.said() == [(7, ["Prediction failed"] * 2)]


@pytest.mark.parametrize("bad", [object(), "x" * 2000])
def test_a_part_that_cannot_be_sent_fails_its_request_alone_and_ends_its_stream(bad: object) -> None:
    def handler(data: list[Row], context: Context) -> object:
        send(["1", "1"], context)
        send([bad, "2"], context)
        send(["3", "3"], context)
        return ["last", "last"]

    *parts, done = run(handler, b"a", b"b", limit_bytes=1000).said()
    assert parts == [(7, 0, b"1"), (7, 1, b"1"), (7, 1, b"2"), (7, 1, b"3")]
    lease, [failed, fine] = done  # type: ignore[misc]  # the last is an answer
    assert (lease, fine) == (7, b"last")
    assert isinstance(failed, str)


def test_a_part_with_an_error_code_is_the_end_of_its_requests() -> None:
    def handler(data: list[Row], context: Context) -> object:
        send(["one"], context)
        SEND(None, context.request_ids or {}, "out of tokens", 429, context)
        return ["last"]

    made = run(handler)
    done = made.told[-1]
    assert isinstance(done, Done)
    assert (done.replies[0].status, made.said()) == (429, [(7, 0, b"one"), (7, ["out of tokens"])])


@pytest.mark.parametrize(
    ("code", "status"), [("500", 500), (None, 500), (42, 500), (1 << 70, 500), (413, 507)]
)
def test_a_part_whose_code_is_no_status_of_http_fails_its_request_alone(code: object, status: int) -> None:
    def handler(data: list[Row], context: Context) -> object:
        SEND(None, {0: (context.request_ids or {})[0]}, "no", code, context)  # type: ignore[arg-type]  # what a handler may do
        return bodies(data)

    done = run(handler, b"a", b"b").told[-1]
    assert isinstance(done, Done)
    assert [reply.status for reply in done.replies] == [status, 200]
    assert [codec.pack_response(reply)[1] for reply in done.replies] == [[], []]


def test_a_handler_that_raises_after_parts_fails_the_request() -> None:
    def handler(data: list[Row], context: Context) -> object:
        send(["one"], context)
        raise ValueError("no more")

    assert run(handler).said() == [(7, 0, b"one"), (7, ["Prediction failed"])]


def test_a_copy_of_the_context_leads_to_the_same_requests() -> None:
    def handler(data: list[Row], context: Context) -> object:
        send(["one"], copy.deepcopy(context))
        return ["last"]

    assert run(handler).said() == [(7, 0, b"one"), (7, [b"last"])]


def test_only_the_first_process_of_a_worker_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")

    def handler(data: list[Row], context: Context) -> object:
        send(["one"], context)
        return ["last"]

    assert run(handler).said() == [(7, [b"last"])]
    assert create_predict_response(["x"], {0: "r"}, "", 200) is None


def test_the_functions_are_at_their_old_place_too() -> None:
    assert otf_message_handler.send_intermediate_predict_response is send_intermediate_predict_response


def test_a_class_is_found_by_its_name() -> None:
    assert import_class("ts.context.Context") is Context
    assert import_class("context.Context", "ts") is Context
    assert import_class("Context", "ts.context") is Context


@pytest.mark.parametrize("name", ["", "Context", "ts.context.Nothing", "ts.context."])
def test_a_class_that_is_not_there_is_an_import_error(name: str) -> None:
    with pytest.raises(ImportError):
        import_class(name)
