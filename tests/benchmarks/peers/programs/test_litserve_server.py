from types import ModuleType
from typing import Any

import pytest

from benchmarks.peers.programs import served_models
from tests.benchmarks.peers.programs.conftest import Load


class FakeLitAPI:
    """Has of LitServe's class what ours use."""

    def __init__(self, max_batch_size: int = 1) -> None:
        self.max_batch_size = max_batch_size


@pytest.fixture
def program(load: Load) -> ModuleType:
    fastapi = {
        "Depends": lambda call: call,
        "Request": object,
        "Response": lambda content, media_type: content,
    }
    return load("litserve_server", litserve={"LitAPI": FakeLitAPI, "LitServer": None}, fastapi=fastapi)


def test_bytes_go_through_as_they_are(program: ModuleType) -> None:
    echo = program.LitServeEcho()
    assert echo.encode_response(echo.predict(echo.decode_request(b"\xff\x00"))) == b"\xff\x00"


@pytest.mark.parametrize("batch_size", [1, 16])
def test_rows_are_answered_in_batches_and_alone(program: ModuleType, batch_size: int) -> None:
    perceptron = program.LitServePerceptron(max_batch_size=batch_size)
    perceptron.setup("cpu")
    row: Any = [0.1] * served_models.FEATURES
    answer = served_models.Perceptron().answers([row])[0]
    if batch_size == 1:
        assert perceptron.predict(row) == answer
    else:
        assert perceptron.predict([row, row])[1] == pytest.approx(answer)


def test_a_stream_yields_every_part(program: ModuleType) -> None:
    stream = program.LitServeStream()
    yielded = stream.encode_response(stream.predict(stream.decode_request(b"why")))
    assert list(yielded) == list(served_models.parts("why"))
