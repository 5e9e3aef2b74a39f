"""Calls about models, as TorchServe's management API has them: parameters in, an answer's body or text out.

Any protocol's presentation calls these; only the broker decides. Texts are TorchServe's.
"""

import importlib.metadata
import json
from dataclasses import dataclass

import msgspec

from torchrelay.gateway.calls import answer_bodies
from torchrelay.gateway.calls.parameters import Parameters
from torchrelay.gateway.calls.prediction_jobs import Input, failure
from torchrelay.gateway.link import Link
from torchrelay.shared import api_bodies, errors
from torchrelay.shared.archives import model_archive
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

PAGE_LIMIT_ENTRIES = 100


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a change, in words; one that isn't done goes on by itself."""

    text: str
    is_done: bool = True


_PROCESSING = Change("Processing worker updates...", is_done=False)


async def health(link: Link) -> api_bodies.HealthBody:
    """Tell whether every model has the workers that it should have."""
    try:
        is_healthy = not link.is_leaving and (await link.ask(m.ReadHealth(0), m.HealthRead)).healthy
    except errors.BrokerUnreachable:
        is_healthy = False
    return api_bodies.HealthBody(status="Healthy" if is_healthy else "Unhealthy")


def protocol_server() -> api_bodies.ProtocolServerBody:
    """Tell what serves here, in the open inference protocol; by TorchServe's name: clients look for it."""
    torchserves = ("kserve", "kubeflow")
    return api_bodies.ProtocolServerBody(
        name="Torchserve",
        version=importlib.metadata.version("torchrelay"),
        extensions=(*torchserves, "binary_tensor_data"),
        extenstion=torchserves,
    )


@dataclass(frozen=True, slots=True)
class ModelCalls:
    """The calls of one gateway process. `proof` is of the caller's key, see `auth.proof_of`."""

    _link: Link
    _config: GatewaySettings

    async def page(self, given: Parameters) -> api_bodies.ModelsBody:
        """List a page of models by name."""
        listed = await self._link.ask(m.ListModels(0, *page_of(given)), m.ModelsListed)
        return answer_bodies.model_list(listed)

    def require_model_api(self) -> None:
        """Raise MethodNotAllowed where models may not be registered and unregistered."""
        if not self._config.enable_model_api:
            raise errors.MethodNotAllowed

    async def register(self, given: Parameters, proof: str) -> Change:
        """Register an archive."""
        registered = await self._link.ask(_registration(given, proof), m.ModelRegistered)
        if not registered.done:
            return _PROCESSING
        text = (
            f'Model "{registered.model}" Version: {registered.version} registered'
            f" with {registered.workers} initial workers"
        )
        if registered.workers == 0:
            text += ". Use scale workers API to add workers for the model."
        return Change(text)

    async def scale(self, model: str, version: str | None, given: Parameters, proof: str) -> Change:
        """Set the worker targets of a version."""
        min_worker = given.number("min_worker", 1)
        max_worker = given.number("max_worker", min_worker)
        if max_worker < min_worker:
            raise errors.BadRequest("max_worker cannot be less than min_worker.")
        if min_worker < 0:
            # TorchServe's clients are tested to get a 500 here, though it is the caller's fault.
            raise errors.InternalError("min_worker cannot be negative.")
        synchronous = given.flag("synchronous", default=False)
        drain_timeout_s = max(-1, given.number("timeout", -1))
        ask = m.ScaleWorkers(0, model, version, min_worker, max_worker, synchronous, drain_timeout_s, proof)
        scaled = await self._link.ask(ask, m.WorkersScaled)
        if not (synchronous and scaled.done):
            return _PROCESSING
        of_version = f", version: {version}" if version else ""
        return Change(f"Workers scaled to {min_worker} for model: {model}{of_version}")

    async def unregister(self, model: str, version: str | None, proof: str) -> Change:
        """Unregister a version, or the default one."""
        self.require_model_api()
        unregistered = await self._link.ask(m.UnregisterModel(0, model, version, proof), m.ModelUnregistered)
        return Change(f'Model "{unregistered.model}" unregistered')

    async def set_default(self, model: str, version: str, proof: str) -> Change:
        """Make a version the default one."""
        await self._link.ask(m.SetDefault(0, model, version, proof), m.DefaultSet)
        return Change(f'Default version successfully updated for model "{model}" to "{version}"')

    async def describe(
        self, model: str, version: str | None, *, every: bool = False
    ) -> tuple[m.VersionFacts, ...]:
        """Return what is known of a version, the default one if none is named, or of every one."""
        return (await self._link.ask(m.DescribeModel(0, model, version, every), m.ModelDescribed)).versions

    async def protocol_metadata(self, model: str, version: str | None) -> api_bodies.ProtocolModelBody:
        """Tell what the open inference protocol asks of a model, if there is such a version."""
        facts = await self.describe(model, None, every=True)
        if version is not None and version not in {one.version for one in facts}:
            await self.describe(model, version)  # which says so
        versions = tuple(one.version for one in facts)
        return api_bodies.ProtocolModelBody(name=model, versions=versions, platform="", inputs=(), outputs=())

    async def ask_handler(
        self, model: str, version: str | None, request_id: str, head: bytes = b""
    ) -> tuple[codec.Response, msgspec.Raw]:
        """Return a handler's answer, and the JSON object in it by which it describes itself.

        It is asked by a job with the header `describe` and no inputs; any other answer counts as `{}`.
        """
        no_inputs: tuple[Input, ...] = ()
        meta, frames = codec.pack_request(request_id, (("describe", "True"),), no_inputs, head)
        answer = await self._link.submit(model, version, meta, frames, is_describe=True)
        response, body = codec.unpack_response(answer.meta, answer.frames)
        if response.error is not None:
            raise failure(response)[0]
        try:
            # NaN and Infinity are Python's, and no JSON.
            metadata: object = json.loads(bytes(body), parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            metadata = None
        text = json.dumps(metadata if isinstance(metadata, dict) else {}, ensure_ascii=False)
        return response, msgspec.Raw(text.encode("utf-8", "replace"))


def page_of(given: Parameters) -> tuple[int, int]:
    """Read how many entries a page of a list is to have, and from which one on."""
    limit = given.number("limit", PAGE_LIMIT_ENTRIES)
    limit = limit if 0 <= limit <= PAGE_LIMIT_ENTRIES else PAGE_LIMIT_ENTRIES
    return limit, max(0, given.number("next_page_token", 0))


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
