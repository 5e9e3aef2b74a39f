"""A proxy in front of the old server: passes requests and answers on, and hands both over to be replayed.

Small on purpose: for a while, and for clients of one's own. Bodies are spooled to disk above a size, answers
go on part by part, and a client waits for nothing but the old server.
"""

import re
import string
import tempfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import BoundedSemaphore
from typing import IO, Any
from urllib.parse import quote

import httpx2
import msgspec

from torchrelay.cli.migrate.answer_differences import ServerAnswer
from torchrelay.cli.migrate.asked_server import AskedServer, KeptBody, why
from torchrelay.cli.migrate.replayed_request import HOP_HEADERS, ReplayedRequest, api_of

#: Connections at the same time; more wait to be taken.
CONNECTIONS_LIMIT = 256
IDLE_S = 75.0
#: Of a request, what is held in memory before it goes to disk.
SPOOL_BYTES = 1 << 20
_PART_BYTES = 64 << 10
_LINE_BYTES = 1 << 10

#: Takes a request with the old server's answer; None where the body was too large to be kept.
Recorded = Callable[[ReplayedRequest, ServerAnswer | None], None]


class RecordingProxy(ThreadingHTTPServer):
    """Listens on an address; `serve_forever` runs it, `shutdown` ends it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        place: tuple[str, int],
        old: AskedServer,
        recorded: Recorded,
        *,
        clock: Callable[[], float],
        body_limit_bytes: int,
    ) -> None:
        self.old = old
        self.recorded = recorded
        self.clock = clock
        self.body_limit_bytes = body_limit_bytes
        self._room = BoundedSemaphore(CONNECTIONS_LIMIT)
        super().__init__(place, _Exchange)

    def server_bind(self) -> None:
        """Bind, without asking for the name of the address, which may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]  # of IP, both

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"http://{self.server_name}:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:  # socketserver's own types
        """Take a connection, once there is room for it."""
        self._room.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that leave."""


class _Exchange(BaseHTTPRequestHandler):
    """One connection's requests, one after the other."""

    server: RecordingProxy
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # any method
            return self._exchange
        raise AttributeError(name)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Log nothing: what was asked is in the report."""

    def _exchange(self) -> None:
        headers = tuple(
            (name, value) for name, value in self.headers.items() if name.lower() not in HOP_HEADERS
        )
        path = quote(self.path, safe=string.punctuation, encoding="latin-1")  # as the base class decodes it
        request = ReplayedRequest(api=api_of(path), method=self.command, path=path, headers=headers)
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
            try:
                size = self._read_body(spool)
            except ValueError:
                self.close_connection = True
                self.send_error(400)
                return
            answer = self._forward(request, spool, size)
            if size > self.server.body_limit_bytes:
                self.server.recorded(request, None)
                return
            spool.seek(0)
            self.server.recorded(msgspec.structs.replace(request, body=spool.read()), answer)

    def _read_body(self, spool: IO[bytes]) -> int:
        """Read the request's body to its end; return its size. Raises ValueError for what has none."""
        if "chunked" not in self.headers.get("transfer-encoding", "").lower():
            length = _size_of(self.headers.get("content-length", "0"), 10)
            self._copy(spool, length)
            return length
        total = 0
        while size := _size_of(self.rfile.readline(_LINE_BYTES).partition(b";")[0].decode("latin-1"), 16):
            self._copy(spool, size)
            self.rfile.readline(_LINE_BYTES)
            total += size
        while self.rfile.readline(_LINE_BYTES).strip():
            pass  # trailers
        return total

    def _copy(self, spool: IO[bytes], size: int) -> None:
        left = size
        while left > 0:
            part = self.rfile.read(min(left, _PART_BYTES))
            if not part:
                raise ValueError("the body ends too early")
            spool.write(part)
            left -= len(part)

    def _forward(self, request: ReplayedRequest, spool: IO[bytes], size: int) -> ServerAnswer:
        began = self.server.clock()
        has_begun = False
        sized = request
        if size or "content-length" in self.headers:
            sized = msgspec.structs.replace(
                request, headers=(*request.headers, ("Content-Length", str(size)))
            )
        kept = KeptBody(self.server.body_limit_bytes)
        try:
            with self.server.old.opened(sized, _parts(spool) if size else None) as answer:
                has_begun = True
                self._begin(answer)
                self._pass_on(answer, kept)
                return kept.answer(answer, self.server.clock() - began)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            self.close_connection = True
            if not has_begun:
                self.send_error(502, explain=f"{self.server.old.url(request.api)}: {why(error)}")
            return ServerAnswer(failure=why(error), seconds=self.server.clock() - began)

    def _begin(self, answer: httpx2.Response) -> None:
        self.send_response_only(answer.status_code, answer.reason_phrase)
        for name, value in answer.headers.raw:
            if name.lower() == b"content-length" or name.lower().decode("latin-1") not in HOP_HEADERS:
                self.send_header(name.decode("latin-1"), value.decode("latin-1"))
        if self._is_chunked(answer):
            self.send_header("Transfer-Encoding", "chunked")
        elif self._is_endless(answer):
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()

    def _pass_on(self, answer: httpx2.Response, kept: KeptBody) -> None:
        for part in answer.iter_raw():
            kept.add(part)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if self._is_chunked(answer) else part)
            self.wfile.flush()
        if self._is_chunked(answer):
            self.wfile.write(b"0\r\n\r\n")

    def _is_endless(self, answer: httpx2.Response) -> bool:
        """Tell whether an answer's body has no length of its own."""
        has_none = self.command == "HEAD" or answer.status_code in (204, 304)
        return not has_none and "content-length" not in answer.headers

    def _is_chunked(self, answer: httpx2.Response) -> bool:
        return self._is_endless(answer) and self.request_version != "HTTP/1.0"


def _size_of(text: str, base: int) -> int:
    """Read a size. Raises ValueError for what is none."""
    if not re.fullmatch("[0-9a-fA-F]{1,16}", text.strip()):
        raise ValueError(f"{text!r} is no size")
    return int(text, base)


def _parts(spool: IO[bytes]) -> Iterator[bytes]:
    spool.seek(0)
    while part := spool.read(_PART_BYTES):
        yield part
