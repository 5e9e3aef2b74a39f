"""Health checks and reflection beside TorchServe's services."""

import asyncio
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.gateway.grpc.serving import refused, served
from torchrelay.gateway.grpc import (
    inference_service,
    management_service,
    open_inference_service,
    standard_services,
    workflow_services,
)

pytestmark = pytest.mark.usefixtures("each_server")

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def asking(service: str = "") -> Any:
    return health_pb2.HealthCheckRequest(service=service)


async def test_health_is_that_of_the_process_and_needs_no_key() -> None:
    async with served(token_authorization=True) as client:
        for api, service in (
            ("inference", inference_service.SERVICE), ("management", management_service.SERVICE)
        ):  # fmt: skip
            stub = health_pb2_grpc.HealthStub(client.channels[api])
            # The broker has not told its keys yet.
            assert (await stub.Check(asking())).status == NOT_SERVING
            assert (await stub.Check(asking(service))).status == NOT_SERVING
            assert (await refused(stub.Check(asking("nobody"))))[0] == "NOT_FOUND"
    async with served() as client:
        stub = health_pb2_grpc.HealthStub(client.channels["inference"])
        assert (await stub.Check(asking())).status == SERVING
        client.link.is_leaving = True
        assert (await stub.Check(asking())).status == NOT_SERVING


async def test_a_watcher_hears_of_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard_services, "WATCH_S", 0.01)
    async with served() as client:
        stub = health_pb2_grpc.HealthStub(client.channels["inference"])
        watch = stub.Watch(asking())
        assert (await watch.read()).status == SERVING
        client.link.is_leaving = True
        assert (await asyncio.wait_for(watch.read(), 60)).status == NOT_SERVING
        watch.cancel()
        unknown = stub.Watch(asking("nobody"))
        assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def test_reflection_lists_the_ports_services_and_describes_their_messages() -> None:
    async with served() as client:
        for api, service, of_workflows in (
            ("inference", inference_service.SERVICE, workflow_services.INFERENCE),
            ("management", management_service.SERVICE, workflow_services.MANAGEMENT),
        ):
            stub = reflection_pb2_grpc.ServerReflectionStub(client.channels[api])
            requests = [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=service),
            ]
            listed, file = [one async for one in stub.ServerReflectionInfo(iter(requests))]
            assert {one.name for one in listed.list_services_response.service} == {
                service, of_workflows, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection",
            }  # fmt: skip
            assert file.file_descriptor_response.file_descriptor_proto


async def test_the_open_inference_protocol_is_there_too_where_it_is_on() -> None:
    names = (open_inference_service.SERVICE, open_inference_service.TORCHSERVES_SERVICE)
    async with served(open_inference_protocol=True) as client:
        health = health_pb2_grpc.HealthStub(client.channels["inference"])
        stub = reflection_pb2_grpc.ServerReflectionStub(client.channels["inference"])
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            *(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names),
        ]
        listed, *files = [one async for one in stub.ServerReflectionInfo(iter(requests))]
        assert set(names) < {one.name for one in listed.list_services_response.service}
        assert all(file.file_descriptor_response.file_descriptor_proto for file in files)
        for name in names:
            assert (await health.Check(asking(name))).status == SERVING


async def test_what_no_service_has_is_refused_in_torchserves_words() -> None:
    async with served() as client:
        for api, method in (
            ("inference", "org.pytorch.serve.grpc.inference.InferenceAPIsService/Explanations"),
            ("management", "org.pytorch.serve.grpc.inference.InferenceAPIsService/Ping"),
        ):
            call: Any = client.channels[api].unary_unary(f"/{method}")
            code = await refused(call(b""))
            assert code == ("UNIMPLEMENTED", f"Method not found: {method}")
