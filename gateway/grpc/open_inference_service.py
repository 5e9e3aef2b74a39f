"""The open inference protocol's GRPCInferenceService, by KServe's name and by TorchServe's.

The two differ in one thing: by TorchServe's name an element of BYTES in an answer's contents is JSON, as its
clients know it; by KServe's it is what the protocol says.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from google.protobuf.message import Message
from grpc import StatusCode

from torchrelay.gateway.calls import model_calls
from torchrelay.gateway.calls.model_calls import ModelCalls
from torchrelay.gateway.calls.prediction_jobs import require_bounds
from torchrelay.gateway.grpc import tensor_messages
from torchrelay.gateway.grpc.grpc_errors import CallRefused, refusal
from torchrelay.gateway.grpc.job_calls import part_of, submit
from torchrelay.gateway.grpc.protos import open_inference_pb2 as pb
from torchrelay.gateway.grpc.protos import torchserve_open_inference_pb2
from torchrelay.gateway.grpc.served_calls import Context, Method, ServedCalls, parsed
from torchrelay.shared import errors
from torchrelay.shared.open_inference.tensors import TensorError

SERVICE, TORCHSERVES_SERVICE = (
    file.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
    for file in (pb, torchserve_open_inference_pb2)
)

M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True)
class OpenInferenceService:
    """The methods of the service."""

    _served: ServedCalls
    _calls: ModelCalls

    def handlers(self, service: str) -> dict[str, Method]:
        """Return what grpc calls, by the methods' names, for one of the service's names."""
        infer = partial(self.infer, quotes_bytes=service == TORCHSERVES_SERVICE)
        method = partial(self._method, service)
        return {
            "ServerLive": method("ServerLive", pb.ServerLiveRequest, self.is_live),
            "ServerReady": method("ServerReady", pb.ServerReadyRequest, self.is_ready),
            "ModelReady": method("ModelReady", pb.ModelReadyRequest, self.is_model_ready),
            "ServerMetadata": method("ServerMetadata", pb.ServerMetadataRequest, self.server_metadata),
            "ModelMetadata": method("ModelMetadata", pb.ModelMetadataRequest, self.model_metadata),
            "ModelInfer": method("ModelInfer", pb.ModelInferRequest, infer),
        }

    def _method(
        self, service: str, name: str, kind: type[M], call: Callable[[M, Context], Awaitable[Message]]
    ) -> Method:
        async def answer(data: bytes, context: Context) -> bytes:
            return (await call(parsed(kind, data), context)).SerializeToString()

        return self._served.unary("inference", f"{service}/{name}", answer)

    async def is_live(self, _asked: pb.ServerLiveRequest, _context: Context) -> pb.ServerLiveResponse:
        """Answer: a process that answers lives."""
        return pb.ServerLiveResponse(live=True)

    async def is_ready(self, _asked: pb.ServerReadyRequest, _context: Context) -> pb.ServerReadyResponse:
        """Tell whether every model that should answer requests can."""
        return pb.ServerReadyResponse(ready=not await self._served.link.why_not_all_answer())

    async def is_model_ready(self, asked: pb.ModelReadyRequest, _context: Context) -> pb.ModelReadyResponse:
        """Tell whether a worker of the model is ready."""
        if not asked.name:
            raise errors.BadRequest("Parameter name is required.")
        why_not = await _found(self._served.link.why_no_answers(asked.name, asked.version or None))
        return pb.ModelReadyResponse(ready=not why_not)

    async def server_metadata(
        self, _asked: pb.ServerMetadataRequest, _context: Context
    ) -> pb.ServerMetadataResponse:
        """Tell what serves here."""
        told = model_calls.protocol_server()
        return pb.ServerMetadataResponse(name=told.name, version=told.version, extensions=told.extensions)

    async def model_metadata(
        self, asked: pb.ModelMetadataRequest, _context: Context
    ) -> pb.ModelMetadataResponse:
        """Tell which versions a model has."""
        if not asked.name:
            raise errors.BadRequest("Parameter model_name is required.")
        told = await _found(self._calls.protocol_metadata(asked.name, asked.version or None))
        return pb.ModelMetadataResponse(name=told.name, versions=told.versions, platform=told.platform)

    async def infer(
        self, asked: pb.ModelInferRequest, context: Context, *, quotes_bytes: bool
    ) -> pb.ModelInferResponse:
        """Predict; of an answer that comes in parts, the first one is all."""
        if not asked.model_name:
            raise errors.BadRequest("Parameter model_name is required.")
        try:
            inputs = tensor_messages.job_of(asked)
            require_bounds(inputs)
        except errors.BadRequest as error:
            raise _invalid(error) from error
        link = self._served.link
        job = submit(link, asked.model_name, asked.model_version, inputs, context)
        del inputs  # which may be large, and have been taken over
        try:
            response, body, is_final = await part_of(job)
        except CallRefused as refused:
            if isinstance(refused.refusal.error, errors.BadRequest):  # the worker's, of the tensors
                raise _invalid(refused.refusal.error) from refused
            raise
        if not is_final:
            link.forget(job)
        try:
            return tensor_messages.answer_of(asked, response, body, quotes_bytes=quotes_bytes)
        except (TensorError, UnicodeEncodeError) as error:  # the second for texts that no message has
            raise errors.InternalError(
                f"The model's answer is none of the open inference protocol: {error}"
            ) from error


async def _found(answering: Awaitable[T]) -> T:
    """Await an answer about a model; one that isn't there is NOT_FOUND to all calls but predictions."""
    try:
        return await answering
    except errors.CallerFault as error:
        raise CallRefused(refusal(error, "management")) from error


def _invalid(error: errors.BadRequest) -> CallRefused:
    """Refuse a request for its tensors, of which TorchServe has no opinion."""
    return CallRefused(replace(refusal(error, "inference"), code=StatusCode.INVALID_ARGUMENT))
