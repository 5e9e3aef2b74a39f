"""The ASGI application itself: picks the API by the listener, and gives every response what all have.

No middleware: what every response needs is added where its head goes out, whoever made it.
"""

from collections.abc import Awaitable, Mapping

from torchrelay.gateway import presenting
from torchrelay.gateway.access import AccessLog
from torchrelay.gateway.addresses import Key
from torchrelay.gateway.exchange import HEAD_EXTENSION, AsgiApp, Event, Receive, Scope, Send
from torchrelay.gateway.link import Link
from torchrelay.shared import ids
from torchrelay.shared.settings import GatewaySettings


class Edge:
    """All APIs of one process. `apps` are by what tells their listeners apart: port or socket path."""

    def __init__(self, link: Link, apps: Mapping[Key, AsgiApp], config: GatewaySettings) -> None:
        self._link = link
        self._apps = apps
        #: What every response has that doesn't say otherwise; empty where no other site may use us.
        self.cors = presenting.cors_headers(config)
        self._access = AccessLog(config.access_log, config.log_limits) if config.access_log else None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one connection of ASGI: a request, or the life of the process.

        PERF: no coroutine of its own, so that one less is made and resumed for each request.
        """
        if scope["type"] == "lifespan":
            return self._live(receive, send)
        host, port = scope["server"]
        request_id = scope["request_id"] = ids.request_id()

        def respond(message: Event) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                self._complete(message, scope, request_id)
            return send(message)

        answer = respond if self._access is None else self._access.watch(scope, respond)
        return self._apps[host if port is None else port](scope, receive, answer)

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
            message["lines"] = presenting.kept_alive_lines(request_id)
        else:
            message["headers"] += presenting.standard_headers(request_id, keep_alive=keep_alive)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Hold the link while the process serves; uvicorn ends requests before it says shutdown."""
        await receive()
        await self._link.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._link.close()
        if self._access is not None:
            self._access.close()
        await send({"type": "lifespan.shutdown.complete"})
