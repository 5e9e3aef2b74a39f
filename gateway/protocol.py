"""What we need of HTTP beyond ASGI, in the one place that knows uvicorn from inside.

Header names as the client spelled them (ASGI lower-cases them, handlers look them up by case), limits
on what comes before the body, errors of the protocol in the JSON that all our errors have, and the
status line that a handler asked for (ASGI has no reason phrase, uvicorn no status above 599).
"""

import asyncio
import re
import sys
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway import presenting
from shared import errors, ids

#: TorchServe's limits, and its 400 above them.
TARGET_LIMIT_BYTES = 4096
HEADERS_LIMIT_BYTES = 8192

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: A body up to this is copied behind its head; above it, the second write costs less than the copy.
JOINED_LIMIT_BYTES = 64 * 1024

#: An ASGI scope; `Any` because ASGI leaves the types of its values to the server.
Scope = dict[str, Any]

_REQUEST_LINE = re.compile(rb"[A-Z]+ \S+ HTTP/1\.[01]\r\n")


class GatewayProtocol(HttpToolsProtocol):
    """One connection. Adds `raw_headers` and `keep_alive` to the scope of a request."""

    #: The bytes being parsed, for `send_400_response`.
    _received = b""

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._received = data
        super().data_received(data)
        self._received = b""

    def on_message_begin(self) -> None:
        """Start a request."""
        super().on_message_begin()
        self._raw_headers: list[tuple[bytes, bytes]] = []
        self._header_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        self.url += url
        if len(self.url) > TARGET_LIMIT_BYTES:
            raise ValueError("request target too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, as the base does, and keep its name's spelling.

        PERF: not by way of the base's method: this is called for every header of every request.
        """
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEADERS_LIMIT_BYTES:
            raise ValueError("headers too large")
        self._raw_headers.append((name, value))
        name = name.lower()
        self.headers.append((name, value))
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        """Hand the request to the application, which runs at the loop's next turn."""
        super().on_headers_complete()
        scope: Scope = self.scope  # type: ignore[assignment]  # a TypedDict, to which we add
        scope["raw_headers"] = self._raw_headers
        scope["keep_alive"] = self.cycle.keep_alive

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        has_body = cycle.scope["method"] != "HEAD"
        cycle.transport = _OneWrite(cycle.transport, has_body=has_body)  # type: ignore[assignment]
        super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        """Let the answer in progress be the connection's last."""
        if self.cycle is not None:
            cast(Scope, self.cycle.scope)["keep_alive"] = False
        super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Refuse what can't be parsed, or has a method that the parser never heard of."""
        is_unknown_method = isinstance(sys.exc_info()[1], httptools.HttpParserInvalidMethodError)
        error: errors.RelayError = errors.BadRequest("Invalid HTTP message.")
        if is_unknown_method and _REQUEST_LINE.match(self._received):
            error = errors.MethodNotAllowed()
        body = presenting.error_body(error, error.status)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *presenting.standard_headers(ids.request_id(), keep_alive=False),
            *getattr(self.app, "cors", ()),
        ]
        self.transport.write(STATUS_LINE[error.status] + presenting.lines(headers) + b"\r\n" + body)
        self.transport.close()


class _OneWrite:
    """A transport for one response: holds its head back until the body comes, and writes both at once.

    PERF: a write is a system call; one instead of two took a 64-byte echo at 64 connections from 80 to
    74 us of this process's time.
    """

    __slots__ = ("_has_body", "_head", "_transport", "more_lines", "status_line")

    def __init__(self, transport: asyncio.Transport, *, has_body: bool) -> None:
        self._transport = transport
        self._has_body = has_body
        #: None before the head was written to us, and empty once it has gone out.
        self._head: bytes | None = None
        #: Takes the place of the head's first line, if not empty.
        self.status_line = b""
        #: Header lines to go out at the head's end as they are, each with its line break.
        self.more_lines = b""

    def write(self, data: bytes) -> None:
        if data == CONTINUE:
            self._transport.write(data)  # not the response, but the leave to send the body
        elif self._head is None:
            if self.status_line:
                data = self.status_line + data[data.index(b"\r\n") :]
            self._head = b"".join((data[:-2], self.more_lines, b"\r\n"))
            if not self._has_body:
                self._flush()
        elif not self._head:
            self._transport.write(data)
        elif len(data) > JOINED_LIMIT_BYTES:
            self._flush()
            self._transport.write(data)
        else:
            head, self._head = self._head, b""
            self._transport.write(b"".join((head, data)))

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
        self._head = b""


def set_status_line(send: object, status: int, reason: str) -> None:
    """Make the response that `send` is about to start begin with this status and reason."""
    transport = _transport_of(send)
    if transport is not None:
        transport.status_line = f"HTTP/1.1 {status} {reason}".encode("latin-1")


def add_lines(send: object, lines: bytes) -> bool:
    """Add finished header lines to the response that `send` is about to start; False if it can't be done.

    PERF: uvicorn looks at each header with two regular expressions; five that never change cost 8 of a
    request's 75 us.
    """
    transport = _transport_of(send)
    if transport is None:
        return False
    transport.more_lines = lines
    return True


def _transport_of(send: object) -> _OneWrite | None:
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    return transport if isinstance(transport, _OneWrite) else None
