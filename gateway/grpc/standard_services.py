"""gRPC's standard services beside TorchServe's: health checks and reflection. They ask for no key."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from torchrelay.gateway.link import Link

Context: TypeAlias = "grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]"

#: How often a watched health is looked at.
WATCH_S = 1.0
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpcio-health-checking has no types
    """`grpc.health.v1`: whether requests can be served, as /readyz says it; of this port, or its services."""

    def __init__(self, link: Link, services: Iterable[str]) -> None:
        self._link = link
        self._names = ("", *services, HEALTH)

    async def Check(  # noqa: N802  # the protocol's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Tell it once."""
        if request.service not in self._names:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"No service is called {request.service[:100]!r} here."
            )
        return await self._look()

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Tell it now and whenever it changes."""
        if request.service not in self._names:
            yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            return
        told = None
        while True:
            seen = await self._look()
            if seen != told:
                yield seen
                told = seen
            await asyncio.sleep(WATCH_S)

    async def _look(self) -> health_pb2.HealthCheckResponse:
        is_ready = not await self._link.why_not_ready()
        states = health_pb2.HealthCheckResponse
        return states(status=states.SERVING if is_ready else states.NOT_SERVING)


def add_health(server: grpc.aio.Server, link: Link, services: Iterable[str]) -> None:
    """Serve health checks."""
    health_pb2_grpc.add_HealthServicer_to_server(HealthService(link, services), server)


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Serve descriptions of these services, of health checks, and of reflection itself."""
    reflection.enable_server_reflection((*services, HEALTH, reflection.SERVICE_NAME), server)
