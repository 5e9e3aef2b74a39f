from types import ModuleType
from typing import Any

import numpy
import pytest

from benchmarks.peers.programs import served_models
from tests.benchmarks.peers.programs.conftest import Load


class FakeTensor:
    """A tensor that has a name and an array."""

    def __init__(self, name: str, values: Any) -> None:
        self.name, self.values = name, values

    def as_numpy(self) -> Any:
        return self.values


class FakeRequest:
    """A request with one tensor, which keeps what is sent for it."""

    def __init__(self, values: Any) -> None:
        self.tensor = FakeTensor("IN", values)
        self.sent: list[Any] = []

    def get_response_sender(self) -> "FakeRequest":
        return self

    def send(self, response: Any = None, flags: int = 0) -> None:
        self.sent.append(flags or response[0].as_numpy()[0].decode())


@pytest.fixture
def program(load: Load) -> ModuleType:
    given = {"Tensor": FakeTensor, "InferenceResponse": list, "TRITONSERVER_RESPONSE_COMPLETE_FINAL": 1,
             "get_input_tensor_by_name": lambda request, name: request.tensor}  # fmt: skip
    return load("triton_models", triton_python_backend_utils=given)


def model(program: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("BENCHMARK_MODEL", name)
    made = program.TritonPythonModel()
    made.initialize({})
    return made


def test_each_request_of_a_batch_gets_its_own_bytes(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = [numpy.array([[1, 2]], "uint8"), numpy.array([[3, 4]], "uint8")]
    answers = model(program, "echo", monkeypatch).execute([FakeRequest(body) for body in bodies])
    assert [answer[0].as_numpy().tolist() for answer in answers] == [[[1, 2]], [[3, 4]]]


def test_each_request_of_a_batch_gets_its_own_probabilities(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = numpy.array([[0.1] * served_models.FEATURES, [0.2] * served_models.FEATURES], "float32")
    requests = [FakeRequest(rows[:1]), FakeRequest(rows[1:])]
    answers = model(program, "perceptron", monkeypatch).execute(requests)
    said = [answer[0].as_numpy()[0].tolist() for answer in answers]
    assert said == served_models.Perceptron().answers(rows.tolist())


def test_a_stream_sends_every_part_and_the_end(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    request = FakeRequest(numpy.array([b"why"], dtype=object))
    assert model(program, "stream", monkeypatch).execute([request]) is None
    assert request.sent == [*served_models.parts("why"), 1]
