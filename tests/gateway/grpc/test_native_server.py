"""pygrpc-native behind the port for inference: what it can't do, and what hostile clients get."""

import asyncio
import resource
import socket
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.gateway.grpc.raw_http2 import PREFACE, SETTINGS
from tests.gateway.grpc.serving import Client, refused, served
from tests.gateway.grpc.test_grpc_server import closed_by
from tests.gateway.grpc.test_inference_service import Silent
from tests.support import eventually_async
from torchrelay.gateway.grpc import native_server
from torchrelay.gateway.grpc.native_server import MEMORY_PER_BYTE, PATIENCE_S, MemoryGuard
from torchrelay.gateway.grpc.protos import inference_pb2 as pb
from torchrelay.shared.settings import GatewaySettings

native = partial(served, grpc_server="pygrpc-native")
MB = 1024 * 1024


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, []),
        ({"enable_grpc_ssl": True}, ["enable_grpc_ssl"]),
        ({"grpc_inference_max_connection_age_ms": 1000}, ["grpc_inference_max_connection_age_ms"]),
        (
            {"grpc_inference_max_connection_age_grace_ms": 1000},
            ["grpc_inference_max_connection_age_grace_ms"],
        ),
        ({"grpc_management_max_connection_age_ms": 1000}, []),
    ],
)
def test_what_it_cant_do_is_named(settings: dict[str, Any], named: list[str]) -> None:
    found = native_server.lacks(GatewaySettings(grpc_server="pygrpc-native", **settings))
    assert [fault.partition(" ")[0] for fault in found] == named


def test_memory_may_be_above_its_bound_for_a_moment_and_never_twice_as_much() -> None:
    guard = MemoryGuard(100 // MEMORY_PER_BYTE)
    assert not guard.is_full(0.0, 50)  # what it has without any call
    assert not guard.is_full(1.0, 151)
    assert guard.is_over
    assert not guard.is_full(1.0 + PATIENCE_S / 2, 149)
    assert not guard.is_over
    assert not guard.is_full(5.0, 151)
    assert guard.is_full(5.0 + PATIENCE_S, 151)
    assert guard.is_full(5.1, 251)


async def test_a_temporary_folder_with_a_long_path_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    async with native() as client:
        behind: Any = client.channels["inference"].unary_unary("/nobody/knows")  # it leaves that to grpcio
        assert (await refused(behind(b"", timeout=60)))[0] == "UNIMPLEMENTED"
    assert not list(long.iterdir())


def test_without_room_for_a_socket_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no temporary folder has room for a socket"):
        native_server.folder_for_sockets([str(tmp_path / ("x" * 100)), str(tmp_path / "missing")])


async def test_a_process_whose_memory_clients_fill_leaves_to_be_replaced() -> None:
    async with native(link_type=Silent, in_flight_limit_bytes=8 * MB, max_request_size=64 * MB) as client:
        request = pb.PredictionsRequest(model_name="m", input={"body": bytes(48 * MB)})
        call = client.unary("Predictions", request, pb.PredictionResponse)
        failing = asyncio.ensure_future(refused(call))
        await eventually_async(client.server._told.is_set)
        await client.server.stop()
        assert (await failing)[0] in ("UNAVAILABLE", "CANCELLED")


async def test_a_message_above_the_limit_is_refused_with_both_sizes() -> None:
    async with native(max_request_size=1000) as client:
        request = pb.PredictionsRequest(model_name="m", input={"body": bytes(2000)})
        code, said = await refused(client.unary("Predictions", request, pb.PredictionResponse))
        assert code == "RESOURCE_EXHAUSTED"
        assert "vs. 1000" in str(said)
        assert (await client.predict()).prediction == b"x"


async def test_unknown_fields_and_methods_are_as_with_the_other_server() -> None:
    async with native() as client:
        data = pb.PredictionsRequest(model_name="m", input={"body": b"x"}).SerializeToString()
        unknown = b"\xfa\x3f\x03abc"  # field 1023
        answered = await client.unary("Predictions", data + unknown, pb.PredictionResponse)
        assert answered.prediction == b"x"
        code, said = await refused(client.unary("Predictions", b"\xff\xff", pb.PredictionResponse))
        assert (code, "can't be read" in str(said)) == ("INTERNAL", True)
        nobody: Any = client.channels["inference"].unary_unary("/nobody/knows")
        assert await refused(nobody(b"", timeout=60)) == ("UNIMPLEMENTED", "Method not found: nobody/knows")


async def test_a_client_that_vanishes_in_a_call_cancels_its_job() -> None:
    async with native(link_type=Silent) as client:
        async with grpc.aio.insecure_channel(client.addresses["inference"]) as gone:
            other = Client({"inference": gone}, client.link, client.server, client.addresses)
            call = other.unary("Predictions", request(), pb.PredictionResponse)
            running = asyncio.ensure_future(call.code())
            await eventually_async(lambda: client.link._session.waiting)
        await eventually_async(lambda: not client.link._session.waiting)
        assert await running == grpc.StatusCode.CANCELLED


async def test_a_call_ends_at_its_deadline_and_its_job_with_it() -> None:
    async with native(link_type=Silent) as client:
        call = client.unary("Predictions", request(), pb.PredictionResponse, timeout=0.2)
        assert (await refused(call))[0] == "DEADLINE_EXCEEDED"
        await eventually_async(lambda: not client.link._session.waiting)


async def test_idle_channels_and_requests_that_never_end_keep_nobody_from_being_answered() -> None:
    async with native() as client, AsyncExitStack() as open_ones:
        host, _, port = client.addresses["inference"].rpartition(":")
        for _ in range(1000):
            connection = open_ones.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(PREFACE + SETTINGS)
        uploads = [client.upload() for _ in range(200)]
        await asyncio.gather(*(call.wait_for_connection() for call in uploads))
        assert (await client.predict()).prediction == b"x"
        for call in uploads:
            call.cancel()


@pytest.fixture
def few_files() -> Iterator[None]:
    """Let this process have few files open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def connect_on_and_on(connections: list[socket.socket], address: tuple[str, int]) -> None:
    while True:
        connections.append(socket.create_connection(address))


@pytest.mark.usefixtures("few_files")
async def test_where_no_more_connections_can_be_had_those_that_are_there_go_on() -> None:
    async with native() as client:
        assert (await client.predict()).prediction == b"x"
        host, _, port = client.addresses["inference"].rpartition(":")
        connections: list[socket.socket] = []
        try:
            with pytest.raises(OSError, match="Too many open files"):
                connect_on_and_on(connections, (host, int(port)))
            assert (await client.predict()).prediction == b"x"
        finally:
            for connection in connections:
                connection.close()
        async with grpc.aio.insecure_channel(client.addresses["inference"]) as new:
            other = Client({"inference": new}, client.link, client.server, client.addresses)
            assert (await other.predict()).prediction == b"x"


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", PREFACE + b"\xff" * 100])
async def test_bytes_that_are_no_grpc_end_their_connection(data: bytes) -> None:
    async with native() as client:
        assert await closed_by(client.addresses["inference"], data)
        assert (await client.predict()).prediction == b"x"


def request() -> pb.PredictionsRequest:
    return pb.PredictionsRequest(model_name="m", input={"body": b"x"})
