import asyncio
import http
import io
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from ts.context import Context
from ts.metrics.metrics_cache import MetricsCache
from ts.utils.util import PredictionException

from torchrelay.shared.wire import codec
from torchrelay.worker.model.held_leases import AssignedJob, Batch
from torchrelay.worker.model.inputs import Row
from torchrelay.worker.model.loading import LoadedModel
from torchrelay.worker.model.runner import Runner

Handler = Callable[[list[Row], Context], object]
Input = tuple[str, str, bytes]


def run(
    handler: Handler,
    *requests: Sequence[Input],
    headers: Sequence[tuple[str, str]] = (),
    is_describe: bool = False,
    decode_input: bool = True,
    response_limit_bytes: int = 1_000_000,
) -> list[codec.Response]:
    """Run one batch through the codec, as the broker sends it."""
    context = Context("m", "/", {}, 1, None, "0", metrics=MetricsCache("m"))
    model = LoadedModel(lambda data, context: handler(data or [], context), context)
    runner = Runner(model=model, decode_input=decode_input, response_limit_bytes=response_limit_bytes)
    jobs = [
        AssignedJob(*codec.pack_request(f"id-{idx}", headers, inputs))
        for idx, inputs in enumerate(requests or [[]])
    ]
    part_sender = runner.new_part_sender(context, lambda parts: None)
    responses, handler_us = runner.run(part_sender, Batch(1, is_describe, jobs))
    assert handler_us >= 0
    return responses


def body(value: bytes = b"x", content_type: str = "") -> list[Input]:
    return [("body", content_type, value)]


def seen(content_type: str, value: bytes, *, decode_input: bool = True) -> object:
    rows: list[Row] = []

    def handler(data: list[Row], context: Context) -> object:
        rows.extend(data)
        return [""] * len(data)

    run(handler, body(value, content_type), decode_input=decode_input)
    return rows[0]["body"]


def answer(value: object) -> codec.Response:
    [response] = run(lambda data, context: [value], body())
    return response


def failure(raised: BaseException | None = None, returned: object = None, rows: int = 1) -> codec.Response:
    def handler(data: list[Row], context: Context) -> object:
        if raised is not None:
            raise raised
        return returned

    first, *others = run(handler, *[body()] * rows)
    assert others == [first] * (rows - 1)
    return first


@pytest.mark.parametrize(
    ("content_type", "value", "expected"),
    [
        ("", b"hello", bytearray(b"hello")),
        ("", b"", bytearray()),
        ("application/json", b'{"a": [1, 2.5, null, true]}', {"a": [1, 2.5, None, True]}),
        ("application/json; charset=utf-8", b"[1]", [1]),
        ("application/json", b"null", None),
        ("Application/JSON", b"[1]", bytearray(b"[1]")),
        ("application/vnd.api+json", b"[1]", bytearray(b"[1]")),
        ("application/json", b'{"a": ', bytearray(b'{"a": ')),
        ("application/json", b"", bytearray()),
        ("application/json", b'{"a": "\xff"}', bytearray(b'{"a": "\xff"}')),
        ("application/json", b"[" * 100_000, bytearray(b"[" * 100_000)),
        ("text/plain", "plain é".encode(), "plain é"),
        ("text/html; charset=iso-8859-1", b"<p>", "<p>"),
        ("text/plain", b"\xff\xfe", bytearray(b"\xff\xfe")),
        ("Text/plain", b"t", bytearray(b"t")),
        ("application/octet-stream", b"\0\1", bytearray(b"\0\1")),
        ("image/png", b"x" * 20_000, bytearray(b"x" * 20_000)),
    ],
)
def test_inputs_are_decoded_by_their_exact_content_type(
    content_type: str, value: bytes, expected: object
) -> None:
    decoded = seen(content_type, value)
    assert decoded == expected
    assert type(decoded) is type(expected)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_nothing_is_decoded_when_that_is_switched_off(content_type: str) -> None:
    assert seen(content_type, b"1", decode_input=False) == bytearray(b"1")


def test_of_an_input_that_comes_twice_the_last_survives() -> None:
    def handler(data: list[Row], context: Context) -> object:
        return [{name: str(value) for name, value in row.items()} for row in data]

    [response] = run(
        handler, [("a", "text/plain", b"1"), ("b", "text/plain", b"2"), ("a", "text/plain", b"3")]
    )
    assert json.loads(_bytes(response)) == {"a": "3", "b": "2"}


def test_headers_keep_their_spelling_and_show_the_type_of_each_input() -> None:
    def handler(data: list[Row], context: Context) -> object:
        return [context.get_all_request_header(0)]

    headers = [("X-Golden", "one"), ("X-Golden", "two"), ("explain", "False"), ("aUTHORIZATION", "Bearer s")]
    [response] = run(handler, body(b"{}", "application/json; charset=utf-8"), headers=headers)
    assert json.loads(_bytes(response)) == {
        "body": {"content-type": "application/json"},
        "X-Golden": "two",
        "explain": "False",
        "aUTHORIZATION": "Bearer s",
    }


def test_a_handler_sees_the_requests_ids_and_headers_of_its_own_batch() -> None:
    def handler(data: list[Row], context: Context) -> object:
        return [
            [context.get_request_id(idx), context.get_request_header(idx, "a"), context.get_sequence_id(idx)]
            for idx in range(len(data))
        ]

    responses = run(handler, body(), body(), headers=[("a", "b")])
    assert [json.loads(_bytes(item)) for item in responses] == [["id-0", "b", None], ["id-1", "b", None]]


def test_a_description_is_an_empty_row_with_its_header() -> None:
    def handler(data: list[Row], context: Context) -> object:
        return [{"row": data[0], "describe": context.get_request_header(0, "describe")}]

    [response] = run(handler, [], is_describe=True)
    assert json.loads(_bytes(response)) == {"row": {}, "describe": "True"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\0\xff", b"\0\xff"),
        (b"", b""),
        (bytearray(b"array"), b"array"),
        ("héllo", "héllo".encode()),
        (
            {"b": 2, "a": [1, 2.5, None, True]},
            b'{\n  "b": 2,\n  "a": [\n    1,\n    2.5,\n    null,\n    true\n  ]\n}',
        ),
        ({"t": "é"}, b'{\n  "t": "\\u00e9"\n}'),
        ({1: "one"}, b'{\n  "1": "one"\n}'),
        ((1, "two"), b'[\n  1,\n  "two"\n]'),
        ([], b"[]"),
        (7, b"7"),
        (True, b"true"),
        (None, b"null"),
        (math.nan, b"NaN"),
        (math.inf, b"Infinity"),
    ],
)
def test_answers_are_encoded_as_torchserve_does(value: object, expected: bytes) -> None:
    response = answer(value)
    assert response == codec.Response(200, "", (), expected)


def test_a_tensor_goes_out_as_a_saved_file() -> None:
    saved = io.BytesIO(_bytes(answer(torch.tensor([1.0, 2.0]))))
    assert torch.load(saved, weights_only=True).tolist() == [1.0, 2.0]


def test_status_headers_and_content_type_are_set_row_by_row() -> None:
    def handler(data: list[Row], context: Context) -> object:
        context.set_response_content_type(0, "text/csv")
        context.set_response_header(0, "X-Own", "value")
        context.set_response_status(code=799, phrase="Very Fine", idx=1)
        return ["a", "b", "c"]

    assert run(handler, body(), body(), body()) == [
        codec.Response(200, "", (("content-type", "text/csv"), ("X-Own", "value")), b"a"),
        codec.Response(799, "Very Fine", (), b"b"),
        codec.Response(200, "", (), b"c"),
    ]


def test_one_status_can_be_set_for_all() -> None:
    def handler(data: list[Row], context: Context) -> object:
        context.set_all_response_status(code=202)
        return ["x"] * len(data)

    assert [item.status for item in run(handler, body(), body())] == [202, 202]


@pytest.mark.parametrize(
    ("name", "value"),
    [("X-Number", 5), ("X-None", None), (3, "x"), ("X-Break", "a\r\nSet-Cookie: b"), ("X-Sign", "你")],
)
def test_a_header_that_http_cannot_carry_fails_its_row_alone(name: object, value: object) -> None:
    def handler(data: list[Row], context: Context) -> object:
        context.set_response_header(0, name, value)  # type: ignore[arg-type]  # what a handler may do
        return ["a", "b"]

    bad, good = run(handler, body(), body())
    assert bad.status == 503
    assert bad.error is not None
    assert bad.error[:2] == ("PredictionFailed", "Prediction failed")
    assert repr(name) in bad.error[2]
    assert good.body == b"b"


@pytest.mark.parametrize(
    ("raised", "status", "error"),
    [
        (ValueError("bad pixel"), 503, ("PredictionFailed", "Prediction failed", "ValueError: bad pixel")),
        (KeyError("k"), 503, ("PredictionFailed", "Prediction failed", "KeyError: 'k'")),
        (RuntimeError("one\ntwo"), 503, ("PredictionFailed", "Prediction failed", "RuntimeError: one")),
        (OSError(), 503, ("PredictionFailed", "Prediction failed", "OSError")),
        (MemoryError("no"), 507, ("OutOfResources", "Out of resources", "MemoryError: no")),
        (RuntimeError("CUDA error"), 507, ("OutOfResources", "Out of resources", "RuntimeError: CUDA error")),
        (PredictionException("for you", 513), 513, ("PredictionFailed", "for you", "")),
        (PredictionException("for you", 400), 400, ("PredictionFailed", "for you", "")),
        (PredictionException("for you", 413), 507, ("PredictionFailed", "for you", "")),
        (PredictionException("for you"), 500, ("PredictionFailed", "for you", "")),
        (PredictionException("for you", 42), 500, ("PredictionFailed", "for you", "")),
        (PredictionException("for you", 1 << 70), 500, ("PredictionFailed", "for you", "")),
        (PredictionException("for you", "404"), 500, ("PredictionFailed", "for you", "")),  # type: ignore[arg-type]  # what a handler may do
    ],
)
def test_what_a_handler_raises_fails_its_whole_batch(
    raised: BaseException, status: int, error: tuple[str, str, str]
) -> None:
    response = failure(raised=raised, rows=3)
    assert (response.status, response.error) == (status, error)
    assert codec.unpack_response(codec.pack_response(response)[0], [])[0].error == error


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (PredictionException("no \ud800", 404), ("PredictionFailed", "no \\ud800", "")),
        (OSError("no \udcff"), ("PredictionFailed", "Prediction failed", "OSError: no \\udcff")),
    ],
)
def test_a_message_that_is_no_text_is_escaped(
    raised: Exception, error: tuple[str, str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(
        "CRITICAL", "torchrelay.worker.common.handler_errors"
    )  # pytest can't hand the log's copy of it on
    response = failure(raised=raised)
    assert codec.unpack_response(codec.pack_response(response)[0], [])[0].error == error


@pytest.mark.parametrize(
    ("returned", "message", "details"),
    [
        ({"not": "a list"}, "Invalid model predict output", "the handler returned a dict, not a list"),
        ("text", "Invalid model predict output", "the handler returned a str, not a list"),
        (None, "Invalid model predict output", "the handler returned a NoneType, not a list"),
        (("row", "row"), "Invalid model predict output", "the handler returned a tuple, not a list"),
        ([], "number of batch response mismatched", "the handler returned 0 rows for a batch of 2"),
        (["r"] * 3, "number of batch response mismatched", "the handler returned 3 rows for a batch of 2"),
    ],
)
def test_an_output_that_is_no_list_of_the_batchs_length_fails_it(
    returned: object, message: str, details: str
) -> None:
    response = failure(returned=returned, rows=2)
    assert (response.status, response.error) == (503, ("PredictionFailed", message, details))


@pytest.mark.parametrize("value", [{1, 2}, object(), {"k": {1}}, "\ud800", {(1, 2): 3}])
def test_a_row_that_has_no_encoding_fails_alone(value: object) -> None:
    bad, good = run(lambda data, context: [value, "fine"], body(), body())
    assert bad.status == 503
    assert bad.error is not None
    assert bad.error[:2] == ("PredictionFailed", "Unsupported model output data type.")
    assert good.body == b"fine"


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [(RuntimeError("no storage"), 503, "Prediction failed"), (MemoryError(), 507, "Out of resources")],
)
def test_a_row_whose_own_code_fails_while_it_is_encoded_fails_alone(
    fault: Exception, status: int, message: str
) -> None:
    class Text(str):
        __slots__ = ()

        def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
            raise fault

    bad, good = run(lambda data, context: [Text("x"), "fine"], body(), body())
    assert bad.error is not None
    assert (bad.status, bad.error[1], good.body) == (status, message, b"fine")


@pytest.mark.parametrize("code", [42, 199, 1000, -1, pytest.param(10**5000, id="no text either")])
def test_a_status_that_http_has_not_fails_its_row_alone(code: int) -> None:
    def handler(data: list[Row], context: Context) -> object:
        context.set_response_status(code=code, idx=0)
        return ["a", "b"]

    bad, good = run(handler, body(), body())
    assert (bad.status, good.status) == (503, 200)
    assert bad.error == ("PredictionFailed", "Prediction failed", "the status is not from 200 to 999")


def test_a_row_above_max_response_size_fails_alone_and_names_the_setting() -> None:
    large, exact = run(lambda data, context: ["x" * 11, "x" * 10], body(), body(), response_limit_bytes=10)
    assert large.status == 500
    assert large.error is not None
    assert large.error[1] == "The response has 11 bytes, max_response_size is 10."
    assert exact.body == b"x" * 10


def test_a_job_that_cannot_be_read_fails_alone() -> None:
    context = Context("m", "/", {}, 1, None, "0")
    model = LoadedModel(lambda data, context: ["ok"] * len(data or ()), context)
    runner = Runner(model=model, decode_input=True, response_limit_bytes=100)
    good = AssignedJob(*codec.pack_request("r", [], body()))
    without_frame, _ = codec.pack_request("r", [], body(b"x" * 10_000))
    part_sender = runner.new_part_sender(context, lambda parts: None)
    responses, _ = runner.run(
        part_sender, Batch(1, False, [AssignedJob(without_frame), good, AssignedJob(b"\xc1")])
    )
    assert [item.error and item.error[0] for item in responses] == ["InternalError", None, "InternalError"]
    assert responses[1].body == b"ok"


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Interrupted(BaseException):
    """What libraries stop a thread with."""


class Evasive(Exception):
    """Raises where a traceback of it is written."""

    def __getattribute__(self, name: str) -> object:
        if name in ("__cause__", "__context__", "__suppress_context__", "__traceback__"):
            raise RuntimeError(name)
        return super().__getattribute__(name)


class Foreign(PredictionException):
    def __init__(self) -> None:
        pass  # so that it has neither a message nor a code


class Shout(str):
    """A text of a class of its own, as libraries have them."""

    __slots__ = ()

    def __str__(self) -> str:
        return Shout(self.upper())

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return 5  # type: ignore[return-value]  # what a handler may do


class Liar(list[object]):
    """A list that says it is longer than it is."""

    def __len__(self) -> int:
        return 7

    def __iter__(self) -> Iterator[object]:
        raise RuntimeError("not today")


@pytest.mark.parametrize(
    ("raised", "details"),
    [
        (Unspeakable(), "Unspeakable: <Unspeakable without a text>"),
        (Interrupted("stop"), "Interrupted: stop"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (asyncio.CancelledError(), "CancelledError"),
        (Evasive("x"), "Evasive: x"),
        (ValueError(Shout("quiet")), "ValueError: QUIET"),
        (ValueError("x" * 10_000_000), f"ValueError: {'x' * 10_000}"[:500] + "..."),
    ],
)
def test_whatever_a_handler_raises_fails_its_batch_alone(
    raised: BaseException, details: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(
        "CRITICAL", "torchrelay.worker.common.handler_errors"
    )  # pytest can't hand the log's copy of it on
    response = failure(raised=raised, rows=2)
    assert (response.status, response.error) == (503, ("PredictionFailed", "Prediction failed", details))
    assert codec.unpack_response(codec.pack_response(response)[0], [])[0].error == response.error


def test_a_refusal_without_its_message_fails_its_batch_alone() -> None:
    response = failure(raised=Foreign(), rows=2)
    assert (response.status, response.error and response.error[0]) == (503, "PredictionFailed")


def test_the_log_of_an_exception_that_cannot_be_written_costs_no_worker() -> None:
    """As a worker has it, where nobody looks at what its log costs."""
    log, handler = (
        logging.getLogger("torchrelay.worker.common.handler_errors"),
        logging.StreamHandler(io.StringIO()),
    )
    log.addHandler(handler)
    log.propagate = False
    try:
        assert failure(raised=Evasive("x")).error is not None
        assert failure(raised=Unspeakable()).error is not None
    finally:
        log.removeHandler(handler)
        log.propagate = True


def test_of_an_output_of_a_class_of_its_own_the_items_count() -> None:
    assert [item.body for item in run(lambda data, context: Liar(["a", "b"]), body(), body())] == [b"a", b"b"]
    assert failure(returned=Liar(["a"]), rows=2).error is not None


def test_a_text_that_encodes_to_no_bytes_fails_alone() -> None:
    bad, good = run(lambda data, context: [Shout("x"), "fine"], body(), body())
    assert (bad.status, good.body) == (503, b"fine")


def test_what_a_handler_sets_can_be_sent_whatever_its_classes_are() -> None:
    class Code(int):
        pass

    def handler(data: list[Row], context: Context) -> object:
        context.set_response_header(0, Shout("X-Own"), Shout("value"))
        context.set_response_status(Code(201), Shout("Made"), 0)
        context.set_response_status(http.HTTPStatus.ACCEPTED, "", 1)
        return [bytearray(b"a"), b"b"]

    made, accepted = run(handler, body(), body())
    assert made == codec.Response(201, "Made", (("X-Own", "value"),), b"a")
    assert {type(part) for part in (made.reason, *made.headers[0])} == {str}
    assert (type(made.status), type(accepted.status), accepted.status) == (int, int, 202)


def test_a_handler_that_throws_away_its_responses_fails_its_batch_alone() -> None:
    def handler(data: list[Row], context: Context) -> object:
        context.request_processor = []
        context.request_ids = None
        return ["a"] * len(data)

    assert [item.status for item in run(handler, body(), body())] == [503, 503]


def test_a_handler_that_exits_ends_the_run() -> None:
    def handler(data: list[Row], context: Context) -> object:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        run(handler, body())


def _bytes(response: codec.Response) -> bytes:
    assert isinstance(response.body, bytes)
    assert response.error is None, response.error
    return response.body
