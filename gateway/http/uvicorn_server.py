"""Uvicorn's server with listeners of both kinds: http as uvicorn has it, https beside it.

The first byte on an https connection tells what is spoken: TLS goes on to uvicorn's protocol, plain HTTP is
answered 403 in TorchServe's words. All of it runs on the event loop; nothing here blocks.
"""

import asyncio
import contextlib
import errno
import logging
import signal
import socket as sockets
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import FrameType

import uvicorn

from torchrelay.gateway.http import standard_responses
from torchrelay.gateway.http.addresses import Key
from torchrelay.shared import clock
from torchrelay.shared.api_bodies import StatusBody

logger = logging.getLogger(__name__)

#: A TLS record's first byte when a handshake begins; no HTTP request begins so.
_HANDSHAKE = b"\x16"
#: How long a client may take to say its first byte, and then again for its part of the handshake.
_PATIENCE_S = 15.0
#: New connections taken before other callbacks have their turn.
_ACCEPT_BUDGET = 64
#: What `accept` fails with while there is no room for a connection, and how long the others are let wait
#: then, as asyncio's own listeners do: they would only be refused again and again.
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
ACCEPT_RETRY_S = 1.0
#: Between the last connection that a stopping process takes, and the end of those on which nobody has asked.
LAST_REQUESTS_S = 0.5
#: What is read of a request that is refused, so that closing doesn't overtake the answer.
_DISCARD_BYTES = 64 * 1024


class Server(uvicorn.Server):
    """Serves on all listeners; `certificates` has a TLS context for each https one, by its port.

    On SIGTERM it says that it leaves, by `leave`, and goes on for `lead_s`: whoever shares out requests has
    that long to notice, and finds open listeners meanwhile.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        certificates: Mapping[Key, ssl.SSLContext],
        cors: Iterable[tuple[bytes, bytes]],
        connection_limit: int,
        *,
        leave: Callable[[], None],
        lead_s: float,
    ) -> None:
        super().__init__(config)
        self.lead_s = lead_s
        self._leave = leave
        #: When SIGTERM came, and whether that has been said.
        self._told_at: float | None = None
        self._has_left = False
        self._handshake_limit = max(1, connection_limit // 8)
        self._certificates = certificates
        self._refusal = _http_refused(cors)

    async def startup(self, sockets: list[sockets.socket] | None = None) -> None:
        """Start the http listeners, then the https ones, which end as the others do."""
        self.lifespan.state["is_told"] = self._is_told
        listeners = [(socket, self._certificate_of(socket)) for socket in sockets or []]
        await super().startup([socket for socket, certificate in listeners if certificate is None])
        for socket, certificate in listeners:
            if certificate is not None:
                listener = TlsListener(
                    socket, certificate, self._make_protocol, self._refusal, self._handshake_limit
                )
                self.servers.append(listener)  # type: ignore[arg-type]  # has what uvicorn uses of it

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop as the base does, but for SIGTERM: once its lead is over."""
        if sig != signal.SIGTERM:
            super().handle_exit(sig, frame)
        elif self._told_at is None:
            self._told_at = clock.monotonic()

    async def on_tick(self, counter: int) -> bool:
        """Do what is due ten times a second; return whether it is time to stop."""
        if self._told_at is not None:
            if not self._has_left:
                self._has_left = True
                self._leave()
            if clock.monotonic() >= self._told_at + self.lead_s:
                self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[sockets.socket] | None = None) -> None:
        """Take no more connections, and stop as the base does once those taken last had time to ask.

        The base resets what has no request yet, though it be on its way, as it always is on a new connection.
        """
        for server in self.servers:
            server.close()
        await asyncio.sleep(LAST_REQUESTS_S)
        await super().shutdown(sockets)

    def _is_told(self) -> bool:
        """Whether this process has been told to stop."""
        return self.should_exit or self._told_at is not None

    def _certificate_of(self, socket: sockets.socket) -> ssl.SSLContext | None:
        name = socket.getsockname()
        return self._certificates.get(name[1]) if isinstance(name, tuple) else None

    def _make_protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn does
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


@dataclass(eq=False)
class TlsListener:
    """One https listener, with the `close` and `wait_closed` of an asyncio server.

    It isn't `loop.create_server(ssl=...)`: that hands plain HTTP to OpenSSL, which closes the connection
    where TorchServe answers 403 in words, and it holds as many connections without a handshake as come.
    """

    _socket: sockets.socket
    _certificate: ssl.SSLContext
    _make_protocol: Callable[[], asyncio.Protocol]
    _http_refused: bytes
    #: Of connections that have said nothing yet, and of handshakes: for one more, the oldest goes.
    _handshake_limit: int

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        #: Connections that have said nothing yet, each with the timer that ends it.
        self._silent: dict[sockets.socket, asyncio.TimerHandle] = {}
        self._handshakes: dict[asyncio.Task[None], None] = {}
        #: Set while no connections are taken because there is no room for one.
        self._retry: asyncio.TimerHandle | None = None
        self._socket.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Take no more connections and drop those that aren't one yet."""
        self._loop.remove_reader(self._socket.fileno())
        if self._retry is not None:
            self._retry.cancel()
        for connection in list(self._silent):
            self._drop(connection)
        for handshake in list(self._handshakes):
            handshake.cancel()

    async def wait_closed(self) -> None:
        """Wait until nothing is left of what `close` ended."""
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    def _listen(self) -> None:
        self._retry = None
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPT_BUDGET):
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:  # the client has gone already, or there are too many open files
                logger.warning("gateway.accept_failed", extra={"reason": str(error)})
                if error.errno in _NO_ROOM:
                    self._loop.remove_reader(self._socket.fileno())
                    self._retry = self._loop.call_later(ACCEPT_RETRY_S, self._listen)
                return
            connection.setblocking(False)
            self._silent[connection] = self._loop.call_later(_PATIENCE_S, self._drop, connection)
            self._loop.add_reader(connection.fileno(), self._look, connection)
            if len(self._silent) > self._handshake_limit:
                self._drop(next(iter(self._silent)))

    def _look(self, connection: sockets.socket) -> None:
        """Tell by its first byte, which stays in the kernel, whether a connection speaks TLS."""
        try:
            first = connection.recv(1, sockets.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            first = b""
        if first != _HANDSHAKE:
            if first:
                self._refuse(connection)
            self._drop(connection)
            return
        self._forget(connection)
        handshake = self._loop.create_task(self._shake_hands(connection))
        self._handshakes[handshake] = None
        handshake.add_done_callback(lambda ended: self._handshakes.pop(ended, None))
        if len(self._handshakes) > self._handshake_limit:
            oldest = next(iter(self._handshakes))
            # Now, since it ends in a later turn, and others may come in this one.
            del self._handshakes[oldest]
            oldest.cancel()

    async def _shake_hands(self, connection: sockets.socket) -> None:
        # A handshake that fails is the client's affair, and scanners' everyday business.
        with contextlib.suppress(OSError):
            await self._loop.connect_accepted_socket(
                self._make_protocol,
                connection,
                ssl=self._certificate,
                ssl_handshake_timeout=_PATIENCE_S,
            )

    def _refuse(self, connection: sockets.socket) -> None:
        with contextlib.suppress(OSError):
            connection.recv(_DISCARD_BYTES)
            connection.send(self._http_refused)
            connection.shutdown(sockets.SHUT_WR)

    def _forget(self, connection: sockets.socket) -> None:
        self._loop.remove_reader(connection.fileno())
        self._silent.pop(connection).cancel()

    def _drop(self, connection: sockets.socket) -> None:
        self._forget(connection)
        connection.close()


def _http_refused(cors: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write TorchServe's answer to plain HTTP where TLS is spoken."""
    body = standard_responses.pretty(
        StatusBody(status="This TorchServe instance only accepts HTTPS requests")
    )
    headers = [
        *standard_responses.json_headers(body),
        *standard_responses.STANDARD_HEADERS,
        *cors,
        (b"connection", b"close"),
    ]
    return b"HTTP/1.1 403 Forbidden\r\n" + standard_responses.lines(headers) + b"\r\n" + body
