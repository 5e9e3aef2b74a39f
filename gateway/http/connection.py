"""HTTP/1.1 on a connection; the one place that knows how uvicorn holds its connections.

uvicorn listens, keeps the list of connections and ends them when the process stops. What comes on one is
parsed here by httptools and answered by an `Exchange` for each request, one at a time and in order.
Beyond ASGI an exchange's scope has header names as the client spelled them (handlers look them up by
case) and whether the connection is kept. What can't be parsed, or is larger than TorchServe takes, is
refused in the JSON that all our errors have.

An offered upgrade is never taken up and changes nothing about how a request is read. Where more may come
after the last response, the connection is closed in such a way that its client can read that response.
"""

import asyncio
import math
from collections import deque
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from torchrelay.gateway.http import framing, standard_responses
from torchrelay.gateway.http.client_pace import ClientBacklog, ClientPace
from torchrelay.gateway.http.clients import Clients, not_taken_bytes, reset
from torchrelay.gateway.http.exchange import HEAD_EXTENSION, AsgiApp, Exchange, Refusal, Scope
from torchrelay.gateway.http.framing import Discarding
from torchrelay.shared import errors

#: TorchServe's limits, and its 400 above them.
TARGET_LIMIT_BYTES = 4096
HEADERS_LIMIT_BYTES = 8192
#: What comes of a head after its first piece; one that isn't whole then is above one of the two. What
#: stands around the chunks of a body (their sizes and what is behind the last one) has the same bound.
MORE_HEAD_LIMIT_BYTES = TARGET_LIMIT_BYTES + HEADERS_LIMIT_BYTES
#: Of a body in chunks, what may stand around it for each of its bytes: chunks of one byte have five.
CHUNK_SHARE = 16
#: What is parsed at once of what was read, and what of a body: of the requests that a client sends without
#: waiting for answers the rest stays what it is until its turn comes. A request takes 50 times its bytes.
STEP_BYTES = 4096
BODY_STEP_BYTES = 64 * 1024
#: After so many pieces of a body others have their turn: each costs what hundreds of bytes do elsewhere.
PIECES_AT_ONCE = 512
#: What waits to be sent before a client counts as slow.
UNSENT_LIMIT_BYTES = 64 * 1024
#: What a request takes that is parsed and not answered yet, and each of its headers.
REQUEST_BYTES = 1024
HEADER_BYTES = 128
#: What a client still sends after the last response is read and dropped: closing over it resets the
#: connection, and the client loses the response. For as long as more comes, looked at so often, but not for
#: longer than it takes to send 1 GB over 100 Mbit/s.
LINGER_STEP_S = 5.0
LINGER_LIMIT_S = 120.0
#: The same for what isn't HTTP, of which nobody waits for the end.
LINGER_LIMIT_BYTES = 1 << 20


class GatewayProtocol(asyncio.Protocol):
    """One connection of a client, as uvicorn makes it from a transport."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # uvicorn's signature; what the application noted when it began
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = _loop or asyncio.get_event_loop()
        self.transport: asyncio.Transport
        self.drained: asyncio.Future[None] | None = None
        self._app = cast(AsgiApp, config.loaded_app)
        self._keep_alive_s = config.timeout_keep_alive
        self._server_state = server_state
        self._clients: Clients = app_state["clients"]
        self.writes = self._clients.writes
        self._kept = ClientBacklog(self.kept_bytes, self.drop)
        self._parser: httptools.HttpRequestParser | Discarding = httptools.HttpRequestParser(self)
        #: What a request's scope is made from.
        self._scope: Scope = {}
        #: Requests without their whole response, oldest first: the first is being answered.
        self._exchanges: deque[Exchange] = deque()
        #: The request whose body is being parsed.
        self._fed: Exchange | None = None
        #: Whether it is closed, or about to be without a word.
        self._is_gone = False
        self._is_paused = False
        #: What was read and is not parsed yet.
        self._rest: memoryview | bytes = b""
        self._reads_on_soon = False
        #: Whether the last response has been written, and what still comes is dropped.
        self._is_lingering = False
        #: When the last response went out, or a piece of a request's body came, by the loop's clock.
        self._idle_since = self.loop.time()
        self._idle_timer: asyncio.TimerHandle | None = None
        #: How fast a body comes, and its bytes since that was last looked at; since when a head comes.
        self._coming: ClientPace | None = None
        self._came_bytes = 0
        self._head_since = 0.0
        #: What is left of a response that is written in pieces.
        self.unwritten_bytes = 0
        #: How fast a response is taken, and what was left of it when that was last looked at.
        self._taking: ClientPace | None = None
        self._unsent_bytes = 0
        self._is_in_head = False
        #: Whether the last read found a head begun, how much it brought, and how much those brought that
        #: neither began nor ended it.
        self._is_head_split = False
        self._read_bytes = 0
        self._more_head_bytes = 0
        #: What the last read brought of a body, and what came of it beside that, as far as it is too much.
        self._body_bytes = self._bare_bytes = 0
        self._pieces = 0  # of bodies, in this turn
        self._target = b""
        #: The target whose parts are in `_scope`.
        self._known_target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        #: Names and values in turn, names as the client spelled them.
        self._raw_headers: list[bytes] = []

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store both addresses; close a connection that is one too many."""
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
        # uvloop's TLS would take 512 KiB of small responses before it says that the client is slow.
        self.transport.set_write_buffer_limits(UNSENT_LIMIT_BYTES)
        connections = cast(set[Any], self._server_state.connections)  # uvicorn's type names its own protocols
        connections.add(self)
        self._close_if_idle()
        if not self._clients.make_room(connections, self, self.loop.time()):
            error = errors.ServiceUnavailable("The gateway is busy.", "connection_limit is reached")
            self.transport.write(standard_responses.whole_error(error, getattr(self._app, "cors", ())))
            self._close_transport()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered; the others are forgotten."""
        self._server_state.connections.discard(cast(Any, self))
        self._clients.forget(self)
        self._is_gone = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self.resume_writing()
        if self._exchanges:
            self._exchanges[0].leave()
        self._exchanges.clear()
        self._rest = b""
        self._clients.let_go(self._kept, self.loop.time())
        self._parser, self._fed = Discarding(self.transport.close, 0), None  # each holds it, too

    def data_received(self, data: bytes) -> None:
        """Parse what came, and have it answered."""
        if len(data) > STEP_BYTES or self._rest:
            self._rest = memoryview(bytes(self._rest) + data if self._rest else data)
            self._take_rest()
        else:
            self._take(data)

    def _take_rest(self) -> None:
        """Take as much of what was read as there is no other request to answer before."""
        body_size = BODY_STEP_BYTES if self._pieces < PIECES_AT_ONCE else STEP_BYTES
        self._pieces = 0
        while self._rest and len(self._exchanges) < 2 and not self.transport.is_closing():
            is_body = self._fed is not None and not self._fed.has_all
            size = body_size if is_body else STEP_BYTES
            piece, self._rest = self._rest[:size], self._rest[size:]
            self._take(piece)
            if self._pieces >= PIECES_AT_ONCE:
                self._pause_reading()
                self._read_on_soon()
                return
        if self._rest:
            self._pause_reading()

    def _take(self, data: bytes | memoryview) -> None:
        self._is_head_split = self._is_in_head
        self._read_bytes = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(offer, data)
        except httptools.HttpParserError as error:
            self._refuse(error, data)
        if self._is_in_head:
            self._bound_head(data)
        elif self._fed is not None and not self._fed.has_all:
            self._came_bytes += len(data)
            self._clients.watch(self, self.loop)
            self._bound_bare_bytes(data)
        if self._exchanges:
            self._go_on(self._exchanges[0])
        elif self._fed is not None and not self._fed.has_all:  # its body is dropped behind its answer
            self._idle_since = self.loop.time()

    def _bound_head(self, data: bytes | memoryview) -> None:
        """Take note of a head that isn't whole, and refuse one without end."""
        self._clients.watch(self, self.loop)
        if not self._is_head_split:
            self._head_since = self.loop.time()
            return
        self._more_head_bytes += len(data)
        if self._more_head_bytes > MORE_HEAD_LIMIT_BYTES:
            self._refuse(ValueError("endless head"), data)

    def _bound_bare_bytes(self, data: bytes | memoryview) -> None:
        """Refuse a body of which hardly anything comes but what stands around its chunks."""
        self._bare_bytes = max(0, self._bare_bytes + len(data) - CHUNK_SHARE * self._body_bytes)
        self._body_bytes = 0
        if self._bare_bytes > MORE_HEAD_LIMIT_BYTES:
            self._refuse(ValueError("endless chunk"), data)

    def _decline(self, offer: Exception, data: bytes | memoryview) -> None:
        """Read on behind a head that offers an upgrade as if it didn't.

        The parser holds what follows such a head for another protocol, and after that would read a body as
        requests. It is never fed again: a new one hears of the same request without the offer. CONNECT is
        such an offer by itself; nothing is read behind its body.
        """
        rest = memoryview(data)
        while True:
            rest = rest[offer.args[0] :]
            offered = self._exchanges.pop().scope
            if offered["method"] == "CONNECT":
                offered["keep_alive"] = False
            self._parser = httptools.HttpRequestParser(self)
            try:
                self._parser.feed_data(framing.without_offer(offered, self._target))
                self._exchanges[-1].scope = offered
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as another:
                offer = another
            except httptools.HttpParserError as error:
                self._refuse(error, data)
                return
            else:
                return

    def _go_on(self, exchange: Exchange) -> None:
        if not exchange.has_all:
            self._idle_since = self.loop.time()
        if exchange.is_running:
            exchange.wake()
        elif not exchange.is_answered and self.drained is None:
            exchange.run(self._app)
        if self._is_behind(exchange):
            self._pause_reading()

    def _is_behind(self, exchange: Exchange) -> bool:
        """Tell whether no more should come for now."""
        return len(self._exchanges) > 1 or (exchange.is_full and not exchange.is_answered)

    def pause_writing(self) -> None:
        """Make a response wait for a client that is slow."""
        now = self.loop.time()
        self.drained = self.loop.create_future()
        self._watch_taking(now)
        self._clients.keep(self._kept, now)

    def resume_writing(self) -> None:
        """Let it go on, and then the requests that came meanwhile."""
        self._taking = None
        if self.drained is not None:
            self.drained.set_result(None)
            self.drained = None
            self.loop.call_soon(self._answer_next)
            self._clients.keep(self._kept, self.loop.time())

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
        self._bare_bytes = self._body_bytes = 0
        if self._is_head_split or self._read_bytes > TARGET_LIMIT_BYTES:
            self._check_limits()
        by_name = dict(self._headers)
        parser = self._parser
        assert isinstance(parser, httptools.HttpRequestParser)  # what is discarded is not parsed
        keep_alive = parser.should_keep_alive()
        version = "1.1"
        # PERF: httptools writes the version anew each time, for 1 % of a request.
        if not keep_alive or b"connection" in by_name:
            version = parser.get_http_version()
        if (
            b"transfer-encoding" in by_name
            or len(by_name) < len(self._headers)
            or version not in framing.VERSIONS
        ):
            framing.check(self._headers, version)
        if self._target != self._known_target:
            self._know(self._target)
        # PERF: half of what a display with all the fields takes.
        scope = self._scope.copy()
        scope["http_version"] = version
        scope["method"] = parser.get_method().decode("ascii")
        scope["headers"] = self._headers
        scope["headers_by_name"] = by_name
        scope["raw_headers"] = self._raw_headers
        scope["keep_alive"] = keep_alive and version != "1.0" and not self._clients.is_leaving
        self._fed = Exchange(self, scope)
        self._exchanges.append(self._fed)
        self._headers = self._raw_headers = framing.TRAILERS

    def _check_limits(self) -> None:
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
        self._body_bytes += len(body)
        self._pieces += 1
        if self._fed is not None and not self._fed.is_answered:
            self._fed.feed(body)

    def on_message_complete(self) -> None:
        """End a request."""
        if self._fed is not None:
            self._fed.feed_end()

    # What exchanges want

    def resume_reading(self) -> None:
        """Read on, first of what was read and not parsed."""
        if self._rest:
            self._read_on_soon()
        elif self._is_paused:
            self._is_paused = False
            self._idle_since = self.loop.time()
            self.transport.resume_reading()

    def _read_on_soon(self) -> None:
        if not self._reads_on_soon:
            self._reads_on_soon = True
            self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        self._reads_on_soon = False
        self._take_rest()
        is_behind = self._exchanges and self._is_behind(self._exchanges[0])
        if not (self._rest or is_behind or self.transport.is_closing()):
            self.resume_reading()

    def answered(self) -> None:
        """Go on to the next request."""
        self._server_state.total_requests += 1
        self._exchanges.popleft()
        if self.transport.is_closing():
            return
        self._idle_since = self.loop.time()
        if self._exchanges:
            self.loop.call_soon(self._answer_next)
        elif self._rest or self._is_paused:
            self.resume_reading()

    def close(self) -> None:
        """End the connection behind what has been written, so that the client can read that."""
        if self._is_lingering or self.transport.is_closing():
            return
        if not self._may_more_come():
            self._close_transport()
            return
        self._is_lingering = True
        discarding = self._parser if isinstance(self._parser, Discarding) else self._discard()
        while len(self._exchanges) > 1:
            self._exchanges.pop()
        # TLS has no such thing: there the response says that it is the last.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.resume_reading()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._linger(discarding, LINGER_LIMIT_S)

    def _close_transport(self) -> None:
        """Close behind what is unsent, of which it may be that nobody takes it."""
        self.transport.close()
        if self._taking is None and self.transport.get_write_buffer_size():
            self._watch_taking(self.loop.time())

    def _watch_taking(self, now: float) -> None:
        self._taking = self._clients.pace(now)
        self._unsent_bytes = not_taken_bytes(self.transport)
        self._clients.watch(self, self.loop)

    def _may_more_come(self) -> bool:
        is_body_due = self._fed is not None and not self._fed.has_all
        is_discarding = isinstance(self._parser, Discarding)
        is_behind = self._is_paused or bool(self._rest) or len(self._exchanges) > 1
        return is_discarding or is_body_due or self._is_in_head or is_behind

    def _discard(self, limit_bytes: float = math.inf) -> Discarding:
        """Drop all that comes from here on."""
        self._parser = discarding = Discarding(self.transport.close, limit_bytes)
        self._is_in_head = False
        self._fed = None
        return discarding

    def _linger(self, discarding: Discarding, left_s: float) -> None:
        """Close once the client has stopped sending; it closes by itself when it has read the response."""
        taken_bytes = discarding.taken_bytes

        def look() -> None:
            if discarding.taken_bytes == taken_bytes or left_s <= LINGER_STEP_S:
                self._close_transport()
            else:
                self._linger(discarding, left_s - LINGER_STEP_S)

        self._idle_timer = self.loop.call_later(LINGER_STEP_S, look)

    def _answer_next(self) -> None:
        if self._exchanges:
            self._go_on(self._exchanges[0])

    # What is too slow, or too much

    def kept_bytes(self) -> int:
        """Return what is kept for the client: of responses, and of requests that wait for those."""
        if self._is_gone:
            return 0
        unsent_bytes = 0
        if self.drained is not None:
            unsent_bytes = self.transport.get_write_buffer_size() + self.unwritten_bytes
        if not self._rest and len(self._exchanges) < 2:
            return unsent_bytes
        headers = sum(len(exchange.scope.get("raw_headers", ())) for exchange in self._exchanges) // 2
        parsed_bytes = REQUEST_BYTES * len(self._exchanges) + HEADER_BYTES * headers
        return unsent_bytes + len(self._rest) + parsed_bytes

    def look(self, now: float) -> bool:
        """Check how fast the client is; return False where nothing is expected of it."""
        if self._is_gone:
            return False
        is_last = self.transport.is_closing() or self._is_lingering
        is_sending = not is_last and self._judge_sending(now)
        is_taking = self._taking is not None and self._judge_taking(self._taking, now)
        is_kept = self._is_paused and len(self._exchanges) > 1
        if is_taking or is_kept:
            self._clients.keep(self._kept, now)
        return is_sending or is_taking or is_kept

    def _judge_sending(self, now: float) -> bool:
        body = self._fed if self._fed is not None and not self._fed.has_all else None
        came_bytes, self._came_bytes = self._came_bytes, 0
        if self._is_in_head and not self._is_paused:
            if now - self._head_since > self._clients.config.head_timeout_s:
                self.time_out()
            return True
        if body is None or self._is_paused or not (body.is_answered or body.is_reading):
            self._coming = None
            self._head_since = now
            return body is not None or self._is_in_head
        self._coming = self._coming or self._clients.pace(now)
        self._coming.move(came_bytes, now=now)
        if self._coming.is_late(now):
            self.time_out()
        return True

    def _judge_taking(self, taking: ClientPace, now: float) -> bool:
        before, self._unsent_bytes = self._unsent_bytes, not_taken_bytes(self.transport)
        taking.move(max(0, before - self._unsent_bytes), now=now)
        if taking.is_late(now):
            self.drop()
        return True

    def stood_still(self, for_s: float) -> None:
        """Count no time in which this process did not run against the client."""
        self._head_since, self._idle_since = self._head_since + for_s, self._idle_since + for_s
        for pace in filter(None, (self._coming, self._taking)):
            pace.stood_still(for_s)

    def time_out(self) -> None:
        """Answer 408 in the place of a request that comes too slowly."""
        if self._is_in_head or (self._exchanges and not self._exchanges[-1].has_all):
            self._answer_and_end(errors.RequestTimeout("The request came too slowly."))
            self._answer_next()
        else:
            self._close_transport()  # of what has its answer, only the rest of its body

    def slowness(self, now: float) -> float | None:
        """Return the bytes per second of a body that comes slowly, None where none does."""
        return None if self._coming is None else self._coming.slowness(now)

    def rank(self, now: float) -> tuple[int, float] | None:
        """Return the order of closing where others need its place, lowest first; None: it is not closed.

        First who has asked for nothing yet, or has its answer and doesn't go; then who is slow; then who
        may ask again. A request that is being answered is closed for nobody.
        """
        if self._is_gone:
            return None
        if self._is_lingering or not (self._known_target or self._exchanges):
            return 0, self._idle_since
        for pace in (self._coming, self._taking):
            rate = None if pace is None else pace.slowness(now)
            if rate is not None:
                return 1, rate
        is_busy = self._exchanges or self._coming is not None or self.drained is not None
        return None if is_busy else (2, self._idle_since)

    def drop(self) -> None:
        """Close the connection at once, and drop what is unsent."""
        self._is_gone = True
        reset(self.transport)

    # Ends

    def shutdown(self) -> None:
        """Let the response in progress be the last; uvicorn calls this when it stops."""
        if self._exchanges and not self._is_lingering:
            self._exchanges[-1].be_last()
        elif self.transport.get_write_buffer_size():
            self._close_transport()
        else:
            # Closing TLS waits for the client to say goodbye, too, which one that is idle doesn't do.
            self.transport.abort()

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
            self._close_transport()

    def _pause_reading(self) -> None:
        if not self._is_paused and not self.transport.is_closing():
            self._is_paused = True
            self.transport.pause_reading()
            if len(self._exchanges) > 1:
                self._clients.watch(self, self.loop)
                self._clients.keep(self._kept, self.loop.time())

    def _refuse(self, why: Exception, received: bytes | memoryview) -> None:
        """Refuse what can't be parsed, or has a method that the parser doesn't know, behind all before it."""
        error: errors.RelayError = errors.BadRequest("Invalid HTTP message.")
        is_method = isinstance(why, httptools.HttpParserInvalidMethodError) and not self._exchanges
        if is_method and framing.REQUEST_LINE.match(received):
            error = errors.MethodNotAllowed()
        self._answer_and_end(error)

    def _answer_and_end(self, error: errors.RelayError) -> None:
        """Have an error be the last response, in the place of the request whose body doesn't end."""
        if self._exchanges and not self._exchanges[-1].has_all:
            broken = self._exchanges.pop()
            broken.leave()
            if broken.has_begun:
                self.close()
                return
        refusal = Refusal(self, standard_responses.whole_error(error, getattr(self._app, "cors", ())))
        self._exchanges.append(refusal)
        self._discard(LINGER_LIMIT_BYTES)
