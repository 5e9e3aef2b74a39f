"""Bodies come back as they were written, as JSON and as binary data; hostile ones are refused in words."""

import json
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shared.open_inference.test_tensors import tensors
from torchrelay.shared.open_inference import infer_bodies as bodies
from torchrelay.shared.open_inference.infer_bodies import InferRequest, InferResponse, Wanted, WantedOutput
from torchrelay.shared.open_inference.tensors import Tensor, TensorError

X = {"name": "x", "shape": [2], "datatype": "INT8", "data": [1, 2]}


def binary(size: Any, shape: Any = (2,), datatype: str = "INT8") -> dict[str, Any]:
    return {"name": "x", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}


def read(message: Any, data: bytes = b"") -> InferRequest:
    head = json.dumps(message).encode()
    return bodies.decode_request([head + data], len(head) if data else None)


def _is_text(tensor: Tensor) -> bool:
    if tensor.datatype != "BYTES":
        return True
    try:
        return all(str(one, "utf-8") is not None for one in tensor.values())  # type: ignore[call-overload]
    except UnicodeDecodeError:
        return False


@given(st.lists(tensors(), max_size=4), st.text(max_size=5), st.booleans())
def test_a_request_comes_back_as_it_was(inputs: list[Tensor], name: str, is_binary: bool) -> None:
    request = InferRequest(
        inputs, id=name, parameters={"binary_data_output": True},
        outputs=[WantedOutput("a", {"binary_data": False}), WantedOutput("b")],
    )  # fmt: skip
    if not is_binary and not all(map(_is_text, inputs)):
        with pytest.raises(TensorError, match="no UTF-8"):
            bodies.encode_request(request, is_binary=False)
        return
    body = bodies.encode_request(request, is_binary=is_binary)
    read = bodies.decode_request([body.joined()], body.header_length)
    assert [(one.name, one.datatype, one.parameters) for one in read.inputs] == [
        (one.name, one.datatype, {}) for one in inputs
    ]
    for found, made in zip(read.inputs, inputs, strict=True):
        assert tuple(found.shape) == tuple(made.shape)
        assert found.packed() == made.packed()
    assert (read.id, read.parameters, read.outputs) == (request.id, request.parameters, request.outputs)
    assert read.wanted == Wanted(by_default=True, named={"a": False})


@given(st.lists(tensors(), max_size=4, unique_by=lambda one: one.name), st.data())
def test_outputs_are_binary_where_they_are_wanted_so(outputs: list[Tensor], data: st.DataObject) -> None:
    wanted = Wanted(named={one.name: one.datatype == "BYTES" or data.draw(st.booleans()) for one in outputs})
    body = bodies.encode_response(InferResponse(outputs, "1", "m", "2.0"), wanted)
    # Whether or not it came in the pieces that it was made in.
    for pieces in ([body.joined()], body.pieces):
        read = bodies.decode_response(pieces, body.header_length)
        assert (read.id, read.model_name, read.model_version) == ("1", "m", "2.0")
        assert [one.is_packed for one in read.outputs] == [wanted.is_binary(one.name) for one in outputs]
        assert [one.packed() for one in read.outputs] == [one.packed() for one in outputs]


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["inputs", "name", "shape", "datatype", "data", "parameters", "binary_data_size"]),
        inner, max_size=6,
    ),
), st.binary(max_size=8))  # fmt: skip
def test_any_json_is_a_request_or_an_error(message: Any, data: bytes) -> None:
    with suppress(TensorError):
        for one in read(message, data).inputs:
            assert len(one.values()) == one.count


@given(st.binary(max_size=64), st.none() | st.integers(0, 80))
def test_any_bytes_are_a_request_or_an_error(body: bytes, header_length: int | None) -> None:
    with suppress(TensorError):
        assert bodies.decode_request([body], header_length) is not None


@pytest.mark.parametrize(
    ("message", "data", "said"),
    [
        ({}, b"", "missing required field `inputs`"),
        ([], b"", "Expected `object`"),
        ({"inputs": [{"name": "x"}]}, b"", "missing required field `shape` - at `$.inputs[0]`"),
        ({"inputs": [{**X, "shape": [-1]}]}, b"", ">= 0 - at `$.inputs[0].shape[0]`"),
        ({"inputs": [{**X, "shape": [2**63]}]}, b"", "at `$.inputs[0].shape[0]`"),
        ({"inputs": [{**X, "shape": [1.5]}]}, b"", "got `float` - at `$.inputs[0].shape[0]`"),
        ({"inputs": [{**X, "datatype": 7}]}, b"", "at `$.inputs[0].datatype`"),
        ({"inputs": [{**X, "data": "12"}]}, b"", "at `$.inputs[0].data`"),
        ({"inputs": [X] * (bodies.TENSORS_LIMIT + 1)}, b"", "length <= 1000"),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "INT8"}]}, b"", "Tensor 'x' has no data"),
        ({"inputs": [X]}, b"12", "2 bytes are left behind the data"),
        ({"inputs": [binary(3)]}, b"12", "binary_data_size is 3, and 2 bytes are left"),
        ({"inputs": [binary(2), binary(1)]}, b"12", "binary_data_size is 1, and 0 bytes are left"),
        ({"inputs": [binary(1)]}, b"12", "1 bytes are left behind"),
        ({"inputs": [binary(-1)]}, b"12", "is no number of bytes: -1"),
        ({"inputs": [binary(True)]}, b"12", "is no number of bytes: True"),
        ({"inputs": [binary("2")]}, b"12", "is no number of bytes: '2'"),
        ({"inputs": [{**binary(2), "data": []}]}, b"12", "has data, and binary_data_size as well"),
        ({"inputs": [binary(2, [3])]}, b"12", "2 bytes of data, and INT8 of the shape [3] has 3"),
        ({"inputs": [binary(2, datatype="INT7")]}, b"12", "the datatype is INT7"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(message: Any, data: bytes, said: str) -> None:
    with pytest.raises(TensorError) as raised:
        _ = [one.values() for one in read(message, data).inputs]
    assert said in str(raised.value)


def test_a_tensor_lies_in_one_piece() -> None:
    head = json.dumps({"inputs": [binary(2)]}).encode()
    with pytest.raises(TensorError, match="1 bytes are left"):
        bodies.decode_request([head, b"1", b"2"], len(head))


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"inputs":' * 50_000,
        b"{",
        b"\xff\xfe",
        b"1" * 100_000,
        b'{"inputs": [1e',
        b"",
        b'{"inputs": [], "id": "\xff"}',
        b'{"\xff": 1}',
    ],
)
def test_what_is_no_json_is_refused_in_a_few_words(body: bytes) -> None:
    with pytest.raises(TensorError) as raised:
        bodies.decode_request([body], None)
    assert len(str(raised.value)) < 400


def test_values_that_python_writes_are_read() -> None:
    body = b'{"outputs": [{"name": "y", "shape": [2], "datatype": "FP32", "data": [Infinity, -Infinity]}]}'
    (output,) = bodies.decode_response([body], None).outputs
    assert output.values() == [float("inf"), float("-inf")]


def test_texts_that_are_null_are_absent_in_an_answer() -> None:
    body = b'{"id": null, "model_name": null, "model_version": null, "outputs": []}'
    assert bodies.decode_response([body], None) == InferResponse([])


@pytest.mark.parametrize(("text", "found"), [(None, None), ("0", 0), ("5", 5)])
def test_the_header_says_where_the_json_ends(text: str | None, found: int | None) -> None:
    assert bodies.header_length_of(text, 5) == found


@pytest.mark.parametrize("text", ["6", "-1", "+1", "1.0", "", "0x1", "٣", "9" * 5000])
def test_a_header_that_says_anything_else_is_refused(text: str) -> None:
    with pytest.raises(TensorError, match="Inference-Header-Content-Length"):
        bodies.header_length_of(text, 5)


def test_a_json_end_behind_the_body_is_refused() -> None:
    with pytest.raises(TensorError, match="said to have 9 bytes; 2 have come"):
        bodies.decode_request([b"{}"], 9)


def test_binary_data_begin_where_they_can_be_used_and_are_not_copied() -> None:
    data = bytearray(8)
    body = bodies.encode_request(InferRequest([Tensor("x", "INT64", [1], data)]))
    assert body.pieces[1] is data
    assert body.header_length == len(body.pieces[0])
    assert body.header_length % bodies.ALIGNMENT_BYTES == 0
    assert body.headers() == {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(body.header_length),
    }
    whole = body.joined()
    (found,) = bodies.decode_request([whole], body.header_length).inputs
    assert isinstance(found.data, memoryview)
    assert found.data.obj is whole


def test_without_binary_data_a_body_is_json() -> None:
    body = bodies.encode_request(InferRequest([Tensor("x", "BYTES", [1], [b"a"])], id="1"), is_binary=False)
    assert body.headers() == {"Content-Type": "application/json"}
    assert json.loads(body.joined()) == {
        "id": "1",
        "inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["a"]}],
    }


def test_what_json_has_not_is_said() -> None:
    with pytest.raises(TensorError, match="no UTF-8"):
        bodies.encode_request(InferRequest([Tensor("x", "BYTES", [1], [b"\xff"])]), is_binary=False)
    with pytest.raises(TensorError, match="nothing that JSON has"):
        bodies.encode_request(InferRequest([], parameters={"a": object()}))


def test_nothing_of_it_imports_numpy() -> None:
    say = (
        "import sys, torchrelay.shared.open_inference.infer_bodies, "
        "torchrelay.shared.open_inference.tensor_arrays; print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
