"""What is sent to a model, and what is made of its answer."""

import json
from typing import Any

import numpy as np
import pytest

from torchrelay.client.call_failures import UnreadableAnswer
from torchrelay.client.http_calls import ReceivedAnswer
from torchrelay.client.inference_calls import Prediction, explain, infer, ping, predict
from torchrelay.shared.open_inference.tensors import TensorError


def test_a_prediction_names_the_model_the_version_and_what_is_behind_it() -> None:
    assert predict("a b", b"x").target == "/predictions/a%20b"
    assert (
        predict("m", b"x", version="1.0", path="/v1/completions").target
        == "/predictions/m/1.0/v1/completions"
    )
    assert explain("m", b"x", version="1.0").target == "/explanations/m/1.0"
    with pytest.raises(ValueError, match="version"):
        predict("m", b"x", path="v1")


@pytest.mark.parametrize(
    "given",
    [{"data": b"x", "json": 1}, {"json": None, "parts": {}}, {"data": b"x", "parts": {}}],
)
def test_one_thing_is_sent_at_a_time(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="one of"):
        predict("m", **given)
    with pytest.raises(TypeError, match="content type"):
        predict("m", json=1, content_type="a/b")


def test_nothing_can_be_sent_too_with_or_without_a_type() -> None:
    assert predict("m").body is None
    typed = predict("m", content_type="a/b").body
    assert typed is not None
    assert (typed.length, typed.content_type) == (0, "a/b")


@pytest.mark.parametrize("header", [("a b", "c"), ("", "c"), ("a", "c\r\nx: y"), ("a", "ü"), ("a", " c")])
def test_a_header_that_http_can_not_carry_is_refused(header: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="can't be sent"):
        predict("m", headers=dict([header]))
    with pytest.raises(ValueError, match="can't be sent"):
        infer("m", {"x": np.zeros(1)}, headers=dict([header]))
    for name in ("Content-Length", "content-type", "X-Request-Timeout-Ms"):
        with pytest.raises(ValueError, match="client's own"):
            predict("m", headers={name: "5"})
    assert predict("m", headers={"x-a": "b c\td", "x-empty": ""}).headers["x-empty"] == ""


@pytest.mark.parametrize("call", [predict("m", b"x"), explain("m", b"x")])
def test_a_prediction_runs_a_handler_so_that_it_is_not_simply_repeated(call: Any) -> None:
    assert (call.repeated, call.is_deadline_told, ping().repeated) == ("runs twice", True, "harmless")


def answered(content: bytes, **headers: str) -> Prediction:
    return predict("m").read(ReceivedAnswer("inference", "http://a:1", 200, headers, [content]))


def test_json_is_read_as_a_type_if_one_is_named() -> None:
    assert answered(b'{"a": [1]}').json() == {"a": [1]}
    assert answered(b'{"a": [1]}').json(dict[str, list[int]]) == {"a": [1]}
    assert str(answered(b"[NaN, Infinity]").json()) == "[nan, inf]"
    others: tuple[tuple[bytes, Any], ...] = (
        (b"<html>", Any), (b"", Any), (b'{"a": "b"}', dict[str, int]), (b"[" * 10**5, Any), (b'"\xff"', Any),
    )  # fmt: skip
    for content, kind in others:
        with pytest.raises(UnreadableAnswer):
            answered(content).json(kind)


def test_arrays_are_sent_as_they_lie() -> None:
    array = np.arange(4, dtype=np.int64)
    call = infer("m", {"x": array}, outputs=["y"], parameters={"p": 1}, id="7", version="2")
    assert call.body is not None
    head, data = call.body.pieces
    assert isinstance(data, memoryview)
    assert np.shares_memory(np.asarray(data), array)
    assert isinstance(head, bytes)
    said = json.loads(head)
    assert said["parameters"] == {"binary_data_output": True, "p": 1}
    assert (said["id"], said["outputs"]) == ("7", [{"name": "y"}])
    assert call.target == "/v2/models/m/versions/2/infer"
    with pytest.raises(TensorError, match="complex"):
        infer("m", {"x": np.zeros(2, complex)})


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"not json", {}),
        (b'{"outputs": [{"name": "y", "shape": [9], "datatype": "FP32", "data": [1]}]}', {}),
        (b'{"outputs": []}', {"Inference-Header-Content-Length": "999"}),
        (b'{"error": "no"}', {}),
    ],
)
def test_tensors_that_are_none_are_a_clear_error(content: bytes, headers: dict[str, str]) -> None:
    call = infer("m", {"x": np.zeros(1)})
    with pytest.raises(UnreadableAnswer, match="http://a:1"):
        call.read(ReceivedAnswer("inference", "http://a:1", 200, headers, [content]))
