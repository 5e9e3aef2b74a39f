"""The server of a process: TLS, ages of connections, hostile clients, and how it ends."""

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from tests.gateway.fakes import FakeLink, LateLink, echo
from tests.gateway.grpc.raw_http2 import GOAWAY, PING, PREFACE, SETTINGS, first
from tests.gateway.grpc.serving import INFERENCE, healthy, refused, served
from tests.integration.fleet import own_address
from tests.support import eventually_async
from torchrelay.gateway.grpc.grpc_server import GrpcServer
from torchrelay.gateway.grpc.protos import inference_pb2 as pb
from torchrelay.shared.settings import GatewaySettings

#: The frame that ends a connection says why: too many pings.
ENHANCE_YOUR_CALM = (11).to_bytes(4, "big")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def key_material(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(folder / "cert.pem", append=True)
    return {"certificate_file": str(folder / "cert.pem"), "private_key_file": str(folder / "key.pem")}


def trusting(authority: trustme.CA) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(authority.cert_pem.bytes())


NAMED = (("grpc.ssl_target_name_override", "localhost"),)


async def test_its_ports_are_open_once_the_broker_has_welcomed_it() -> None:
    address = own_address()
    config = GatewaySettings(
        enable_grpc=True, grpc_inference_address=address, grpc_management_address=address
    )
    link, is_running = LateLink(config, healthy, echo), asyncio.Event()
    server = GrpcServer(link, config, is_running.set, 0.01)
    starting = asyncio.create_task(server.start())
    await is_running.wait()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(address, config.grpc_inference_port)
    assert not starting.done()
    link.is_up = True
    await starting
    _, writer = await asyncio.open_connection(address, config.grpc_inference_port)
    writer.close()
    await server.stop()


async def test_with_a_certificate_it_speaks_tls_and_nothing_else(
    authority: trustme.CA, key_material: dict[str, Any]
) -> None:
    async with served(
        credentials=trusting(authority), options=NAMED, enable_grpc_ssl=True, **key_material
    ) as client:
        assert (await client.predict()).prediction == b"x"
        async with grpc.aio.insecure_channel(client.addresses["inference"]) as plain:
            call: Any = plain.unary_unary(INFERENCE + "Ping")
            assert (await refused(call(b"", timeout=60)))[0] == "UNAVAILABLE"
        assert await closed_by(client.addresses["inference"], b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await client.predict()).prediction == b"x"
        assert client.link.submitted[1:]


async def test_a_keystore_is_as_good_as_two_files(authority: trustme.CA, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.serialization import pkcs12
    from cryptography.x509 import load_pem_x509_certificate

    issued = authority.issue_cert("localhost")
    store = pkcs12.serialize_key_and_certificates(
        b"own",
        serialization.load_pem_private_key(issued.private_key_pem.bytes(), None),  # type: ignore[arg-type]
        load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()),
        None,
        serialization.BestAvailableEncryption(b"changeit"),
    )
    (tmp_path / "store.p12").write_bytes(store)
    async with served(
        credentials=trusting(authority),
        options=NAMED,
        enable_grpc_ssl=True,
        keystore=str(tmp_path / "store.p12"),
    ) as client:
        assert (await client.predict()).prediction == b"x"


async def closed_by(address: str, data: bytes) -> bool:
    """Tell whether a connection ends on which this is said."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        await writer.drain()
        return await asyncio.wait_for(ended(reader), 60)
    finally:
        writer.close()


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        while await reader.read(4096):
            pass
    except ConnectionError:
        return True
    return True


async def test_a_connection_that_is_old_is_ended_between_calls() -> None:
    async with served(
        grpc_inference_max_connection_age_ms=200, grpc_inference_max_connection_age_grace_ms=30_000
    ) as client:
        host, _, port = client.addresses["inference"].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(PREFACE + SETTINGS)
        assert await asyncio.wait_for(first(reader, GOAWAY), 60)
        writer.close()
        # Those of a client go over to the next connection by themselves.
        for _ in range(20):
            assert (await client.predict()).prediction == b"x"


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", bytes(100), PREFACE + b"\xff" * 100])
async def test_bytes_that_are_no_grpc_end_their_connection(data: bytes) -> None:
    async with served() as client:
        assert await closed_by(client.addresses["inference"], data)
        assert (await client.predict()).prediction == b"x"


async def test_a_client_that_pings_all_the_time_is_sent_away() -> None:
    async with served() as client:
        host, _, port = client.addresses["inference"].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(PREFACE + SETTINGS)
        writer.write(PING * 20)
        assert ENHANCE_YOUR_CALM in await asyncio.wait_for(first(reader, GOAWAY), 60)
        writer.close()
        assert (await client.predict()).prediction == b"x"


async def test_a_thousand_idle_channels_keep_nobody_from_being_answered() -> None:
    async with served() as client, AsyncExitStack() as open_ones:
        host, _, port = client.addresses["inference"].rpartition(":")
        for _ in range(1000):
            connection = open_ones.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(PREFACE + SETTINGS)
        assert (await client.predict()).prediction == b"x"


async def test_connections_are_bounded() -> None:
    async with served(connection_limit=5) as client, AsyncExitStack() as open_ones:
        assert (await client.predict()).prediction == b"x"
        host, _, port = client.addresses["inference"].rpartition(":")
        for _ in range(10):
            connection = open_ones.enter_context(socket.create_connection((host, int(port))))
            connection.setblocking(False)
            connection.sendall(PREFACE + SETTINGS)
        assert await closed_by(client.addresses["inference"], PREFACE + SETTINGS)
        # Those that are there go on.
        assert (await client.predict()).prediction == b"x"


class Late(FakeLink):
    """A fleet whose answers come when the test says so."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.held: list[tuple[Any, Any]] = []

    def _answer(self, item: Any, frames: Any) -> None:
        self.held.append((item, frames))

    def answer_all(self) -> None:
        for item, parts in self.held:
            super()._answer(item, parts)


async def test_what_runs_when_it_is_told_to_stop_is_answered_and_nothing_new_is_taken() -> None:
    async with served(echo, healthy, link_type=Late, graceful_timeout_s=30) as client:
        link = client.link
        assert isinstance(link, Late)
        call = client.unary("Predictions", request(), pb.PredictionResponse)
        running = asyncio.ensure_future(done(call))
        await eventually_async(lambda: link.held)
        stopping = asyncio.create_task(client.server.stop())
        await eventually_async(lambda: link.is_leaving)

        async def is_refused() -> bool:
            code, _ = await refused(client.unary("Ping", b"", pb.TorchServeHealthResponse, timeout=5))
            return code == "UNAVAILABLE"

        assert await is_refused()
        link.answer_all()
        assert (await running).prediction == b"x"
        await stopping


async def test_what_doesnt_end_in_its_time_is_ended_and_its_job_cancelled() -> None:
    async with served(echo, healthy, link_type=Late, graceful_timeout_s=1) as client:
        link = client.link
        assert isinstance(link, Late)
        ending = asyncio.ensure_future(refused(client.unary("Predictions", request(), pb.PredictionResponse)))
        await eventually_async(lambda: link.held)
        await client.server.stop()
        assert (await ending)[0] in ("UNAVAILABLE", "CANCELLED")
        assert link._session.waiting == 0


def request() -> pb.PredictionsRequest:
    return pb.PredictionsRequest(model_name="m", input={"body": b"x"})


async def done(call: Any) -> Any:
    return await call
