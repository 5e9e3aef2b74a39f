"""The management API: requests become messages to the broker, its replies TorchServe's answers."""

import json
from typing import ClassVar

import msgspec
from falcon.asgi import Response

from torchrelay.gateway import auth
from torchrelay.gateway.api import responses
from torchrelay.gateway.api.base_app import Resource
from torchrelay.gateway.api.gateway_request import GatewayRequest
from torchrelay.gateway.api.inference import client_head, pass_head
from torchrelay.gateway.api.parameters import Parameters
from torchrelay.gateway.http.standard_responses import JSON
from torchrelay.gateway.openapi import documents
from torchrelay.shared import api_bodies, errors
from torchrelay.shared.archives import model_archive
from torchrelay.shared.quoting import quoted
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.fields import KeyedApi

_PROCESSING = "Processing worker updates..."
#: Of a registration in JSON: a hundred times what one needs, and parsed in ten milliseconds.
REGISTRATION_LIMIT_BYTES = 64 * 1024


class ManagementResource(Resource):
    """Base of the resources that the management key opens."""

    opened_by: ClassVar[KeyedApi | None] = "management"


class UndescribedResource(ManagementResource):
    """Base of the resources without an OpenAPI document of their own."""

    async def on_options(self, _req: GatewayRequest, _resp: Response, **_: str) -> None:
        """Refuse, as TorchServe does."""
        raise errors.MethodNotAllowed


class ModelsResource(UndescribedResource):
    """`/models`: the list, and registration."""

    async def on_get(self, req: GatewayRequest, resp: Response) -> None:
        """List a page of models by name."""
        query = Parameters.of_query(req.query_string)
        limit = query.number("limit", 100)
        ask = m.ListModels(0, limit if 0 <= limit <= 100 else 100, max(0, query.number("next_page_token", 0)))
        responses.answer(resp, responses.model_list(await self._link.ask(ask, m.ModelsListed)))

    async def on_post(self, req: GatewayRequest, resp: Response) -> None:
        """Register an archive; with a JSON body its fields are the parameters, else those of the query."""
        if not self._config.enable_model_api:
            raise errors.MethodNotAllowed
        body = await req.read_body(self._config.max_request_size, self._link)
        is_json = (req.content_type or "").split(";", 1)[0].strip().lower() == JSON
        if is_json and len(body) > REGISTRATION_LIMIT_BYTES:
            raise errors.BadRequest(f"The JSON body has more than {REGISTRATION_LIMIT_BYTES} bytes.")
        given = Parameters.of_json(bytes(body)) if is_json else Parameters.of_query(req.query_string)
        registered = await self._link.ask(_registration(given, auth.proof_of(req.auth)), m.ModelRegistered)
        if not registered.done:
            responses.answer_status(resp, _PROCESSING, 202)
            return
        text = (
            f'Model "{registered.model}" Version: {registered.version} registered'
            f" with {registered.workers} initial workers"
        )
        if registered.workers == 0:
            text += ". Use scale workers API to add workers for the model."
        responses.answer_status(resp, text)


class ModelResource(ManagementResource):
    """`/models/{model}[/{version}]`: describe, scale, unregister."""

    async def on_get(
        self, req: GatewayRequest, resp: Response, model: str, version: str | None = None
    ) -> None:
        """Describe one version, or `all`; with `customized=true` add what the handler says of itself."""
        every = version == "all"
        described = await self._describe(model, None if every else version, every=every)
        if not every and Parameters.of_query(req.query_string).flag("customized", default=False):
            metadata = await self._ask_handler(req, resp, model, version)
            entries = [responses.description(described.versions[0], metadata)]
        else:
            entries = [responses.description(facts) for facts in described.versions]
        content_type = resp.content_type
        responses.answer(resp, entries, resp.status_code)
        resp.content_type = content_type or JSON

    async def on_put(
        self, req: GatewayRequest, resp: Response, model: str, version: str | None = None
    ) -> None:
        """Set the worker targets of a version."""
        query = Parameters.of_query(req.query_string)
        version = version or query.text("model_version")
        min_worker = query.number("min_worker", 1)
        max_worker = query.number("max_worker", min_worker)
        if max_worker < min_worker:
            raise errors.BadRequest("max_worker cannot be less than min_worker.")
        if min_worker < 0:
            # TorchServe's clients are tested to get a 500 here, though it is the caller's fault.
            raise errors.InternalError("min_worker cannot be negative.")
        synchronous = query.flag("synchronous", default=False)
        drain_timeout_s = max(-1, query.number("timeout", -1))
        proof = auth.proof_of(req.auth)
        ask = m.ScaleWorkers(0, model, version, min_worker, max_worker, synchronous, drain_timeout_s, proof)
        scaled = await self._link.ask(ask, m.WorkersScaled)
        if not (synchronous and scaled.done):
            responses.answer_status(resp, _PROCESSING, 202)
            return
        of_version = f", version: {version}" if version else ""
        responses.answer_status(resp, f"Workers scaled to {min_worker} for model: {model}{of_version}")

    async def on_delete(
        self, req: GatewayRequest, resp: Response, model: str, version: str | None = None
    ) -> None:
        """Unregister a version, or the default one."""
        if not self._config.enable_model_api:
            raise errors.MethodNotAllowed
        ask = m.UnregisterModel(0, model, version, auth.proof_of(req.auth))
        unregistered = await self._link.ask(ask, m.ModelUnregistered)
        responses.answer_status(resp, f'Model "{unregistered.model}" unregistered')

    async def on_options(
        self, _req: GatewayRequest, resp: Response, model: str, version: str | None = None
    ) -> None:
        """Answer with the model's own API description, if there is such a model."""
        await self._describe(model, version)
        responses.answer(resp, documents.management_of_model(model, self._config))

    async def _describe(self, model: str, version: str | None, *, every: bool = False) -> m.ModelDescribed:
        return await self._link.ask(m.DescribeModel(0, model, version, every), m.ModelDescribed)

    async def _ask_handler(
        self, req: GatewayRequest, resp: Response, model: str, version: str | None
    ) -> msgspec.Raw:
        """Return the JSON object by which the handler describes itself; `{}` for any other answer.

        It is asked by a job with the header `describe` and no inputs.
        """
        headers = (("describe", "True"),)
        meta, frames = codec.pack_request(
            req.scope["request_id"], headers, (), client_head(req, self._config)
        )
        answer = await self._link.submit(model, version, meta, frames, is_describe=True)
        response, body = codec.unpack_response(answer.meta, answer.frames)
        if response.error is not None:
            raise errors.rebuild(*response.error)
        pass_head(req, resp, response)
        try:
            # NaN and Infinity are Python's, and no JSON.
            metadata: object = json.loads(bytes(body), parse_constant=lambda _: None)
        except ValueError:
            metadata = None
        text = json.dumps(metadata if isinstance(metadata, dict) else {}, ensure_ascii=False)
        return msgspec.Raw(text.encode("utf-8", "replace"))


class DefaultVersionResource(UndescribedResource):
    """`/models/{model}/{version}/set-default`."""

    async def on_put(self, req: GatewayRequest, resp: Response, model: str, version: str) -> None:
        """Make the version the default one."""
        await self._link.ask(m.SetDefault(0, model, version, auth.proof_of(req.auth)), m.DefaultSet)
        text = f'Default version successfully updated for model "{model}" to "{version}"'
        responses.answer_status(resp, text)

    async def on_delete(self, _req: GatewayRequest, _resp: Response, model: str, version: str) -> None:
        """Refuse with 405, or with 404 for an unknown model. TorchServe deletes the version here."""
        await self._link.ask(m.DescribeModel(0, model, version), m.ModelDescribed)
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


class WorkflowsResource(UndescribedResource):
    """`/workflows`: there are none, and as in the last TorchServe none can be registered."""

    async def on_get(self, _req: GatewayRequest, resp: Response) -> None:
        """List the workflows, of which there are none."""
        responses.answer(resp, api_bodies.WorkflowsBody(workflows=()))

    async def on_post(self, _req: GatewayRequest, _resp: Response) -> None:
        """Refuse, in TorchServe's words."""
        raise errors.BadRequest("Registering new workflows is disabled.")


class WorkflowResource(UndescribedResource):
    """`/workflows/{workflow}`."""

    async def on_get(self, _req: GatewayRequest, _resp: Response, workflow: str) -> None:
        """Refuse: there is no workflow that could be described or unregistered."""
        raise errors.WorkflowNotFound(f"Workflow not found: {quoted(workflow)}")

    on_delete = on_get


class FleetResource(ManagementResource):
    """`/fleet`: all that `torchrelay status` shows."""

    async def on_get(self, _req: GatewayRequest, resp: Response) -> None:
        """Answer with nodes, models and workers, and with the reasons why workers are missing."""
        read = await self._link.ask(m.ReadFleet(0), m.FleetRead)
        responses.answer(resp, responses.fleet(read, self._config.server_id))


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


def _registration(given: Parameters, proof: str) -> m.RegisterModel:
    """Read a registration. As in TorchServe, a number that makes no sense (a batch of 0) counts as absent."""
    url = given.text("url")
    if url is None:
        raise errors.BadRequest("Parameter url is required.")
    runtime = given.text("runtime")
    if runtime is not None and runtime not in model_archive.RUNTIMES:
        raise errors.BadRequest(f"Invalid RuntimeType value: {quoted(runtime)}")

    def at_least(least: int, name: str) -> int | None:
        value = given.number(name, least - 1)
        return value if value >= least else None

    return m.RegisterModel(
        0,
        url,
        model_name=given.text("model_name") or None,
        handler=given.text("handler") or None,
        runtime=runtime,
        batch_size=at_least(1, "batch_size"),
        max_batch_delay_ms=at_least(0, "max_batch_delay"),
        response_timeout_s=at_least(1, "response_timeout"),
        startup_timeout_s=at_least(0, "startup_timeout"),  # TorchServe's clients are tested to get a 500
        initial_workers=at_least(0, "initial_workers"),
        synchronous=given.flag("synchronous", default=True),
        s3_sse_kms=given.flag("s3_sse_kms", default=False),
        proof=proof,
    )
