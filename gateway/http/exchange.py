"""One request and its response: runs the application for it, and writes what that answers.

It speaks ASGI to the application and bytes to the connection, which feeds it. Three things are added to
ASGI, for our own application: the message that starts a response may have a `reason` phrase, `lines`,
finished header lines that go out as they are, and `body`, all of it, so that no other message follows.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from typing import Any, Protocol

from torchrelay.gateway.http import standard_responses
from torchrelay.gateway.http.held_writes import PIECE_LIMIT_BYTES, HeldWrites
from torchrelay.shared import errors
from torchrelay.shared.quoting import quoted

logger = logging.getLogger(__name__)

#: An ASGI scope or message; `Any` because ASGI leaves the types of their values to their kind.
Scope = dict[str, Any]
Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Says in a scope's `extensions` that the server takes `reason`, `lines` and `body`.
HEAD_EXTENSION = "torchrelay.head"

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: Of a larger body TLS gets no more at once: it takes on what it is given, and doesn't tell what of it waits.
TLS_PIECE_BYTES = 128 * 1024
#: Of a body that comes faster than it is received; beyond, the connection isn't read for a while.
UNREAD_LIMIT_BYTES = 64 * 1024

_STATUS_LINES = {one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n".encode() for one in HTTPStatus}
#: For statuses without a phrase of their own, by their hundreds, as TorchServe calls them.
_KINDS = {1: "Informational", 2: "Success", 3: "Redirection", 4: "Client Error", 5: "Server Error"}
_BODILESS = (204, 304)


class ClientLeft(Exception):
    """The client closed its connection before it had its answer, which therefore nobody reads."""


class CutShort(Exception):
    """The rest of a response whose head has gone out will never come: its connection must be closed."""


class Connection(Protocol):
    """What an exchange needs of the connection that it belongs to."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    #: By which all that an exchange has to say is written.
    writes: HeldWrites
    #: Ends when a client that is slow has taken what was written; None while it isn't slow.
    drained: asyncio.Future[None] | None
    #: What is left of a body that is written in pieces.
    unwritten_bytes: int

    def resume_reading(self) -> None:
        """Read on from the client: there is room for more of the body."""

    def close(self) -> None:
        """End the connection once its client has read what was written."""

    def answered(self) -> None:
        """Take note that the response has gone out."""


class Exchange:
    """A request, its response, and the coroutine that makes the one of the other.

    PERF: it drives that coroutine itself instead of by an asyncio Task: the first step needs no turn of
    the loop, and any other runs as soon as what it waits for is there. With a Task, and uvicorn's own
    class in this one's place, a request took 48,000 instructions more, a fifth of all. What the
    application gives up for it is `asyncio.current_task()`, and with it `asyncio.timeout`.
    """

    __slots__ = (
        "_body",
        "_connection",
        "_coroutine",
        "_head",
        "_is_asked_for",
        "_is_chunked",
        "_is_held_back",
        "_is_open",
        "_reader",
        "_waits_for",
        "_would_keep_alive",
        "has_all",
        "is_answered",
        "is_running",
        "scope",
    )

    def __init__(self, connection: Connection, scope: Scope) -> None:
        self._connection = connection
        #: Its `keep_alive` is set to false where the response is to be the connection's last.
        self.scope = scope
        self.is_running = False
        #: Whether the response has gone out, whole or cut short.
        self.is_answered = False
        #: Whether the whole body has come.
        self.has_all = False
        #: Whether the client is still there.
        self._is_open = True
        self._coroutine: Coroutine[Any, Any, None] | None = None
        self._waits_for: object = None
        #: What has come of the body and was not received by the application yet.
        self._body: bytes | bytearray = b""
        self._reader: asyncio.Future[None] | None = None
        #: Whether the client keeps its body until it is asked for it. While it does, no other request can
        #: follow: nobody could tell whether what comes is that or the body.
        self._is_held_back = False
        self._is_asked_for = False
        self._would_keep_alive = False
        #: Pieces of the response's head: None before it is made, empty once it has gone out.
        self._head: list[bytes] | None = None
        self._is_chunked = False

    # What the connection tells

    def run(self, app: AsgiApp) -> None:
        """Start the application; what has come of the body is what it receives first."""
        self.is_running = True
        if not (self.has_all or self._body):
            self._hold_back()
        self._coroutine = app(self.scope, self.receive, self.send)  # type: ignore[assignment]  # ASGI's says less
        self._advance(self._coroutine.send, None)  # type: ignore[union-attr]  # as above

    def _hold_back(self) -> None:
        said = (value.lower() for name, value in self.scope["headers"] if name == b"expect")
        # A client of HTTP/1.0 doesn't know what it would be told.
        if b"100-continue" in said and self.scope["http_version"] != "1.0":
            self._is_held_back = True
            self._would_keep_alive, self.scope["keep_alive"] = self.scope["keep_alive"], False

    def feed(self, piece: bytes) -> None:
        """Take a piece of the body."""
        if not self._body:
            self._body = piece
            return
        # Grows where it is: there may be a piece for each of its bytes.
        if isinstance(self._body, bytes):
            self._body = bytearray(self._body)
        self._body += piece

    @property
    def has_begun(self) -> bool:
        """Whether some of the response has gone out."""
        return self._head is not None and not self._head

    @property
    def is_full(self) -> bool:
        """Whether no more of the body should come for now."""
        return len(self._body) > UNREAD_LIMIT_BYTES

    @property
    def is_reading(self) -> bool:
        """Whether the application waits for more of the body."""
        return self._reader is not None and not self._reader.done()

    def feed_end(self) -> None:
        """Take note that this was the whole body."""
        self.has_all = True

    def wake(self) -> None:
        """Let the application have what has come of the body, if it waits for it."""
        if self._reader is not None and not self._reader.done() and (self._body or self.has_all):
            self._reader.set_result(None)

    def be_last(self) -> None:
        """Let the response be the connection's last, whatever was to follow."""
        self.scope["keep_alive"] = self._would_keep_alive = False

    def leave(self) -> None:
        """Take note that the client has gone."""
        self._is_open = False
        if self.is_running and self._coroutine is not None:
            left = ClientLeft()
            self._advance(self._coroutine.throw, left)
            left.__traceback__ = None  # it holds what holds it, and all that the application had in hand

    # What drives the application

    def _step(self, waited_for: object) -> None:
        # What it was torn away from may still call.
        if waited_for is self._waits_for and self._coroutine is not None:
            self._advance(self._coroutine.send, None)

    def _advance(self, resume: Callable[[Any], Any], value: object) -> None:
        try:
            future = self._waits_for = resume(value)
        except (StopIteration, ClientLeft, CutShort):
            self._end()
        except Exception:  # boundary: what the application raises ends its own request alone
            logger.exception("gateway.unanswered", extra={"path": quoted(self.scope["path"])})
            self._end()
        else:
            if future is None:
                self._connection.loop.call_soon(self._step, None)
            else:
                future._asyncio_future_blocking = False
                future.add_done_callback(self._step)

    def _end(self) -> None:
        """Close the connection of a response that isn't whole: there is no other way to say so."""
        self.is_running = False
        self._coroutine = self._waits_for = self._reader = None
        if self._is_open and not self.is_answered:
            if self._head is None:
                self._head = [standard_responses.whole_error(errors.InternalError("Internal server error."))]
            self._flush()
            self.is_answered = True
            self._close()
        # What still holds this exchange is to hold no connection, with which memory goes.
        del self._connection

    # ASGI

    async def receive(self) -> Event:
        """Return the next piece of the body, or that the client has gone.

        Of a body that is held back the first is empty: falcon asks for one before it knows who is to have
        it, and who then refuses the request need not ask the client to go on.
        """
        if not (self.has_all or self._body or self.is_answered):
            if self._is_held_back and not self._is_asked_for:
                self._is_asked_for = True
                return {"type": "http.request", "body": b"", "more_body": True}
            if self._is_held_back:
                self._let_go()
                self._write(CONTINUE)
            self._connection.resume_reading()
            self._reader = self._connection.loop.create_future()
            await self._reader
        if self.is_answered:
            return {"type": "http.disconnect"}
        if self._is_held_back:
            self._let_go()
        body, self._body = self._body, b""
        if self.has_all and len(body) > UNREAD_LIMIT_BYTES:
            # Nothing more is due, but who doesn't read can't see either that the client has gone.
            self._connection.resume_reading()
        return {"type": "http.request", "body": body, "more_body": not self.has_all}

    def _let_go(self) -> None:
        self._is_held_back = False
        self.scope["keep_alive"] = self._would_keep_alive

    async def send(self, message: Event) -> None:
        """Take the response's head, or the next piece of its body. Waits for a client that is slow."""
        if not self._is_open or self.is_answered:
            return
        if self._head is None:
            self._head = self._start(message)
            if "body" not in message:
                return
        body: bytes = b"" if self.scope["method"] == "HEAD" else message.get("body", b"")
        is_last = not message.get("more_body", False)
        if self._is_chunked:
            body = _chunk(body, is_last=is_last)
        # PERF: a write is a system call; one for head and body takes a tenth off a small request.
        if self._head and len(body) <= PIECE_LIMIT_BYTES:
            self._head.append(body)
            body = b""
        self._flush()
        if len(body) > TLS_PIECE_BYTES and self.scope.get("scheme") == "https":
            await self._write_in_pieces(body)
        elif body:
            self._write(body)
        if is_last:
            self._finish()
        elif self._connection.drained is not None:
            await self._connection.drained

    async def _write_in_pieces(self, body: bytes) -> None:
        """Write a piece once the client has taken most of those before it."""
        connection, rest = self._connection, memoryview(body)
        while rest:
            piece, rest = rest[:TLS_PIECE_BYTES], rest[TLS_PIECE_BYTES:]
            connection.unwritten_bytes = len(rest)
            self._write(piece)
            if rest and connection.drained is not None:
                await connection.drained

    def _start(self, message: Event) -> list[bytes]:
        """Make the head, which waits for the first piece of the body."""
        status, reason = message["status"], message.get("reason")
        line = _STATUS_LINES.get(status) if reason is None else None
        if line is None:
            if reason is None:
                reason = f"{_KINDS.get(status // 100, 'Unknown Status')} ({status})"
            line = f"HTTP/1.1 {status} {reason}\r\n".encode("latin-1")
        head = [line]
        is_sized = False
        for name, value in message["headers"]:
            head.append(b"%s: %s\r\n" % (name, value))
            if name == b"content-length":
                is_sized = True
            elif name == b"connection" and value == b"close":
                self.scope["keep_alive"] = False
        if not (is_sized or status in _BODILESS or self.scope["method"] == "HEAD"):
            # HTTP/1.0 has no chunks: there the end of the connection is the end of the body.
            self._is_chunked = self.scope["http_version"] != "1.0"
            if self._is_chunked:
                head.append(b"transfer-encoding: chunked\r\n")
        head.append(message.get("lines", b""))
        head.append(b"\r\n")
        return head

    def _flush(self) -> None:
        if self._head:
            self._write(b"".join(self._head))
        self._head = []

    def _write(self, piece: bytes | memoryview) -> None:
        self._connection.writes.write(self._connection.transport, piece)

    def _finish(self) -> None:
        self.is_answered = True
        if not self.scope["keep_alive"]:
            self._close()
        self._connection.answered()

    def _close(self) -> None:
        self._connection.writes.flush(self._connection.transport)
        self._connection.close()


class Refusal(Exchange):
    """Stands for what could not be read: it answers with what it was made with, and ends the connection."""

    __slots__ = ("_response",)

    def __init__(self, connection: Connection, response: bytes) -> None:
        super().__init__(connection, {"keep_alive": False})
        self._response = response
        self.has_all = True

    def run(self, app: AsgiApp) -> None:
        """Write the refusal, and end the connection."""
        self._write(self._response)
        self._finish()


def _chunk(body: bytes, *, is_last: bool) -> bytes:
    """Frame a piece of a body; an empty one has no frame of its own, since that would end the body."""
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return chunk + b"0\r\n\r\n" if is_last else chunk
