"""TorchServe's ManagementAPIsService: the calls of the management API with messages for parameters."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from google.protobuf.message import Message
from grpc import StatusCode

from torchrelay.gateway import auth
from torchrelay.gateway.calls import answer_bodies
from torchrelay.gateway.calls.model_calls import ModelCalls
from torchrelay.gateway.calls.parameters import Parameters
from torchrelay.gateway.grpc.grpc_errors import CallRefused, refusal
from torchrelay.gateway.grpc.protos import management_pb2 as pb
from torchrelay.gateway.grpc.served_calls import Context, Method, ServedCalls, authorization, parsed
from torchrelay.gateway.http.standard_responses import pretty
from torchrelay.shared import errors, ids

SERVICE = "org.pytorch.serve.grpc.management.ManagementAPIsService"

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class ManagementService:
    """The methods of the service; each returns what the REST API would answer."""

    _served: ServedCalls
    _calls: ModelCalls

    def handlers(self) -> dict[str, Method]:
        """Return what grpc calls, by the methods' names."""
        return {
            "DescribeModel": self._method("DescribeModel", pb.DescribeModelRequest, self.describe),
            "ListModels": self._method("ListModels", pb.ListModelsRequest, self.page),
            "RegisterModel": self._method("RegisterModel", pb.RegisterModelRequest, self.register),
            "ScaleWorker": self._method("ScaleWorker", pb.ScaleWorkerRequest, self.scale),
            "SetDefault": self._method("SetDefault", pb.SetDefaultRequest, self.set_default),
            "UnregisterModel": self._method("UnregisterModel", pb.UnregisterModelRequest, self.unregister),
        }

    def _method(self, name: str, kind: type[M], call: Callable[[M, str], Awaitable[str]]) -> Method:
        async def answer(data: bytes, context: Context) -> bytes:
            proof = auth.proof_of(authorization(context))
            text = await call(parsed(kind, data), proof)
            return pb.ManagementResponse(msg=text).SerializeToString()

        return self._served.unary("management", f"{SERVICE}/{name}", answer)

    async def describe(self, asked: pb.DescribeModelRequest, _proof: str) -> str:
        """Describe one version, or `all`; with `customized` add what the handler says of itself."""
        every = asked.model_version == "all"
        version = None if every else asked.model_version or None
        if asked.customized and not every:
            return await self._describe_by_handler(asked.model_name, version)
        described = await self._calls.describe(asked.model_name, version, every=every)
        return json_text([answer_bodies.description(facts) for facts in described])

    async def _describe_by_handler(self, model: str, version: str | None) -> str:
        """Describe a version, with what its handler says of itself; it fails as a prediction does."""
        try:
            (facts,) = await self._calls.describe(model, version)
            _, metadata = await self._calls.ask_handler(model, version, ids.request_id())
        except errors.RelayError as error:
            raise CallRefused(refusal(error, "inference")) from error
        return json_text([answer_bodies.description(facts, metadata)])

    async def page(self, asked: pb.ListModelsRequest, _proof: str) -> str:
        """List a page of models by name."""
        return json_text(await self._calls.page(given(asked)))

    async def register(self, asked: pb.RegisterModelRequest, proof: str) -> str:
        """Register an archive."""
        self._calls.require_model_api()
        return (await self._calls.register(given(asked), proof)).text

    async def scale(self, asked: pb.ScaleWorkerRequest, proof: str) -> str:
        """Set the worker targets of a version."""
        if not asked.model_name:  # an error that TorchServe doesn't catch either
            error = errors.ModelNotFound("Model not found: ")
            raise CallRefused(replace(refusal(error, "management"), code=StatusCode.UNKNOWN))
        change = await self._calls.scale(asked.model_name, asked.model_version or None, given(asked), proof)
        return change.text

    async def set_default(self, asked: pb.SetDefaultRequest, proof: str) -> str:
        """Make a version the default one."""
        return (await self._calls.set_default(asked.model_name, asked.model_version, proof)).text

    async def unregister(self, asked: pb.UnregisterModelRequest, proof: str) -> str:
        """Unregister a version, or the default one."""
        self._calls.require_model_api()
        if not asked.model_name:
            raise errors.BadRequest("Parameter url is required.")  # in TorchServe's words
        return (await self._calls.unregister(asked.model_name, asked.model_version or None, proof)).text


def given(asked: Message) -> Parameters:
    """Read a message's fields as parameters: texts that are empty and numbers below 1 are absent."""
    fields = {field.name: getattr(asked, field.name) for field in asked.DESCRIPTOR.fields}
    return Parameters({name: value for name, value in fields.items() if _is_given(value)}, strict=False)


def _is_given(value: str | int | bool) -> bool:
    # A flag is never absent: `synchronous` is false here unless it is said.
    return isinstance(value, bool) or (value > 0 if isinstance(value, int) else bool(value))


def json_text(body: object) -> str:
    """Write a body as the REST API does, but for the line break at its end."""
    return pretty(body).decode().removesuffix("\n")
