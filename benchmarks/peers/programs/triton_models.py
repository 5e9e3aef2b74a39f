"""Models for Triton's python backend, which wants one class of this name a model."""

import os
from typing import Any

import served_models
import triton_python_backend_utils as triton


class TritonPythonModel:
    """Runs the model that the environment names."""

    def initialize(self, args: dict[str, str]) -> None:
        """Choose the model."""
        name = os.environ["BENCHMARK_MODEL"]
        self._answer = {"echo": self._echo, "perceptron": self._perceptron, "stream": self._stream}[name]
        if name == "perceptron":
            self._model = served_models.Perceptron()

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """Answer a batch of requests; None where the answers were sent one by one."""
        return self._answer(requests)

    def _echo(self, requests: list[Any]) -> list[Any]:
        return [_answer(_input(request)) for request in requests]

    def _perceptron(self, requests: list[Any]) -> list[Any]:
        rows = self._model.probabilities([_input(request)[0] for request in requests])
        return [_answer(rows[number : number + 1]) for number in range(len(requests))]

    def _stream(self, requests: list[Any]) -> None:
        import numpy

        for request in requests:
            sender = request.get_response_sender()
            for part in served_models.parts(served_models.text_of(_input(request).reshape(-1)[0])):
                sender.send(_answer(numpy.array([part.encode()], dtype=object)))
            sender.send(flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _input(request: Any) -> Any:
    return triton.get_input_tensor_by_name(request, "IN").as_numpy()


def _answer(values: Any) -> Any:
    return triton.InferenceResponse([triton.Tensor("OUT", values)])
