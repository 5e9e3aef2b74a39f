"""The ASGI application itself: picks the API by the listener, and gives every response what all have.

Where nobody needs a key, requests of other sites' pages end here, before anything of theirs is read.

No middleware: what every response needs is added where its head goes out, whoever made it.
"""

import logging
from collections.abc import Awaitable, Mapping
from dataclasses import InitVar, dataclass

from torchrelay.gateway.http import standard_responses
from torchrelay.gateway.http.access_log import AccessLog
from torchrelay.gateway.http.addresses import Key
from torchrelay.gateway.http.browsers import BrowserCheck
from torchrelay.gateway.http.clients import Clients
from torchrelay.gateway.http.exchange import HEAD_EXTENSION, AsgiApp, Event, Receive, Scope, Send
from torchrelay.gateway.link import Link
from torchrelay.shared import clock, errors, ids
from torchrelay.shared.logs import logs
from torchrelay.shared.settings import GatewaySettings

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class ListenerApp:
    """All APIs of one process. `apps` are by what tells their listeners apart: port or socket path.

    `guarded` are those that ask for keys, `checks` tell other sites' pages where the rest doesn't.
    """

    _link: Link
    _apps: Mapping[Key, AsgiApp]
    _guarded: Mapping[Key, AsgiApp]
    _checks: Mapping[Key, BrowserCheck]
    config: InitVar[GatewaySettings]

    def __post_init__(self, config: GatewaySettings) -> None:
        self._refusals = logs.LogRateLimit()
        #: What every response has that doesn't say otherwise; empty where no other site may use us.
        self.cors = standard_responses.cors_headers(config)
        waiting_bodies = self._link.bodies_waiting_long
        self._clients = Clients(config, self._link.unsent, waiting_bodies, writes=self._link.writes)
        self._access = AccessLog(config.access_log, config.log_limits) if config.access_log else None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one connection of ASGI: a request, or the life of the process.

        PERF: no coroutine of its own, so that one less is made and resumed for each request.
        """
        if scope["type"] == "lifespan":
            return self._live(scope, receive, send)
        host, port = scope["server"]
        request_id = scope["request_id"] = ids.request_id()

        def respond(message: Event) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                self._complete(message, scope, request_id)
            return send(message)

        answer = respond if self._access is None else self._access.watch(scope, respond)
        key = host if port is None else port
        if self._link.asks_for_keys:
            return self._guarded[key](scope, receive, answer)
        refusal = self._checks[key].refusal(scope)
        if refusal is not None:
            return self._refuse(refusal, scope, answer)
        return self._apps[key](scope, receive, answer)

    def leave(self) -> None:
        """Say from now on that this process leaves: it isn't ready, and each answer ends its connection."""
        logger.info("gateway.leaving")
        self._link.is_leaving = self._clients.is_leaving = True

    def add_own_name(self, name: str) -> None:
        """Take note of a name of this host, by which callers may ask for it; from any thread."""
        for check in self._checks.values():
            check.add_own_name(name)

    async def _refuse(self, error: errors.ForeignPage, scope: Scope, send: Send) -> None:
        count = self._refusals.count(clock.monotonic())
        if count:
            client = (scope.get("client") or ("",))[0]
            facts = {"client": client, "path": scope["path"][:200], "count": count, "reason": error.message}
            logger.warning("gateway.foreign_page", extra=facts)
        body = standard_responses.error_body(error, error.status)
        headers = list(standard_responses.json_headers(body))
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _complete(self, message: Event, scope: Scope, request_id: str) -> None:
        status = message["status"]
        if "is_uncounted" not in scope:
            self._link.count_response(status)
        if self.cors:
            said = {name for name, _ in message["headers"]}
            message["headers"] += [header for header in self.cors if header[0] not in said]
        if "reason" in scope:
            message["reason"] = scope["reason"]
        if "is_bare" in scope:
            return
        keep_alive = status < 400 and scope.get("keep_alive", True)
        if keep_alive and HEAD_EXTENSION in scope.get("extensions", ()):
            message["lines"] = standard_responses.kept_alive_lines(request_id)
        else:
            message["headers"] += standard_responses.standard_headers(request_id, keep_alive=keep_alive)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold the link while the process serves; uvicorn ends requests before it says shutdown."""
        await receive()
        state = scope.setdefault("state", {})
        state["clients"] = self._clients
        await self._link.start()
        if self._link.asks_for_keys:
            # Which keys open is known then; what needs none is taken in before, and waits for the broker.
            await self._link.until_up(state.get("is_told", lambda: False))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._link.close()
        if self._access is not None:
            self._access.close()
        await send({"type": "lifespan.shutdown.complete"})
