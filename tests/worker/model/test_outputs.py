"""Rows of a handler's output become responses; what HTTP can't carry becomes an error of that row alone."""

import io
from typing import Any  # whatever a handler sets

import pytest
import torch
from ts.context import RequestProcessor
from ts.utils.util import PredictionException

from torchrelay.worker.model import outputs

LIMIT = 10_000


def answer(value: object, **headers: Any) -> Any:
    processor = RequestProcessor({})
    for name, text in headers.items():
        processor.add_response_property(name.replace("_", "-"), text)
    return outputs.guarded_answer(outputs.answer, processor, value, LIMIT)


@pytest.mark.parametrize(
    ("value", "body"),
    [(b"raw", b"raw"), (bytearray(b"raw"), b"raw"), ("tëxt", "tëxt".encode()), ({"a": 1}, b'{\n  "a": 1\n}')],
)
def test_a_value_has_the_body_that_torchserve_gives_it(value: object, body: bytes) -> None:
    assert answer(value).body == body


def test_a_tensor_is_saved_as_torch_saves_it() -> None:
    saved = answer(torch.tensor([1.0])).body
    assert torch.load(io.BytesIO(saved), weights_only=True).tolist() == [1.0]


@pytest.mark.parametrize("value", [object(), {1, 2}, float, {("a", "b"): 1}, "\ud800"])
def test_what_has_no_encoding_fails_alone(value: object) -> None:
    response = answer(value)
    assert response.error[1] == "Unsupported model output data type."


def test_a_body_above_the_limit_fails_alone() -> None:
    assert answer(b"x" * LIMIT).error is None
    assert "max_response_size is 10000" in answer(b"x" * (LIMIT + 1)).error[1]


@pytest.mark.parametrize(
    ("name", "value"), [("x_a", "two\r\nlines"), ("x_a", 3), ("x_a", "€"), ("x\na", "b"), ("x_a", "\0")]
)
def test_a_response_header_that_http_cannot_carry_is_refused(name: str, value: object) -> None:
    response = answer(b"body", **{name: value})
    assert response.error is not None
    assert "the response header" in response.error[2]
    assert response.headers == ()


def test_headers_that_http_can_carry_are_passed_on() -> None:
    response = answer(b"body", x_a="b", content_type="text/plain; charset=ä")
    assert response.headers == (("x-a", "b"), ("content-type", "text/plain; charset=ä"))


@pytest.mark.parametrize("output", [None, "text", (b"a",), {"a": 1}])
def test_an_output_that_is_no_list_fails_the_batch(output: object) -> None:
    failure = outputs.batch_failure(output, 1)
    assert failure is not None
    assert failure.error is not None
    assert failure.error[1] == "Invalid model predict output"


def test_a_list_of_another_length_fails_the_batch() -> None:
    assert outputs.batch_failure([b"a"], 1) is None
    failure = outputs.batch_failure([b"a"], 2)
    assert failure is not None
    assert failure.error is not None
    assert failure.error[2] == "the handler returned 1 rows for a batch of 2"


@pytest.mark.parametrize(("code", "status"), [(404, 404), (413, 507), (99, 500), (1000, 500), ("x", 500)])
def test_a_handlers_own_refusal_has_a_status_of_http(code: Any, status: int) -> None:
    assert outputs.raised(PredictionException("no", code)).status == status


def test_lack_of_memory_is_507_and_anything_else_503_as_in_torchserve() -> None:
    assert outputs.raised(MemoryError("full")).status == 507
    assert outputs.raised(ValueError("bad")).status == 503
