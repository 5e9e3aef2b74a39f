"""A gRPC server over a FakeLink, on a loopback address of its own, and a client of it."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message import Message

from tests.gateway.fakes import FakeLink, Replies, Worker, echo
from tests.integration.fleet import own_address
from torchrelay.gateway.grpc.grpc_server import GrpcServer
from torchrelay.gateway.grpc.protos import inference_pb2 as pb
from torchrelay.gateway.grpc.protos import management_pb2 as management
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import messages as m

INFERENCE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
MANAGEMENT = "/org.pytorch.serve.grpc.management.ManagementAPIsService/"
#: What `served` takes where nothing is said; see `each_server`.
usual_server = "grpcio"
#: Of a call that nothing should keep for long.
DEADLINE_S = 60.0


def healthy(ask: Any) -> m.Message:
    """Answer as a broker whose models are well."""
    return m.HealthRead(ask.ask, healthy=True)


class Client:
    """Calls one server."""

    def __init__(
        self,
        channels: dict[str, grpc.aio.Channel],
        link: FakeLink,
        server: GrpcServer,
        addresses: dict[str, str],
    ) -> None:
        self.channels = channels
        self.link = link
        self.server = server
        self.addresses = addresses

    @property
    def calls(self) -> int:
        """How many calls the server has."""
        return self.server._awaited.calls

    def upload(self, **options: Any) -> Any:
        """Begin a prediction and send no request."""
        call: Any = self.channels["inference"].stream_unary(INFERENCE + "Predictions")
        return call(**{"timeout": DEADLINE_S, **options})

    def predict(self, model: str = "m", **more: Any) -> Any:
        request = pb.PredictionsRequest(model_name=model, input=more.pop("inputs", {"body": b"x"}), **more)
        return self.unary("Predictions", request, pb.PredictionResponse)

    def unary(self, method: str, request: Message | bytes, answer: type[Message], **options: Any) -> Any:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        call: Any = self.channels["inference"].unary_unary(
            INFERENCE + method, response_deserializer=answer.FromString
        )
        return call(data, **{"timeout": DEADLINE_S, **options})

    def manage(self, method: str, request: Message, **options: Any) -> Any:
        call: Any = self.channels["management"].unary_unary(
            MANAGEMENT + method, response_deserializer=management.ManagementResponse.FromString
        )
        return call(request.SerializeToString(), **{"timeout": DEADLINE_S, **options})

    def stream(self, request: Message, **options: Any) -> Any:
        call: Any = self.channels["inference"].unary_stream(
            INFERENCE + "StreamPredictions", response_deserializer=pb.PredictionResponse.FromString
        )
        return call(request.SerializeToString(), **{"timeout": DEADLINE_S, **options})

    def exchange(self, requests: Iterable[Message | bytes] | None = None, **options: Any) -> Any:
        call: Any = self.channels["inference"].stream_stream(
            INFERENCE + "StreamPredictions2",
            request_serializer=lambda one: one if isinstance(one, bytes) else one.SerializeToString(),
            response_deserializer=pb.PredictionResponse.FromString,
        )
        return call(requests, **{"timeout": DEADLINE_S, **options})


@asynccontextmanager
async def served(
    worker: Worker = echo,
    replies: Replies = healthy,
    *,
    link_type: type[FakeLink] = FakeLink,
    is_away: bool = False,
    credentials: grpc.ChannelCredentials | None = None,
    options: Iterable[tuple[str, Any]] = (),
    **settings: Any,
) -> AsyncIterator[Client]:
    """Serve; what the fleet answers is scripted, as in FakeLink."""
    address = own_address()
    own = {"grpc_inference_address": address, "grpc_management_address": address}
    config = GatewaySettings(enable_grpc=True, **{"grpc_server": usual_server, **own, **settings})
    link = link_type(config, replies, worker, is_away=is_away)
    server = GrpcServer(link, config, lambda: None, 1.0)
    await server.start()
    addresses = {name.split("_")[1]: where for name, where in server.addresses().items()}
    channels = {
        api: grpc.aio.insecure_channel(where, list(options))
        if credentials is None
        else grpc.aio.secure_channel(where, credentials, list(options))
        for api, where in addresses.items()
    }
    try:
        yield Client(channels, link, server, addresses)
    finally:
        for channel in channels.values():
            await channel.close()
        await server.stop()


async def refused(call: Any) -> tuple[str, str | None]:
    """Return code and description of a call that fails."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details()
    raise AssertionError("the call succeeded")
