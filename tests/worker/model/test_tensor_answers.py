"""Answers of the open inference protocol, from what handlers return."""

import json
from typing import Any  # whatever a handler returns

import numpy as np
import pytest
import torch
from ts.context import RequestProcessor

from torchrelay.shared.open_inference import infer_bodies
from torchrelay.shared.open_inference.infer_bodies import InferResponse, Wanted
from torchrelay.shared.open_inference.tensor_arrays import array_of
from torchrelay.shared.wire import codec
from torchrelay.worker.model import outputs
from torchrelay.worker.model.outputs import STREAM_HEADER
from torchrelay.worker.model.tensor_requests import TensorRequest

ALL, NONE = Wanted(by_default=True), Wanted()


def answer(
    value: object, wanted: Wanted | None = NONE, headers: dict[str, str] | None = None
) -> codec.Response:
    """Return the response for a request that wants its outputs so; None: for one of another protocol."""
    processor = RequestProcessor({})
    for name, text in (headers or {}).items():
        processor.add_response_property(name, text)
    if wanted is not None:
        processor.tensor_request = TensorRequest({}, "", wanted, id="7", model_name="m", model_version="1.0")
    return outputs.guarded_answer(outputs.answer, processor, value, 10_000)


def read(response: codec.Response) -> InferResponse:
    assert response.error is None, response.error
    body = response.body
    assert isinstance(body, bytes)
    said = dict(response.headers).get(infer_bodies.HEADER_LENGTH.lower())
    return infer_bodies.decode_response([body], infer_bodies.header_length_of(said, len(body)))


X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("data", [X, torch.from_numpy(X), torch.from_numpy(X).requires_grad_()])
@pytest.mark.parametrize("wanted", [ALL, NONE, Wanted(named={"y": True})])
def test_an_array_goes_out_as_its_request_wants_it(data: Any, wanted: Wanted) -> None:
    response = answer({"outputs": [{"name": "y", "data": data, "parameters": {"p": 1}}]}, wanted)
    is_binary = wanted.is_binary("y")
    kind = "application/octet-stream" if is_binary else "application/json"
    assert dict(response.headers)["content-type"] == kind
    said = read(response)
    assert (said.id, said.model_name, said.model_version) == ("7", "m", "1.0")
    (output,) = said.outputs
    assert (output.datatype, output.shape, output.parameters) == ("FP32", [2, 3], {"p": 1})
    assert output.is_packed == is_binary
    np.testing.assert_array_equal(array_of(output), X)


def test_a_handlers_own_names_stay() -> None:
    said = read(answer({"id": "a", "model_name": "b", "model_version": "c", "parameters": {"d": 1},
                        "outputs": [{"name": "y", "data": X}]}))  # fmt: skip
    assert (said.id, said.model_name, said.model_version, said.parameters) == ("a", "b", "c", {"d": 1})


def test_lists_are_binary_where_that_is_wanted() -> None:
    value = {"outputs": [
        {"name": "y", "datatype": "INT64", "shape": (2,), "data": [1, 2]},
        {"name": "z", "datatype": "BYTES", "shape": [2], "data": ["a", {"cat": 0.5}]},
    ]}  # fmt: skip
    y, z = read(answer(value, ALL)).outputs
    assert (y.is_packed, y.values(), z.values()) == (True, [1, 2], [b"a", b'{"cat": 0.5}'])


def test_bfloat16_and_texts_have_their_datatypes() -> None:
    half = torch.tensor([1.0, 2.5], dtype=torch.bfloat16)
    value = {"outputs": [{"name": "y", "data": half}, {"name": "z", "data": np.array(["ä"])}]}
    y, z = read(answer(value, ALL)).outputs
    assert (y.datatype, y.values()) == ("BF16", [1.0, 2.5])
    assert (z.datatype, z.values()) == ("BYTES", ["ä".encode()])
    assert json.loads(answer(value).body)["outputs"][1]["data"] == ["ä"]  # type: ignore[arg-type]


def test_an_answer_of_lists_is_json_as_the_handler_has_it_and_says_whose_it_is() -> None:
    outputs = [{"name": "y", "datatype": "INT8", "shape": [1], "data": [1]}]
    response = answer({"outputs": outputs, "id": None, "more": 1})
    told = {"outputs": outputs, "id": "7", "more": 1, "model_name": "m", "model_version": "1.0"}
    assert (response.body, response.headers) == (json.dumps(told, indent=2).encode(), ())
    complete = {"id": "a", "model_name": "b", "model_version": "c", "outputs": outputs}
    assert answer(complete) == answer(complete, None)


@pytest.mark.parametrize("wanted", [ALL, NONE])
@pytest.mark.parametrize("value", [{"outputs": 7}, {"outputs": [7]}, {"other": []}, [1], "text", b"bytes"])
def test_what_is_no_answer_of_the_protocol_is_not_made_one(value: object, wanted: Wanted) -> None:
    assert answer(value, wanted) == answer(value, None)


def test_arrays_go_out_as_json_whichever_route_asked() -> None:
    said = json.loads(answer({"outputs": [{"name": "y", "data": X}]}, None).body)  # type: ignore[arg-type]
    assert said == {
        "outputs": [{"name": "y", "shape": [2, 3], "datatype": "FP32", "data": X.ravel().tolist()}]
    }


def test_a_handler_may_answer_with_what_it_was_given() -> None:
    body = {"inputs": [{"name": "x", "data": X}, {"name": "t", "data": np.array([b"a"], object)}]}
    told = json.loads(answer(body).body)  # type: ignore[arg-type]
    assert [one["data"] for one in told["inputs"]] == [X.tolist(), ["a"]]
    assert answer(body, None).error is not None


def test_the_parts_of_a_stream_are_json() -> None:
    response = answer({"outputs": [{"name": "y", "data": X}]}, ALL, {STREAM_HEADER: "true"})
    assert not read(response).outputs[0].is_packed


def test_a_handlers_content_type_gives_way_to_that_of_the_body() -> None:
    response = answer({"outputs": [{"name": "y", "data": X}]}, ALL, {"content-type": "text/plain"})
    assert [value for name, value in response.headers if name.lower() == "content-type"] == [
        "application/octet-stream"
    ]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"data": X}, "an output has no name"),
        ({"name": 7, "data": X}, "name is a int"),
        ({"name": "y", "data": X, "datatype": "INT8"}, "an array of float32 is said to be INT8"),
        ({"name": "y", "data": X, "shape": [6]}, "its shape is (2, 3), and said to be [6]"),
        ({"name": "y", "data": np.zeros(1, complex)}, "no datatype for arrays of complex128"),
        ({"name": "y", "data": [1], "datatype": "INT8"}, "a list for its data, and no shape"),
        ({"name": "y", "data": [1], "datatype": "INT8", "shape": ["1"]}, "a list for its data, and no shape"),
        ({"name": "y", "data": [1], "shape": [1]}, "the datatype is ,"),
        ({"name": "y", "data": [1.5], "datatype": "INT8", "shape": [1]}, "are not of INT8"),
        ({"name": "y", "data": [1], "datatype": "INT8", "shape": [2]}, "1 values, and the shape [2] has 2"),
        ({"name": "y", "data": "text"}, "are a str, no array and no list"),
    ],
)
def test_an_output_that_is_no_tensor_fails_its_request_and_says_why(
    output: dict[str, Any], said: str
) -> None:
    response = answer({"outputs": [output]}, ALL)
    assert response.error is not None
    assert response.error[1] == "Unsupported model output data type."
    assert said in response.error[2]


def test_an_answer_above_the_limit_fails() -> None:
    response = answer({"outputs": [{"name": "y", "data": np.zeros(20_000, np.int8)}]}, ALL)
    assert response.error is not None
    assert "max_response_size is 10000" in response.error[1]
