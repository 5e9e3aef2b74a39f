"""The routes of KServe's open inference protocol that tell of the server and its models.

Those of the server answer any method, with TorchServe's spelling and statuses.
"""

from typing import ClassVar

from falcon.asgi import Response

from torchrelay.gateway.api import open_inference, responses
from torchrelay.gateway.api.base_app import Resource
from torchrelay.gateway.api.gateway_request import GatewayRequest
from torchrelay.gateway.calls import model_calls
from torchrelay.gateway.calls.model_calls import ModelCalls
from torchrelay.shared import api_bodies
from torchrelay.shared.wire.fields import KeyedApi


class ServerMetadataResource:
    """`/v2`: what serves here."""

    opened_by = "inference"

    async def on_request(self, _req: GatewayRequest, resp: Response) -> None:
        """Answer with TorchServe's name, since clients look for it."""
        responses.answer(resp, model_calls.protocol_server())

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
    """`/v2/models/{model}/ready` on the management port, also without the protocol."""

    opened_by: ClassVar[KeyedApi | None] = "management"

    async def on_get(
        self, req: GatewayRequest, resp: Response, model: str, version: str | None = None
    ) -> None:
        """Tell whether a worker of the model is ready, by the status too."""
        req.scope["is_uncounted"] = True
        is_ready = not await self._link.why_no_answers(model, version)
        body = api_bodies.ReadinessBody(name=model, ready=is_ready)
        responses.answer(resp, body, 200 if is_ready else 503)


class ModelReadyOnInferenceResource(ModelReadyResource):
    """The same on the inference port, where clients of the protocol look for it."""

    opened_by = "inference"

    async def on_get(
        self, req: GatewayRequest, resp: Response, model: str, version: str | None = None
    ) -> None:
        """Tell whether a worker of the model is ready, by the status too."""
        await open_inference.answered(resp, super().on_get(req, resp, model, version))


class ModelMetadataResource(Resource):
    """`/v2/models/{model}`, also with `/versions/{version}`: its versions."""

    opened_by = "inference"

    async def on_get(
        self, _req: GatewayRequest, resp: Response, model: str, version: str | None = None
    ) -> None:
        """Tell what is known of the model, if there is such a version."""
        await open_inference.answered(resp, self._tell(resp, model, version))

    async def _tell(self, resp: Response, model: str, version: str | None) -> None:
        calls = ModelCalls(self._link, self._config)
        responses.answer(resp, await calls.protocol_metadata(model, version))
