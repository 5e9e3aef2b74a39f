"""The management API: requests become messages to the broker, its replies TorchServe's answers."""

from typing import ClassVar

from falcon.asgi import Response

from torchrelay.gateway import auth
from torchrelay.gateway.api import responses
from torchrelay.gateway.api.base_app import Resource
from torchrelay.gateway.api.gateway_request import GatewayRequest
from torchrelay.gateway.api.inference import client_head, pass_head
from torchrelay.gateway.calls import answer_bodies
from torchrelay.gateway.calls.model_calls import Change, ModelCalls
from torchrelay.gateway.calls.parameters import Parameters
from torchrelay.gateway.http.standard_responses import JSON
from torchrelay.gateway.link import Link
from torchrelay.gateway.openapi import documents
from torchrelay.shared import api_bodies, errors
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.fields import KeyedApi

#: Of a registration in JSON: a hundred times what one needs, and parsed in ten milliseconds.
REGISTRATION_LIMIT_BYTES = 64 * 1024


class ManagementResource(Resource):
    """Base of the resources that the management key opens."""

    opened_by: ClassVar[KeyedApi | None] = "management"

    def __init__(self, link: Link, config: GatewaySettings) -> None:
        super().__init__(link, config)
        self._calls = ModelCalls(link, config)


class UndescribedResource(ManagementResource):
    """Base of the resources without an OpenAPI document of their own."""

    async def on_options(self, _req: GatewayRequest, _resp: Response, **_: str) -> None:
        """Refuse, as TorchServe does."""
        raise errors.MethodNotAllowed


class ModelsResource(UndescribedResource):
    """`/models`: the list, and registration."""

    async def on_get(self, req: GatewayRequest, resp: Response) -> None:
        """List a page of models by name."""
        responses.answer(resp, await self._calls.page(Parameters.of_query(req.query_string)))

    async def on_post(self, req: GatewayRequest, resp: Response) -> None:
        """Register an archive; with a JSON body its fields are the parameters, else those of the query."""
        self._calls.require_model_api()
        given = await registration_parameters(req, self._config, self._link)
        _answer_change(resp, await self._calls.register(given, auth.proof_of(req.auth)))


class ModelResource(ManagementResource):
    """`/models/{model}[/{version}]`: describe, scale, unregister."""

    async def on_get(
        self, req: GatewayRequest, resp: Response, model: str, version: str | None = None
    ) -> None:
        """Describe one version, or `all`; with `customized=true` add what the handler says of itself."""
        every = version == "all"
        described = await self._calls.describe(model, None if every else version, every=every)
        if not every and Parameters.of_query(req.query_string).flag("customized", default=False):
            head = client_head(req, self._config)
            response, metadata = await self._calls.ask_handler(model, version, req.scope["request_id"], head)
            pass_head(req, resp, response)
            entries = [answer_bodies.description(described[0], metadata)]
        else:
            entries = [answer_bodies.description(facts) for facts in described]
        content_type = resp.content_type
        responses.answer(resp, entries, resp.status_code)
        resp.content_type = content_type or JSON

    async def on_put(
        self, req: GatewayRequest, resp: Response, model: str, version: str | None = None
    ) -> None:
        """Set the worker targets of a version."""
        query = Parameters.of_query(req.query_string)
        version = version or query.text("model_version")
        proof = auth.proof_of(req.auth)
        _answer_change(resp, await self._calls.scale(model, version, query, proof))

    async def on_delete(
        self, req: GatewayRequest, resp: Response, model: str, version: str | None = None
    ) -> None:
        """Unregister a version, or the default one."""
        _answer_change(resp, await self._calls.unregister(model, version, auth.proof_of(req.auth)))

    async def on_options(
        self, _req: GatewayRequest, resp: Response, model: str, version: str | None = None
    ) -> None:
        """Answer with the model's own API description, if there is such a model."""
        await self._calls.describe(model, version)
        responses.answer(resp, documents.management_of_model(model, self._config))


class DefaultVersionResource(UndescribedResource):
    """`/models/{model}/{version}/set-default`."""

    async def on_put(self, req: GatewayRequest, resp: Response, model: str, version: str) -> None:
        """Make the version the default one."""
        _answer_change(resp, await self._calls.set_default(model, version, auth.proof_of(req.auth)))

    async def on_delete(self, _req: GatewayRequest, _resp: Response, model: str, version: str) -> None:
        """Refuse with 405, or with 404 for an unknown model. TorchServe deletes the version here."""
        await self._calls.describe(model, version)
        raise errors.MethodNotAllowed


class ReadinessResource(UndescribedResource):
    """`/v1/models/{model}`: KServe's question whether a model is ready."""

    async def on_get(self, _req: GatewayRequest, resp: Response, target: str) -> None:
        """Tell at once whether a worker can take a batch; one that is still loading can't."""
        model = target.partition(":")[0]
        ready = not await self._link.why_no_answers(model)
        responses.answer(resp, api_bodies.ReadinessBody(name=model, ready=ready))


class TokenResource(ManagementResource):
    """`/token`: any method makes a new key, which is written to the key file and not into the answer."""

    opened_by = "token"

    async def on_request(self, req: GatewayRequest, resp: Response) -> None:
        """Renew the key that `type` names."""
        match Parameters.of_query(req.query_string).text("type"):
            case "inference" | "management" as api:
                await self._link.ask(m.RenewKey(0, api, auth.proof_of(req.auth)), m.KeyRenewed)
            case _:
                raise auth.refusal("token")
        resp.content_type = JSON
        resp.data = b"\n"

    on_options = on_request


class FleetResource(ManagementResource):
    """`/fleet`: all that `torchrelay status` shows."""

    async def on_get(self, _req: GatewayRequest, resp: Response) -> None:
        """Answer with nodes, models and workers, and with the reasons why workers are missing."""
        read = await self._link.ask(m.ReadFleet(0), m.FleetRead)
        responses.answer(resp, answer_bodies.fleet(read, self._config.server_id))


class ProbesResource(ManagementResource):
    """`/livez` and `/readyz`, of this process; probes carry no keys, and no metric counts them."""

    opened_by = None

    async def on_get_live(self, req: GatewayRequest, resp: Response) -> None:
        """Answer: a process that answers lives."""
        req.scope["is_uncounted"] = True
        responses.answer(resp, api_bodies.ProbeBody(status="live"))

    async def on_get_ready(self, req: GatewayRequest, resp: Response) -> None:
        """Tell whether requests can be taken on to the broker, and whether that knows its models."""
        req.scope["is_uncounted"] = True
        if reason := await self._link.why_not_ready():
            responses.answer(resp, api_bodies.ProbeBody(status="not ready", reason=reason), 503)
        else:
            responses.answer(resp, api_bodies.ProbeBody(status="ready"))


class ModelProbesResource(UndescribedResource):
    """`/readyz/{model}[/{version}]`: whether a version can answer requests now."""

    async def on_get(
        self, req: GatewayRequest, resp: Response, model: str, version: str | None = None
    ) -> None:
        """Tell whether a worker of it is ready, and if not, why."""
        req.scope["is_uncounted"] = True
        if reason := await self._link.why_no_answers(model, version):
            responses.answer(resp, api_bodies.ProbeBody(status="not ready", reason=reason), 503)
        else:
            responses.answer(resp, api_bodies.ProbeBody(status="ready"))


async def registration_parameters(req: GatewayRequest, config: GatewaySettings, link: Link) -> Parameters:
    """Read the parameters of a registration: a JSON body's fields, or without such a body the query's."""
    body = await req.read_body(config.max_request_size, link)
    if (req.content_type or "").split(";", 1)[0].strip().lower() != JSON:
        return Parameters.of_query(req.query_string)
    if len(body) > REGISTRATION_LIMIT_BYTES:
        raise errors.BadRequest(f"The JSON body has more than {REGISTRATION_LIMIT_BYTES} bytes.")
    return Parameters.of_json(bytes(body))


def _answer_change(resp: Response, change: Change) -> None:
    responses.answer_status(resp, change.text, 200 if change.is_done else 202)
