"""HTTP/1.1 on a connection; the one place that knows how uvicorn holds its connections.

uvicorn listens, keeps the list of connections and ends them when the process stops. What comes on one is
parsed here by httptools and answered by an `Exchange` for each request, one at a time and in order.
Beyond ASGI an exchange's scope has header names as the client spelled them (handlers look them up by
case) and whether the connection is kept. What can't be parsed, or is larger than TorchServe takes, is
refused in the JSON that all our errors have.
"""

import asyncio
import re
from collections import deque
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from torchrelay.gateway import presenting
from torchrelay.gateway.exchange import HEAD_EXTENSION, AsgiApp, Exchange, Scope
from torchrelay.shared import errors

#: TorchServe's limits, and its 400 above them.
TARGET_LIMIT_BYTES = 4096
HEADERS_LIMIT_BYTES = 8192
#: What comes of a head after its first piece; one that isn't whole then is above one of the two.
MORE_HEAD_LIMIT_BYTES = TARGET_LIMIT_BYTES + HEADERS_LIMIT_BYTES
#: How long a client may take to read anything at all of a response that is larger than the buffers. Where
#: TLS is spoken that shows only in steps of some hundred KiB, which is what it takes on at once.
STALLED_S = 60.0

_REQUEST_LINE = re.compile(rb"[A-Za-z]+ \S+ HTTP/1\.[01]\r\n")


class GatewayProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # uvicorn's signature
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = _loop or asyncio.get_event_loop()
        self.transport: asyncio.Transport
        self.drained: asyncio.Future[None] | None = None
        self._app = cast(AsgiApp, config.loaded_app)
        self._keep_alive_s = config.timeout_keep_alive
        self._server_state = server_state
        self._parser = httptools.HttpRequestParser(self)
        #: What a request's scope is made from.
        self._scope: Scope = {}
        #: Requests without their whole response, oldest first: the first is being answered.
        self._exchanges: deque[Exchange] = deque()
        #: The request whose body is being parsed.
        self._fed: Exchange | None = None
        self._is_paused = False
        #: When the last response went out, or a piece of a request's body came, by the loop's clock.
        self._idle_since = self.loop.time()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        #: What a client that is slow had not taken yet when it was last looked at.
        self._unsent_bytes = 0
        self._is_in_head = False
        #: Whether the last read found a head begun, how much it brought, and how much those brought that
        #: neither began nor ended it.
        self._is_head_split = False
        self._read_bytes = 0
        self._more_head_bytes = 0
        self._target = b""
        #: The target whose parts are in `_scope`.
        self._known_target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        #: Names and values in turn, names as the client spelled them.
        self._raw_headers: list[bytes] = []

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of who talks to whom."""
        self.transport = cast(asyncio.Transport, transport)
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "server": get_local_addr(self.transport),
            "client": get_remote_addr(self.transport),
            "scheme": "https" if is_ssl(self.transport) else "http",
            "root_path": "",
            "extensions": {HEAD_EXTENSION: {}},
        }
        self._server_state.connections.add(cast(Any, self))  # uvicorn's type names its own protocols
        self._close_if_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered; the others are forgotten."""
        self._server_state.connections.discard(cast(Any, self))
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self.resume_writing()
        if self._exchanges:
            self._exchanges[0].leave()
        self._exchanges.clear()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and have it answered."""
        self._is_head_split = self._is_in_head
        self._read_bytes = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # an offer that nobody has to take up: the request stands as it is
        except httptools.HttpParserError as error:
            self._refuse(error, data)
            return
        if self._is_head_split and self._is_in_head:
            self._more_head_bytes += len(data)
            if self._more_head_bytes > MORE_HEAD_LIMIT_BYTES:
                self._refuse(ValueError("endless head"), data)
                return
        if self._exchanges:
            self._go_on(self._exchanges[0])

    def _go_on(self, exchange: Exchange) -> None:
        if not exchange.has_all:
            self._idle_since = self.loop.time()
        if exchange.is_running:
            exchange.wake()
        elif not exchange.is_answered and self.drained is None:
            exchange.run(self._app)
        if len(self._exchanges) > 1 or (exchange.is_full and not exchange.is_answered):
            self._pause_reading()

    def pause_writing(self) -> None:
        """Make a response wait for a client that is slow, and end one that has stopped reading."""
        self.drained = self.loop.create_future()
        self._watch_writing()

    def _watch_writing(self) -> None:
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(STALLED_S, self._abort_if_stalled)

    def _abort_if_stalled(self) -> None:
        """Look what the client has taken meanwhile: nothing is added while it is slow."""
        if self.transport.get_write_buffer_size() < self._unsent_bytes:
            self._watch_writing()
        else:
            self.transport.abort()

    def resume_writing(self) -> None:
        """Let it go on, and then the requests that came meanwhile."""
        if self.drained is not None:
            self.drained.set_result(None)
            self.drained = None
            self.loop.call_soon(self._answer_next)
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    # What the parser tells

    def on_message_begin(self) -> None:
        """Start a request."""
        self._is_in_head = True
        self._more_head_bytes = 0
        self._target = b""
        self._headers = []
        self._raw_headers = []

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request's target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers.append((name.lower(), value))
        self._raw_headers += (name, value)

    def on_headers_complete(self) -> None:
        """Make the request; it is run when all that has come is parsed. Raises ValueError."""
        self._is_in_head = False
        self._check_limits()
        by_name = dict(self._headers)
        keep_alive = self._parser.should_keep_alive()
        version = "1.1"
        # PERF: httptools writes the version anew each time, for 1 % of a request.
        if not keep_alive or b"connection" in by_name:
            version = self._parser.get_http_version()
        if self._target != self._known_target:
            self._know(self._target)
        # PERF: half of what a display with all the fields takes.
        scope = self._scope.copy()
        scope["http_version"] = version
        scope["method"] = self._parser.get_method().decode("ascii")
        scope["headers"] = self._headers
        scope["headers_by_name"] = by_name
        scope["raw_headers"] = self._raw_headers
        scope["keep_alive"] = keep_alive and version != "1.0"
        self._fed = Exchange(self, scope)
        self._exchanges.append(self._fed)

    def _check_limits(self) -> None:
        if self._read_bytes <= TARGET_LIMIT_BYTES and not self._is_head_split:
            return  # all of it was less
        if len(self._target) > TARGET_LIMIT_BYTES:
            raise ValueError("request target too long")
        if sum(map(len, self._raw_headers)) > HEADERS_LIMIT_BYTES:
            raise ValueError("headers too large")

    def _know(self, target: bytes) -> None:
        """Take a target apart.

        PERF: kept, since most requests on a connection have the same: 5,000 instructions.
        """
        url = httptools.parse_url(target)
        path = url.path or b""
        self._scope["raw_path"] = path
        self._scope["path"] = unquote(path.decode("ascii"))
        self._scope["query_string"] = url.query or b""
        self._known_target = target

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body; what comes after the response is for nobody."""
        if self._fed is not None and not self._fed.is_answered:
            self._fed.feed(body)

    def on_message_complete(self) -> None:
        """End a request."""
        if self._fed is not None:
            self._fed.feed_end()

    # What exchanges want

    def resume_reading(self) -> None:
        """Read on."""
        if self._is_paused:
            self._is_paused = False
            self._idle_since = self.loop.time()
            self.transport.resume_reading()

    def answered(self) -> None:
        """Go on to the next request."""
        self._server_state.total_requests += 1
        self._exchanges.popleft()
        if self.transport.is_closing():
            return
        self._idle_since = self.loop.time()
        if self._exchanges:
            self.loop.call_soon(self._answer_next)
        else:
            self.resume_reading()

    def _answer_next(self) -> None:
        if self._exchanges:
            self._go_on(self._exchanges[0])

    # Ends

    def shutdown(self) -> None:
        """Let the response in progress be the last; uvicorn calls this when it stops."""
        if self._exchanges:
            self._exchanges[-1].scope["keep_alive"] = False
        else:
            self.transport.close()

    def _close_if_idle(self) -> None:
        """Close a connection that was idle too long, and look again when it may have been.

        It is idle, too, while a body doesn't come: one that stops would else be kept, and counted, for ever.

        PERF: one timer that is late for most of its life; setting one anew for each request costs 3 % of it.
        """
        now = self.loop.time()
        if self._exchanges and (self._exchanges[0].has_all or self._is_paused):
            self._idle_since = now
        left_s = self._idle_since + self._keep_alive_s - now
        if left_s > 0:
            self._idle_timer = self.loop.call_later(left_s, self._close_if_idle)
        else:
            self.transport.close()

    def _pause_reading(self) -> None:
        if not self._is_paused and not self.transport.is_closing():
            self._is_paused = True
            self.transport.pause_reading()

    def _refuse(self, why: Exception, received: bytes) -> None:
        """Refuse what can't be parsed, or has a method that the parser never heard of."""
        error: errors.RelayError = errors.BadRequest("Invalid HTTP message.")
        if isinstance(why, httptools.HttpParserInvalidMethodError) and _REQUEST_LINE.match(received):
            error = errors.MethodNotAllowed()
        self.transport.write(presenting.whole_error(error, getattr(self._app, "cors", ())))
        self.transport.close()
