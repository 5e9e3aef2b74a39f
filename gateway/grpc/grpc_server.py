"""The servers of one process that speaks gRPC: a port for inference and one for management, and how they end.

Imported after the fork: grpc starts threads, which a fork doesn't take along.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from torchrelay.gateway.calls.model_calls import ModelCalls
from torchrelay.gateway.calls.workflow_calls import WorkflowCalls
from torchrelay.gateway.grpc import (
    inference_service,
    listen_addresses,
    management_service,
    native_server,
    open_inference_service,
    standard_services,
    workflow_services,
)
from torchrelay.gateway.grpc.awaited_clients import AwaitedClients
from torchrelay.gateway.grpc.grpc_errors import Api
from torchrelay.gateway.grpc.served_calls import Context, Method, ServedCalls
from torchrelay.gateway.http import certificates
from torchrelay.gateway.http.access_log import AccessLog
from torchrelay.gateway.link import DISMISSED_STATUS, Link
from torchrelay.shared import clock
from torchrelay.shared.processes.returned_memory import give_back_free_memory
from torchrelay.shared.settings import GatewaySettings

logger = logging.getLogger(__name__)

#: Calls beside in_flight_limit_jobs: management, health checks, streams on which nothing comes.
SPARE_CALLS = 512
#: How often calls that send nothing, and the process's memory, are looked at.
SWEEP_S = 0.25
#: How long a client may take for the handshake, as over HTTP.
HANDSHAKE_S = 15
#: A connection on which nothing runs is ended; its client makes another one when it needs it.
IDLE_S = 300
#: While something runs, its client is asked after so long whether it is there, and has so long to answer.
ALIVE_AFTER_S, ALIVE_WITHIN_S = 60, 20
#: What of the time to stop is kept for the last answers, and for Bye.
END_S = 1.0


@dataclass(eq=False)
class GrpcServer:
    """Serves until it is told to stop; `notify` is called every `notify_s` while its event loop runs."""

    link: Link
    _config: GatewaySettings
    _notify: Callable[[], None]
    _notify_s: float

    def __post_init__(self) -> None:
        self._awaited = AwaitedClients(
            self._config.in_flight_limit_jobs + SPARE_CALLS,
            self._config.in_flight_bytes,
            self._config.unsent_bytes,
            self._config.max_request_size,
        )
        self._is_native = self._config.grpc_server == "pygrpc-native"
        self._guard = native_server.MemoryGuard(self._config.in_flight_bytes)
        self._access: AccessLog | None = None
        self._servers: list[grpc.aio.Server] = []
        self._looking: list[asyncio.Task[None]] = []
        self._told = asyncio.Event()
        self._is_hasty = False

    async def serve(self) -> None:
        """Serve. SIGTERM has it say that it leaves, and go on for leave_lead_s; SIGQUIT leaves that out."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._told.set)
        for number in (signal.SIGQUIT, signal.SIGINT):
            loop.add_signal_handler(number, self._leave_at_once)
        try:
            await self.start()
        except RuntimeError as error:  # which is all that grpc says of a port that it can't have
            logger.error("gateway.cannot_start", extra={"reason": str(error)})
            raise SystemExit(DISMISSED_STATUS) from error
        logger.info("gateway.speaks_grpc", extra={"addresses": ",".join(self.addresses().values())})
        await self._told.wait()
        await self.stop()

    async def start(self) -> None:
        """Dial the broker and listen. Raises RuntimeError where it can't."""
        if self._config.access_log:
            self._access = AccessLog(self._config.access_log, self._config.log_limits)
        await self.link.start()
        self._looking = [
            asyncio.create_task(self._keep_notifying()),
            asyncio.create_task(self._keep_sweeping()),
        ]
        await self.link.until_up(self._told.is_set)
        self._servers = self._made()
        for server in self._servers:
            await server.start()

    async def stop(self) -> None:
        """Say that it leaves, go on for leave_lead_s, and end once all calls have, or their time is over."""
        logger.info("gateway.leaving")
        self.link.is_leaving = True
        until = clock.monotonic() + self._config.leave_lead_s
        while not self._is_hasty and (left_s := until - clock.monotonic()) > 0:
            await asyncio.sleep(min(left_s, 0.1))
        grace_s = max(END_S, self._config.graceful_timeout_s - END_S)
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))
        await self.link.close()
        for task in self._looking:
            task.cancel()
        if self._access is not None:
            self._access.close()

    def addresses(self) -> dict[str, str]:
        """Return where it listens, by setting."""
        return listen_addresses.all_of(self._config)

    def _leave_at_once(self) -> None:
        self._is_hasty = True
        self._told.set()

    async def _keep_notifying(self) -> None:
        while True:
            self._notify()
            await asyncio.sleep(self._notify_s)

    async def _keep_sweeping(self) -> None:
        page_bytes = os.sysconf("SC_PAGE_SIZE")
        with open("/proc/self/statm", encoding="ascii") as statm:
            while True:
                statm.seek(0)
                resident = int(statm.read().split()[1]) * page_bytes
                now = clock.monotonic()
                self._awaited.sweep(now, resident)
                if not self._told.is_set():
                    self._leave_if_stuck(now, resident)
                await asyncio.sleep(SWEEP_S)

    def _leave_if_stuck(self, now: float, resident: int) -> None:
        """Have another process take over where clients hold what can't be taken from them."""
        if self._awaited.is_stuck(now):
            logger.error("gateway.answers_not_taken", extra={"unsent_bytes": self._awaited.unsent_bytes})
            self._leave_at_once()
        elif self._is_native and self._guard.is_full(now, resident):
            logger.error("gateway.memory_taken_up", extra={"resident_bytes": resident})
            self._leave_at_once()
        elif self._guard.is_over:
            give_back_free_memory()

    # The two servers

    def _made(self) -> list[grpc.aio.Server]:
        config = self._config
        credentials = None
        if config.enable_grpc_ssl:
            credentials = grpc.ssl_server_credentials([certificates.pem(config)])
        made = []
        by_api: dict[Api, Callable[[ServedCalls], dict[str, dict[str, Method]]]] = {
            "inference": self._inference,
            "management": self._management,
        }
        for api, services_of in by_api.items():
            is_native = api == "inference" and self._is_native
            services = services_of(ServedCalls(self.link, self._awaited, self._access, is_native))
            if is_native:
                server = native_server.made(services, self._options(api))
            else:
                server = grpc.aio.server(options=self._options(api))
                for name, handlers in services.items():
                    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
            standard_services.add_health(server, self.link, services)
            standard_services.add_reflection(server, services)
            server.add_generic_rpc_handlers((Unknown(),))  # last: it takes whatever comes
            address = self.addresses()[f"grpc_{api}_port"]
            if credentials is None:
                server.add_insecure_port(address)
            else:
                server.add_secure_port(address, credentials)
            made.append(server)
        return made

    def _inference(self, calls: ServedCalls) -> dict[str, dict[str, Method]]:
        """Return the methods of the services of the port for inference."""
        services = {
            inference_service.SERVICE: inference_service.InferenceService(calls).handlers(),
            workflow_services.INFERENCE: workflow_services.WorkflowInferenceService(calls).handlers(),
        }
        if self._config.open_inference_protocol:
            service = open_inference_service.OpenInferenceService(calls, ModelCalls(self.link, self._config))
            names = (open_inference_service.SERVICE, open_inference_service.TORCHSERVES_SERVICE)
            services |= {name: service.handlers(name) for name in names}
        return services

    def _management(self, calls: ServedCalls) -> dict[str, dict[str, Method]]:
        """Return those of the port for management."""
        models = management_service.ManagementService(calls, ModelCalls(self.link, self._config))
        workflows = workflow_services.WorkflowManagementService(calls, WorkflowCalls(self.link, self._config))
        return {
            management_service.SERVICE: models.handlers(),
            workflow_services.MANAGEMENT: workflows.handlers(),
        }

    def _options(self, api: Api) -> list[tuple[str, int]]:
        config = self._config
        ages = {
            "grpc.max_connection_age_ms": getattr(config, f"grpc_{api}_max_connection_age_ms"),
            "grpc.max_connection_age_grace_ms": getattr(config, f"grpc_{api}_max_connection_age_grace_ms"),
        }
        return [
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", config.max_request_size),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", config.in_flight_limit_jobs + SPARE_CALLS),
            ("grpc.max_allowed_incoming_connections", config.connection_limit),
            ("grpc.server_handshake_timeout_ms", 1000 * HANDSHAKE_S),
            ("grpc.max_connection_idle_ms", 1000 * IDLE_S),
            ("grpc.keepalive_time_ms", 1000 * ALIVE_AFTER_S),
            ("grpc.keepalive_timeout_ms", 1000 * ALIVE_WITHIN_S),
            *((name, value) for name, value in ages.items() if value),
        ]


class Unknown(grpc.GenericRpcHandler):
    """Refuses what no service has, in TorchServe's words."""

    def service(self, details: grpc.HandlerCallDetails) -> Method:
        """Return what refuses the call."""

        async def refuse(_: object, context: Context) -> None:
            method = details.method.removeprefix("/")[:200]
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"Method not found: {method}")

        return grpc.stream_stream_rpc_method_handler(refuse)
