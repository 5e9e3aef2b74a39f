from benchmarks.peers.programs import served_models
from tests.benchmarks.peers.programs.conftest import Load


class FakeWorker:
    """Has of Mosec's workers what ours call."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send_stream_event(self, text: str) -> None:
        self.sent.append(text)


MOSEC = {"Worker": FakeWorker, "SSEWorker": FakeWorker, "Server": None}


def test_bytes_go_through_as_they_are(load: Load) -> None:
    echo = load("mosec_server", mosec=MOSEC).MosecEcho()
    assert echo.serialize(echo.forward(echo.deserialize(b"\xff\x00"))) == b"\xff\x00"


def test_a_batch_of_rows_gets_an_answer_each(load: Load) -> None:
    perceptron = load("mosec_server", mosec=MOSEC).MosecPerceptron()
    rows = [[0.1] * served_models.FEATURES, [0.2] * served_models.FEATURES]
    assert perceptron.forward(rows) == served_models.Perceptron().answers(rows)


def test_a_stream_sends_every_part(load: Load) -> None:
    stream = load("mosec_server", mosec=MOSEC).MosecStream()
    stream.forward(stream.deserialize(b"why"))
    assert stream.sent == list(served_models.parts("why"))
