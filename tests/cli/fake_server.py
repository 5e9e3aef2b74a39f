"""A management and inference server that answers what a test tells it, and remembers what it was asked."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import msgspec

Answer = tuple[int, object]


class Asked(NamedTuple):
    """One request as the server saw it."""

    method: str
    path: str
    body: bytes
    content_type: str | None
    authorization: str | None = None


class FakeServer(ThreadingHTTPServer):
    """`answers` maps "METHOD /path", with or without the query, to status and body; bytes go out as is."""

    request_queue_size = 64

    def __init__(self, answers: dict[str, Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = answers
        self.asked: list[Asked] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = self.headers
        self.server.asked.append(
            Asked(self.command, self.path, body, headers.get("content-type"), headers.get("authorization"))
        )
        answers = self.server.answers
        missing = {
            "code": 404,
            "type": "ResourceNotFoundException",
            "message": "Requested resource is not found",
        }
        found = answers.get(f"{self.command} {self.path}")
        found = found or answers.get(f"{self.command} {self.path.partition('?')[0]}")
        status, answer = found or (404, missing)
        content = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
        self.send_response(status)
        if not isinstance(answer, bytes):
            self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Say nothing."""


@contextmanager
def serving(answers: dict[str, Answer]) -> Iterator[FakeServer]:
    server = FakeServer(answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
