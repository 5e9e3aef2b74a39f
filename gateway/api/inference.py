"""The inference API: any method predicts, and what the handler answers is passed on as it is.

Resources here hold no state of a request. A model's name and version are the path's, decoded.
"""

import re
from collections.abc import Sequence

from falcon.asgi import Response

from torchrelay.gateway.api import request_inputs, responses, streams
from torchrelay.gateway.api.base_app import Resource
from torchrelay.gateway.api.gateway_request import GatewayRequest
from torchrelay.gateway.calls import model_calls
from torchrelay.gateway.calls.prediction_jobs import NAME_LIMIT_CHARACTERS, STATUSES, Input, failure
from torchrelay.gateway.http.standard_responses import SERVER_OWNED_HEADERS
from torchrelay.gateway.link import Link
from torchrelay.gateway.openapi import documents
from torchrelay.shared import clock, errors
from torchrelay.shared.deadlines import TIMEOUT_HEADER, TIMEOUT_LIMIT_MS
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

Headers = Sequence[tuple[str, str]]

_TIMEOUT_HEADER = TIMEOUT_HEADER.encode()
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class PingResource(Resource):
    """`/ping`: whether every model has the workers that it should have, for load balancers."""

    opened_by = "inference"

    async def on_request(self, _req: GatewayRequest, resp: Response, rest: str = "") -> None:
        """Answer any method, below any path."""
        body = await model_calls.health(self._link)
        responses.answer(resp, body, 200 if body.status == "Healthy" else 500)

    on_options = on_request


class PredictingResource(Resource):
    """Base of the routes that name a model: OPTIONS describes them, any other method predicts."""

    opened_by = "inference"

    def __init__(self, link: Link, config: GatewaySettings, *, explain: bool = False) -> None:
        super().__init__(link, config)
        self._explain = str(explain)
        self._sequence_header = config.header_key_sequence_id.lower().encode("latin-1")

    async def on_options(
        self, _req: GatewayRequest, resp: Response, model: str, version: str | None = None, rest: str = ""
    ) -> None:
        """Answer with the model's own API description, if there is such a model."""
        await self._link.ask(m.DescribeModel(0, model, version), m.ModelDescribed)
        responses.answer(resp, documents.of_model(model, self._config))

    async def _read(self, req: GatewayRequest) -> list[Input]:
        note_timeout(req)
        limit, content_type = self._config.max_request_size, req.content_type or ""
        media_type, form = request_inputs.understood(content_type)
        if form:
            return request_inputs.read_inputs(await req.read_body(limit, self._link), content_type)
        return [("body", media_type, await req.read_input(limit, self._link))]

    async def _predict(
        self,
        req: GatewayRequest,
        resp: Response,
        model: str,
        version: str | None,
        inputs: Sequence[Input],
        added: Headers = (),
    ) -> None:
        """Run a job with the client's headers and, behind them so that they win, those `added`.

        `inputs` are not to be held by the caller: what of them is lent would be held twice.
        """
        if not req.has(b"content-length"):
            added = (("content-length", str(sum(len(value) for _, _, value in inputs))), *added)
        meta, frames = codec.pack_request(
            req.scope["request_id"], added, inputs, client_head(req, self._config)
        )
        sequence = req.text_of(self._sequence_header)
        job = self._link.submit(
            model, version, meta, frames, sequence=sequence, is_let_in=req.was_read_in_pieces,
            answer_by=req.answer_by,
        )  # fmt: skip
        del inputs, frames
        answer = await job
        response, body = codec.unpack_response(answer.meta, answer.frames)
        if response.error is not None:
            self._answer_error(resp, *failure(response))
        else:
            try:
                pass_head(req, resp, response)
            except errors.PredictionFailed:
                self._link.forget(job)  # parts may be on their way
                raise
            # PERF: Falcon and uvicorn send a memoryview as well as bytes; a copy of 6 MB costs 1 ms.
            resp.data = body  # type: ignore[assignment]
        if not answer.is_final:
            streams.begin(req, resp, self._link, job, bytes(body))

    def _answer_error(self, resp: Response, error: errors.RelayError, status: int) -> None:
        """Answer with what became of a job."""
        responses.answer_error(resp, error, status)


class PredictionsResource(PredictingResource):
    """`/predictions` and `/explanations`: /{model}[/{version}[/{rest of a path for the handler}]]."""

    async def on_request(
        self, req: GatewayRequest, resp: Response, model: str, version: str | None = None, rest: str = ""
    ) -> None:
        """Predict; the query does not reach the handler."""
        added = (("explain", self._explain), ("url_path", rest))
        await self._predict(req, resp, model, version, await self._read(req), added)


class InvokeResource(PredictingResource):
    """`/models/{model}/invoke`: query parameters are inputs too."""

    async def on_request(
        self, req: GatewayRequest, resp: Response, model: str, version: str | None = None
    ) -> None:
        """Predict; an input of the body replaces one of the query."""
        of_query = request_inputs.query_inputs(req.query_string)
        await self._predict(req, resp, model, version, request_inputs.merged(of_query, await self._read(req)))


class OldPredictionsResource(InvokeResource):
    """`/{model}[/{version}]/predict`, TorchServe's oldest route; names of other routes are no models."""

    _OTHERS = frozenset(("models", "invocations", "api-description"))

    async def on_request(
        self, req: GatewayRequest, resp: Response, model: str, version: str | None = None
    ) -> None:
        """Predict."""
        if model in self._OTHERS:
            raise errors.ResourceNotFound
        await super().on_request(req, resp, model, version)


class InvocationsResource(PredictingResource):
    """`/invocations`: the model is named by the input `model_name`."""

    async def on_request(self, req: GatewayRequest, resp: Response) -> None:
        """Predict; without a model's name, with the one that was loaded at the start, if it was only one."""
        query = request_inputs.query_inputs(req.query_string)
        # Before the body is read: a body that is in memory while this waits would not be counted.
        named = await self._named(query)
        inputs = request_inputs.merged(query, await self._read(req))
        await self._predict(req, resp, named or _required(inputs), None, inputs)

    async def on_options(self, req: GatewayRequest, resp: Response) -> None:  # type: ignore[override]
        """Answer with the model's own API description. The model isn't in the path."""
        query = request_inputs.query_inputs(req.query_string)
        await super().on_options(req, resp, await self._named(query) or _required(query))

    async def _named(self, query: list[Input]) -> str | None:
        """Return the model that the query names, or else the only one of the start; None without either."""
        asked = _value(query, "model_name")
        if asked:
            return asked
        read = await self._link.ask(m.ReadFleet(0), m.FleetRead)
        if set(read.loading) - {version.url for version in read.versions}:
            raise errors.ServiceUnavailable(
                "The models named at start are being registered.",
                "name a model, or try again later: which one is meant is known once they are registered",
            )
        started = {version.model for version in read.versions if version.loaded_at_startup}
        return started.pop() if len(started) == 1 else None


def _required(inputs: list[Input]) -> str:
    """Return the model that an input names. Raises BadRequest where there is none."""
    model = _value(inputs, "model_name")
    if model is None:
        raise errors.BadRequest("Parameter model_name is required.")
    return model


def _value(inputs: list[Input], wanted: str) -> str | None:
    value = next((value for name, _, value in inputs if name == wanted), None)
    if value is not None and len(value) > NAME_LIMIT_CHARACTERS:
        raise errors.BadRequest(f"Parameter {wanted} has more than {NAME_LIMIT_CHARACTERS} bytes.")
    return None if value is None else str(codec.payload(value), "utf-8", "replace")


class KserveV1Resource(PredictingResource):
    """`/v1/models/{model}:predict` and `:explain`; the handler reads the payload."""

    async def on_request(self, req: GatewayRequest, resp: Response, target: str) -> None:
        """Predict or explain; what follows the verb is ignored, as in TorchServe."""
        model = target.partition(":")[0]
        explain = kserve_verb(target)
        if explain is None:
            raise errors.ResourceNotFound
        await self._predict(req, resp, model, None, await self._read(req), (("explain", str(explain)),))

    async def on_options(self, req: GatewayRequest, resp: Response, target: str) -> None:  # type: ignore[override]
        """Answer with the model's own API description. The path's field isn't the model alone."""
        await super().on_options(req, resp, target.partition(":")[0])


def kserve_verb(target: str) -> bool | None:
    """Read the last segment of a KServe v1 path: False to predict, True to explain, None for neither."""
    if ":predict" in target:
        return False
    return True if ":explain" in target else None


def note_timeout(req: GatewayRequest) -> None:
    """Take note of when a request's client gives up, if it says so. Raises BadRequest for what is no time."""
    if req.has(_TIMEOUT_HEADER):
        req.answer_by = clock.monotonic() + timeout_ms(req.text_of(_TIMEOUT_HEADER)) / 1000


def timeout_ms(said: str) -> int:
    """Read how many milliseconds a client waits for its answer. Raises BadRequest for any other text."""
    value = int(said) if said.isascii() and said.isdigit() and len(said) <= len(str(TIMEOUT_LIMIT_MS)) else 0
    if not 1 <= value <= TIMEOUT_LIMIT_MS:
        raise errors.BadRequest(
            f"The header {TIMEOUT_HEADER} must be a whole number from 1 to {TIMEOUT_LIMIT_MS}, "
            f"the milliseconds that the client waits: {quoted(said)}"
        )
    return value


def client_head(req: GatewayRequest, config: GatewaySettings) -> bytes:
    """Return the client's headers for the handler, names spelled as the client did; see `codec.head`.

    Where keys are asked for, `Authorization` holds an access key, which handlers must not see.
    Elsewhere it is the application's own.
    """
    headers: list[bytes] = req.scope["raw_headers"]
    if config.token_authorization and req.has(b"authorization"):
        pairs = zip(headers[::2], headers[1::2], strict=True)
        headers = [text for pair in pairs if pair[0].lower() != b"authorization" for text in pair]
    return codec.head(headers)


def pass_head(req: GatewayRequest, resp: Response, response: codec.Response) -> None:
    """Pass on the status, the phrase and the headers that a handler has set.

    Raises PredictionFailed for what HTTP can't carry.
    """
    if response.status not in STATUSES:
        raise _not_sendable(f"status {response.status}")
    resp.status = response.status
    if response.reason and not _HEADER_VALUE.fullmatch(response.reason):
        raise _not_sendable(f"the reason phrase {quoted(repr(response.reason))}")
    for name, value in response.headers:
        if name.lower() in SERVER_OWNED_HEADERS:
            continue
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise _not_sendable(f"the header {quoted(repr(name))}: {quoted(repr(value))}")
        if name.lower() == "set-cookie":
            resp.append_header(name, value)  # the one that falcon won't have set
        else:
            resp.set_header(name, value)
    # TorchServe sends no phrase but the handler's; 200 with uvicorn's "OK" is left alone, being most.
    if response.reason or response.status != 200:
        req.scope["reason"] = response.reason


def _not_sendable(what: str) -> errors.PredictionFailed:
    return errors.PredictionFailed("Prediction failed", f"the handler set {what}, which HTTP can't carry")
