"""KServe's routes that predict, `/v2/models/{model}/infer` and `/explain`, and the open inference protocol's.

With the protocol a request may have its tensors as binary data behind its JSON, errors say `error` as well,
and versions have routes of their own. Without it a body is the handler's to understand, as in TorchServe.
"""

from collections.abc import Awaitable

from falcon.asgi import Response

from torchrelay.gateway.api import responses
from torchrelay.gateway.api.gateway_request import GatewayRequest
from torchrelay.gateway.api.inference import PredictingResource, note_timeout
from torchrelay.gateway.calls.prediction_jobs import Input
from torchrelay.shared import errors
from torchrelay.shared.open_inference import infer_bodies, job_inputs
from torchrelay.shared.open_inference.tensors import TensorError

_HEADER_LENGTH = infer_bodies.HEADER_LENGTH.lower().encode()


class KserveV2Resource(PredictingResource):
    """`/v2/models/{model}/infer` and `/explain`."""

    async def on_request(
        self, req: GatewayRequest, resp: Response, model: str, version: str | None = None
    ) -> None:
        """Predict or explain."""
        added = (("explain", self._explain),)
        await self._predict(req, resp, model, version, await self._read(req), added)


class OpenInferenceResource(KserveV2Resource):
    """The same where the protocol is on, also with `/versions/{version}` behind the model."""

    async def on_request(
        self, req: GatewayRequest, resp: Response, model: str, version: str | None = None
    ) -> None:
        """Predict or explain."""
        await answered(resp, super().on_request(req, resp, model, version))

    async def on_options(
        self, req: GatewayRequest, resp: Response, model: str, version: str | None = None, rest: str = ""
    ) -> None:
        """Answer with the model's own API description."""
        await answered(resp, super().on_options(req, resp, model, version, rest))

    async def _read(self, req: GatewayRequest) -> list[Input]:
        if not req.has(_HEADER_LENGTH):
            inputs = await super()._read(req)
            return [_marked(one) for one in inputs]
        # Whatever its content type is: clients that send a file say it is a form.
        note_timeout(req)
        body = await req.read_input(self._config.max_request_size, self._link)
        try:
            header_length = infer_bodies.header_length_of(req.text_of(_HEADER_LENGTH), len(body))
        except TensorError as error:
            raise errors.BadRequest(str(error)) from error
        assert header_length is not None
        return [("body", job_inputs.binary_request(header_length), body)]

    def _answer_error(self, resp: Response, error: errors.RelayError, status: int) -> None:
        responses.answer_error(resp, error, status, has_protocol=True)


async def answered(resp: Response, answering: Awaitable[None]) -> None:
    """Await an answer; an error has the protocol's field as well. A body that is too large has no answer."""
    try:
        await answering
    except errors.RelayError as error:
        if isinstance(error, errors.RequestTooLarge):
            raise
        responses.answer_error(resp, error, error.status, has_protocol=True)


def _marked(one: Input) -> Input:
    """Say of a body of JSON that it is a request of the protocol."""
    name, content_type, value = one
    is_request = name == "body" and content_type == infer_bodies.JSON_TYPE
    return (name, job_inputs.JSON_REQUEST, value) if is_request else one
