"""Serves a model with Mosec; which one, and how, is said by variables of the environment."""

import os
from typing import Any

import served_models
from mosec import Server, SSEWorker, Worker


class MosecEcho(Worker):
    """Takes and gives bytes as they are."""

    resp_mime_type = "application/octet-stream"

    def deserialize(self, data: bytes) -> bytes:
        """Take a body."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """Give an answer."""
        return data

    def forward(self, data: Any) -> Any:
        """Answer a batch, or a single request where the batch size is 1."""
        return data


class MosecPerceptron(Worker):
    """Takes and gives JSON, which is Mosec's own form."""

    def __init__(self) -> None:
        super().__init__()
        self._model = served_models.Perceptron()

    def forward(self, data: Any) -> Any:
        """Answer a batch, or a single request where the batch size is 1."""
        return self._model.answers(data)


class MosecStream(SSEWorker):
    """Sends the parts of an answer as events."""

    def deserialize(self, data: bytes) -> str:
        """Take a body."""
        return data.decode()

    def forward(self, data: str) -> str:
        """Answer a batch, or a single request where the batch size is 1."""
        for part in served_models.parts(data):
            self.send_stream_event(part)
        return data


MODELS = {"echo": MosecEcho, "perceptron": MosecPerceptron, "stream": MosecStream}


def main() -> None:
    server = Server()
    server.append_worker(
        MODELS[os.environ["BENCHMARK_MODEL"]],
        num=int(os.environ["BENCHMARK_WORKERS"]),
        max_batch_size=int(os.environ["BENCHMARK_BATCH_SIZE"]),
        max_wait_time=int(os.environ["BENCHMARK_DELAY_MS"]),
        timeout=30,
    )
    server.run()


if __name__ == "__main__":
    main()
