"""The metadata routes of KServe's open inference protocol, on the inference port where they are wanted.

Spelling and statuses are TorchServe's; any method is answered.
"""

from importlib.metadata import version

from falcon.asgi import Response

from torchrelay.gateway.api import responses
from torchrelay.gateway.api.base_app import Resource
from torchrelay.gateway.api.gateway_request import GatewayRequest
from torchrelay.shared import api_bodies


class ServerMetadataResource:
    """`/v2`: what serves here."""

    opened_by = "inference"

    async def on_request(self, _req: GatewayRequest, resp: Response) -> None:
        """Answer with TorchServe's name, since clients look for it."""
        body = api_bodies.ProtocolServerBody(
            name="Torchserve", version=version("torchrelay"), extenstion=("kserve", "kubeflow")
        )
        responses.answer(resp, body)

    on_options = on_request


class HealthResource(Resource):
    """`/v2/health/live` and `/v2/health/ready`."""

    opened_by = "inference"

    async def on_request_live(self, _req: GatewayRequest, resp: Response) -> None:
        """Answer: a process that answers lives."""
        responses.answer(resp, api_bodies.ProtocolLiveBody(live=True))

    async def on_request_ready(self, _req: GatewayRequest, resp: Response) -> None:
        """Tell whether every model that should answer requests can, as the protocol has it."""
        is_ready = not await self._link.why_not_all_answer()
        responses.answer(resp, api_bodies.ProtocolReadyBody(ready=is_ready), 200 if is_ready else 503)

    on_options_live = on_request_live
    on_options_ready = on_request_ready


class ModelReadyResource(Resource):
    """`/v2/models/{model}/ready`, on the management port: on the other one TorchServe has nothing there."""

    opened_by = "management"

    async def on_get(
        self, req: GatewayRequest, resp: Response, model: str, version: str | None = None
    ) -> None:
        """Tell whether a worker of the model is ready, by the status too."""
        req.scope["is_uncounted"] = True
        is_ready = not await self._link.why_no_answers(model, version)
        body = api_bodies.ReadinessBody(name=model, ready=is_ready)
        responses.answer(resp, body, 200 if is_ready else 503)


class ModelVersionsResource:
    """`/v2/models/{model}/versions/...`: refused, since TorchServe has no versions in this protocol."""

    opened_by = "inference"

    async def on_request(self, _req: GatewayRequest, resp: Response, model: str, rest: str) -> None:
        """Refuse, in TorchServe's words."""
        error = "Model versioning is not yet supported."
        responses.answer(resp, api_bodies.ProtocolRefusalBody(error=error), 501)

    on_options = on_request
