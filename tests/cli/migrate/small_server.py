"""A server in this process that answers what a test tells it, in parts or not, and keeps what it was sent."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Sent(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Said(NamedTuple):
    """An answer; a list of parts goes out chunked. With status 0 the connection is cut."""

    status: int = 200
    body: bytes | Sequence[bytes] = b""
    headers: dict[str, str] = {}  # noqa: RUF012  # never changed


class SmallServer(ThreadingHTTPServer):
    """`answer` says what a request is answered."""

    daemon_threads = True

    def __init__(self, answer: Callable[[Sent], Said]) -> None:
        super().__init__(("127.0.0.1", 0), _Talk)
        self.answer = answer
        self.sent: list[Sent] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Talk(BaseHTTPRequestHandler):
    server: SmallServer
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        sent = Sent(self.command, self.path, headers, body)
        self.server.sent.append(sent)
        said = self.server.answer(sent)
        if not said.status:
            self.close_connection = True
            return
        self.send_response(said.status)
        for name, value in said.headers.items():
            self.send_header(name, value)
        if isinstance(said.body, bytes):
            self.send_header("content-length", str(len(said.body)))
            self.end_headers()
            self.wfile.write(said.body if self.command != "HEAD" else b"")
            return
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for part in said.body:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def answering(answer: Callable[[Sent], Said] = lambda _: Said()) -> Iterator[SmallServer]:
    """Run a server."""
    with SmallServer(answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
