"""What all APIs have: TorchServe's rules of paths, a check of keys, a description, errors as JSON."""

import logging
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import falcon
import falcon.asgi
from falcon.asgi import Response
from falcon.routing import CompiledRouter

from torchrelay.gateway import auth
from torchrelay.gateway.api import responses
from torchrelay.gateway.api.gateway_request import GatewayRequest
from torchrelay.gateway.http.exchange import HEAD_EXTENSION, ClientLeft, Receive, Scope, Send
from torchrelay.gateway.link import Link
from torchrelay.gateway.openapi import documents
from torchrelay.shared import errors
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire.fields import KeyedApi

logger = logging.getLogger(__name__)

#: Enough for all models of one server; a path has at most 4 KiB.
PATHS_REMEMBERED = 1024

#: Statuses whose responses have no body, and say nothing of its length.
_BODILESS = (100, 101, 204, 304)


class App(falcon.asgi.App[GatewayRequest, Response]):
    """Falcon's application, with its routes and handlers of errors, and a shorter way from one to the other.

    PERF: falcon's own has middleware, media and events, none of which is used here: 4 % of a request.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]  # falcon's own types
        """Answer one request."""
        first_event = await receive()
        if first_event["type"] == "http.disconnect":
            return
        req = GatewayRequest(scope, receive, first_event, self.req_options)
        resp = Response(self.resp_options)
        params: dict[str, Any] = {}
        try:
            responder, params, _, _ = self._get_responder(req)
            await responder(req, resp, **params)  # type: ignore[misc, arg-type]  # falcon's has websockets
        except Exception as error:  # boundary: falcon knows who answers which error
            if not await self._handle_exception(req, resp, error, params):
                raise
        status = resp.status if type(resp.status) is int else resp.status_code
        data, stream = resp.data, resp.stream
        if status not in _BODILESS and (data is not None or stream is None):
            resp._headers["content-length"] = str(len(data)) if data else "0"
        start = {"type": "http.response.start", "status": status, "headers": resp._asgi_headers()}
        if req.method == "HEAD" or status in _BODILESS:
            data = b""
        if data is None and stream is not None:
            await send(start)
            await _send_parts(send, stream)
        elif HEAD_EXTENSION in scope.get("extensions", ()):
            start["body"] = data or b""
            await send(start)
        else:
            await send(start)
            await send({"type": "http.response.body", "body": data or b""})


def bare_app(
    description: documents.Document, link: Link, config: GatewaySettings, default_api: KeyedApi | None
) -> App:
    """Make an app without routes of its own: its description, its errors, its check of keys."""
    key_check = KeyCheck(link, default_api) if config.token_authorization and default_api else None
    app = App(request_type=GatewayRequest, router=Router(key_check))
    # A prediction has no content type unless its handler sets one; falcon's type knows no such option.
    app.resp_options.default_media_type = None  # type: ignore[assignment]
    app.add_error_handler(falcon.HTTPError, answer_http_error)
    app.add_error_handler(errors.RelayError, answer_relay_error)
    app.add_error_handler(ClientLeft, record_client_left)
    if key_check is not None:
        app.add_error_handler(errors.TooManyWrongKeys, key_check.answer_wrong_keys)
    app.add_error_handler(Exception, answer_bug)
    app.add_route("/", DescriptionResource(description), suffix="root")
    app.add_route("/api-description", DescriptionResource(description))
    return app


async def _send_parts(send: Send, parts: Any) -> None:  # Any: what falcon takes for a stream
    """Send a body that comes in parts; they are closed, however it ends."""
    try:
        async for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
    finally:
        await parts.close()
    await send({"type": "http.response.body"})


@dataclass(eq=False)
class Resource:
    """What answers at a path."""

    #: The API whose key is needed; None: no key.
    opened_by: ClassVar[KeyedApi | None]

    _link: Link
    _config: GatewaySettings


@dataclass
class KeyCheck:
    """Refuses requests without a key of their API; a path without a route needs one of the default API."""

    _link: Link
    _default_api: KeyedApi

    def check(self, req: GatewayRequest, resource: Any) -> None:  # Any: as falcon hands it
        """Raise what `Link.authorise` raises, for a path whose resource is this (None: no resource)."""
        api: KeyedApi | None = self._default_api if resource is None else resource.opened_by
        if api is not None:
            client = req.scope.get("client")
            self._link.authorise(api, req.auth, client[0] if client else "")

    async def answer_wrong_keys(
        self, _req: GatewayRequest, resp: Response, error: errors.TooManyWrongKeys, _params: object
    ) -> None:
        """Answer a client that has sent too many wrong keys, after a delay."""
        await self._link.hold_back()
        responses.answer_error(resp, error, error.status)
        resp.set_header("retry-after", str(int(auth.WRONG_KEYS_WINDOW_S)))


class Router(CompiledRouter):
    """Falcon's router with TorchServe's rules: trailing slashes are dropped, leading ones count.

    Keys are checked here, where the path has just been understood and nothing has been done yet: no
    route can be without a check, and no check can understand a path otherwise than its route.
    """

    _BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")

    def __init__(self, key_check: KeyCheck | None) -> None:
        super().__init__()
        self.options.default_to_on_request = True
        self._key_check = key_check
        #: What falcon found at paths, by path.
        self._found: dict[str, Any] = {}  # Any: falcon's own

    def find(self, uri: str, req: Any = None) -> Any:  # as in falcon's own signature
        """Find the route of a decoded path. Raises what the check of keys raises, and BadRequest."""
        found = self._found.get(uri)
        is_broken = found is None and "%" in uri and self._BAD_ESCAPE.search(req.scope.get("raw_path", b""))
        if found is None and not is_broken:
            found = self._look_up(uri, req)
        if self._key_check is not None:
            self._key_check.check(req, None if found is None else found[0])
        if is_broken:
            raise errors.BadRequest("The path has a percent sign that is no escape.")
        return found

    def _look_up(self, uri: str, req: Any) -> Any:  # as in falcon's own signature
        """Find a route, and remember it, since clients ask for the same few paths again and again.

        PERF: 8,500 instructions, a remembered one 400.
        """
        found = None if uri.startswith("//") else super().find(uri.rstrip("/"), req)
        if found is not None and "%" not in uri:
            if len(self._found) >= PATHS_REMEMBERED:
                self._found.clear()
            self._found[uri] = found
        return found


@dataclass(eq=False)
class DescriptionResource:
    """The port's OpenAPI document: any method of `/api-description` gets it, and OPTIONS of `/`."""

    opened_by = None

    _description: documents.Document

    async def on_request(self, _req: GatewayRequest, resp: Response) -> None:
        """Answer with the document."""
        responses.answer(resp, self._description)

    on_options = on_options_root = on_request


async def answer_relay_error(
    req: GatewayRequest, resp: Response, error: errors.RelayError, _params: object
) -> None:
    """Answer with an error of ours; a body that is too large gets TorchServe's bare 413."""
    if isinstance(error, errors.RequestTooLarge):
        req.scope["is_bare"] = True
        resp.status = error.status
        if req.content_length is None or not req.scope.get("keep_alive", True):
            # The rest of a chunked body has no known end, and one that is held back may come or not: the
            # connection can't be used again.
            resp.set_header("connection", "close")
        return
    responses.answer_error(resp, error, error.status)


async def answer_http_error(
    req: GatewayRequest, resp: Response, error: falcon.HTTPError, _params: object
) -> None:
    """Answer with TorchServe's error for what falcon refuses."""
    match error.status_code:
        case 404:
            ours: errors.RelayError = errors.ResourceNotFound()
        case 405:
            ours = errors.MethodNotAllowed()
        case 400 if req.method not in falcon.COMBINED_METHODS:
            ours = errors.MethodNotAllowed()
        case _:
            ours = errors.BadRequest(error.description or error.title)
    responses.answer_error(resp, ours, ours.status)


async def record_client_left(
    _req: GatewayRequest, resp: Response, _error: ClientLeft, _params: object
) -> None:
    """Set status 499 for metrics and the access log: the client has left."""
    resp.status = 499


async def answer_bug(req: GatewayRequest, resp: Response, error: Exception, _params: object) -> None:
    """Answer 500 for an exception that is a bug of ours, and log it."""
    facts = {"path": quoted(req.path), "request": req.scope["request_id"]}
    logger.error("gateway.bug", exc_info=error, extra=facts)
    ours = errors.InternalError(
        "Internal server error.", f"{type(error).__name__}; the gateway's log has more"
    )
    responses.answer_error(resp, ours, ours.status)
