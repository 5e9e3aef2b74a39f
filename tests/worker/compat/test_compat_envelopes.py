"""What each request envelope makes of requests and answers, number by number as TorchServe does."""

import json
from collections.abc import Callable
from typing import Any  # what clients send and handlers return

import numpy as np
import pytest
from ts.context import Context, RequestProcessor
from ts.model_loader import wrap

MANIFEST = {"model": {"modelName": "in-the-manifest", "modelVersion": "1.5"}}


def make_context(requests: int = 1, **headers: str) -> Context:
    context = Context("registered", "/", MANIFEST, requests, None, "0")
    context.request_processor = [RequestProcessor(dict(headers)) for _ in range(requests)]
    context.request_ids = {index: f"request-{index}" for index in range(requests)}
    return context


def seen_by(envelope: str, rows: Any, answers: Any = None, context: Context | None = None) -> tuple[Any, Any]:
    """Return what a handler gets through an envelope, and what becomes of its answers (the rows, if None)."""
    seen: list[Any] = []

    def handle(data: Any, context: Context) -> Any:
        seen.append(data)
        return data if answers is None else answers

    result = wrap(handle, envelope)(rows, context or make_context(len(rows or ())))
    return seen[0], result


@pytest.mark.parametrize("envelope", ["body", "json", "kserve", "kservev2"])
@pytest.mark.parametrize("nothing", [None, []])
def test_without_rows_or_answers_there_is_nothing_to_wrap(envelope: str, nothing: Any) -> None:
    assert seen_by(envelope, nothing, answers=[]) == (nothing, [])


def test_answers_to_no_instances_are_nobodys() -> None:
    assert seen_by("json", [], answers=[1, 2]) == ([], [])


def test_a_body_envelope_hands_each_body_over() -> None:
    rows = [{"body": [1, 2]}, {"data": b"x", "body": b"y"}, {"other": 1}]
    assert seen_by("body", rows, ["answer"]) == ([[1, 2], b"x", None], ["answer"])


def test_a_json_envelope_joins_the_instances_of_a_batch_and_shares_the_answers_out() -> None:
    rows = [{"body": {"instances": [1, 2]}}, {"data": {"instances": [[3]]}}, {"instances": ["a", "b", "c"]}]
    seen, answers = seen_by("json", rows)
    assert seen == [1, 2, [3], "a", "b", "c"]
    assert answers == [
        '{"predictions": [1, 2]}',
        '{"predictions": [[3]]}',
        '{"predictions": ["a", "b", "c"]}',
    ]


def test_a_json_envelope_decodes_bytes_whole_or_as_fields() -> None:
    instances = [{"b64": "aGk="}, {"image": {"b64": "aGk="}, "size": {"width": 3}, "name": "x"}]
    seen, _ = seen_by("json", [{"body": {"instances": instances}}], answers=[1, 2])
    assert seen == [b"hi", {"image": b"hi", "size": {"width": 3}, "name": "x"}]


@pytest.mark.parametrize(
    "body", [b'{"instances": [1]}', {"other": 1}, {"instances": []}, [1], {"instances": [{"a": 1}, 2]}, "x"]
)
def test_a_json_envelope_refuses_what_has_no_instances(body: Any) -> None:
    with pytest.raises((TypeError, KeyError, IndexError, AttributeError)):
        seen_by("json", [{"body": body}], answers=[1])


@pytest.mark.parametrize("body", [{"instances": ["a", "b"]}, b'{"instances": ["a", "b"]}'])
@pytest.mark.parametrize(
    ("explain", "key"), [("False", "predictions"), ("True", "explanations"), ("true", "predictions")]
)
def test_a_kserve_envelope_takes_the_first_requests_instances(body: Any, explain: str, key: str) -> None:
    context = make_context(explain=explain)
    rows = [{"body": body}, {"body": "never looked at"}]
    assert seen_by("kserve", rows, context=context) == (["a", "b"], [{key: ["a", "b"]}])


def test_a_kserve_envelope_without_instances_hands_over_none() -> None:
    assert seen_by("kserve", [{"body": {"other": 1}}]) == (None, None)


@pytest.mark.parametrize("body", [[1, 2], b"no json", b"\xff", "text", None])
def test_a_kserve_envelope_refuses_what_is_no_object(body: Any) -> None:
    with pytest.raises((AttributeError, ValueError)):
        seen_by("kserve", [{"body": body}])


def v2(datatype: str, data: list[Any], shape: list[int], **body: Any) -> dict[str, Any]:
    tensor = {"name": "in-0", "shape": shape, "datatype": datatype, "data": data}
    return {"inputs": [tensor], **body}


@pytest.mark.parametrize("pack", [lambda body: body, lambda body: json.dumps(body).encode()])
def test_a_kservev2_envelope_shapes_numbers_and_unwraps_bytes(pack: Callable[[Any], Any]) -> None:
    body = v2("INT64", [1, 2, 3, 4], [2, 2])
    body["inputs"].append({"name": "in-1", "shape": [1], "datatype": "BYTES", "data": ["text"]})
    seen, answers = seen_by("kservev2", [{"body": pack(body)}], answers=[[1, 2], [0.5]])
    assert [tensor["data"] for tensor in seen] == [[[1, 2], [3, 4]], "text"]
    assert answers == [
        {
            "id": "request-0",
            "model_name": "in-the-manifest",
            "model_version": "1.5",
            "outputs": [
                {"name": "in-0", "datatype": "INT64", "data": [1, 2], "shape": (2,)},
                {"name": "in-1", "datatype": "FP64", "data": [0.5], "shape": (1,)},
            ],
        }
    ]


@pytest.mark.parametrize(
    ("answer", "datatype", "data"),
    [
        ([[1, 2], [3, 4]], "INT64", [1, 2, 3, 4]),
        (2.5, "FP64", [2.5]),
        (True, "BOOL", [True]),
        ("text", "BYTES", ["text"]),
        ({"cat": 0.5}, "BYTES", [{"cat": 0.5}]),
        (np.array([1.5], dtype="float32"), "FP32", [1.5]),
        (np.array([1], dtype="uint8"), "UINT8", [1]),
    ],
)
def test_a_kservev2_envelope_flattens_answers_and_names_their_type(
    answer: Any, datatype: str, data: list[Any]
) -> None:
    _, (whole,) = seen_by("kservev2", [{"body": v2("INT64", [1], [1])}], answers=[answer])
    expected = {"name": "in-0", "datatype": datatype, "data": data, "shape": (len(data),)}
    assert whole["outputs"] == [expected]


def test_a_kservev2_envelope_answers_the_requests_own_id_once() -> None:
    context = make_context()
    _, (first,) = seen_by("kservev2", [{"body": v2("INT64", [1], [1], id="mine")}], [1], context)
    _, (second,) = seen_by("kservev2", [{"body": v2("INT64", [1], [1], id=" ")}], [1], context)
    assert (first["id"], second["id"]) == ("mine", "request-0")
    assert "input_names" not in vars(context)


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [1]},
        [1],
        b"no json",
        v2("INT64", [1, 2, 3], [2, 2]),
        {"inputs": [{"name": "a", "datatype": "INT64", "data": [1]}]},
        {"inputs": [{"datatype": "BYTES", "data": ["a"]}]},
        {"inputs": "x"},
    ],
)
def test_a_kservev2_envelope_refuses_what_is_no_inputs(body: Any) -> None:
    with pytest.raises((TypeError, KeyError, ValueError)):
        seen_by("kservev2", [{"body": body}], answers=[1])


def test_an_envelope_that_nobody_knows_is_not_there() -> None:
    with pytest.raises(ModuleNotFoundError, match="nonsense"):
        wrap(lambda data, context: data, "nonsense")
