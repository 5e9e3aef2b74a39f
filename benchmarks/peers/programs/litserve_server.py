"""Serves a model with LitServe; which one, and how, is said by variables of the environment."""

import os
from collections.abc import Iterator
from typing import Annotated, Any

import litserve
import served_models
from fastapi import Depends, Request, Response


async def body_of(request: Request) -> bytes:
    """Read a body as it is: LitServe by itself takes JSON and forms."""
    body: bytes = await request.body()
    return body


Body = Annotated[bytes, Depends(body_of)]


class LitServeEcho(litserve.LitAPI):
    """Takes and gives bytes as they are."""

    def decode_request(self, request: Body) -> Any:
        """Take a body."""
        return request

    def predict(self, x: Any) -> Any:
        """Answer a batch, or a single request where the batch size is 1."""
        return x

    def encode_response(self, output: Any) -> Response:
        """Give an answer."""
        return Response(output, media_type="application/octet-stream")


class LitServePerceptron(litserve.LitAPI):
    """Takes and gives JSON, which is LitServe's own form."""

    def setup(self, device: Any) -> None:
        """Load the model."""
        self._model = served_models.Perceptron()

    def predict(self, x: Any) -> Any:
        """Answer a batch, or a single request where the batch size is 1."""
        return self._model.answers(x) if self.max_batch_size > 1 else self._model.answers([x])[0]


class LitServeStream(litserve.LitAPI):
    """Yields the parts of an answer."""

    def decode_request(self, request: Body) -> str:
        """Take a body."""
        return request.decode()

    def predict(self, x: str) -> Iterator[str]:
        """Answer a batch, or a single request where the batch size is 1."""
        yield from served_models.parts(x)

    # FastAPI takes a narrower type than this for the answer's model.
    def encode_response(self, output: Iterator[str]) -> Any:
        """Give an answer."""
        yield from output


MODELS = {"echo": LitServeEcho, "perceptron": LitServePerceptron, "stream": LitServeStream}


def main() -> None:
    name = os.environ["BENCHMARK_MODEL"]
    batch_size = int(os.environ["BENCHMARK_BATCH_SIZE"])
    delay_s = int(os.environ["BENCHMARK_DELAY_MS"]) / 1000 if batch_size > 1 else 0.0
    api = MODELS[name](max_batch_size=batch_size, batch_timeout=delay_s, stream=name == "stream")
    workers = int(os.environ["BENCHMARK_WORKERS"])
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, fast_queue=True)
    port = int(os.environ["BENCHMARK_PORT"])
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False, access_log=False)


if __name__ == "__main__":
    main()
