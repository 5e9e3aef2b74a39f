"""Follows a server from its start on, and reports the state of its models."""

import asyncio
import math
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchrelay.cli.start.checks import client_url
from torchrelay.cli.start.part_settings import Plan
from torchrelay.gateway.grpc import listen_addresses

# What asks the server takes 80 ms to import, and is imported where it is needed: by then the server's own
# processes are on their way.
if TYPE_CHECKING:
    from torchrelay.client.async_client import AsyncClient
    from torchrelay.shared.api_bodies import FleetBody, FleetModelBody

POLL_INTERVAL_S = 0.15
POLL_LIMIT_S = 5.0
#: After all models are ready or have failed.
WATCH_INTERVAL_S = 1.0
#: The least time between two lines of a model that is still being fetched or loaded.
LINE_INTERVAL_S = 1.0


class ServerWatcher:
    """What is told of a server's start, models and processes; `now` is in seconds of a monotonic clock."""

    def answers(self) -> None:
        """The listeners answer, and the broker is behind them."""

    def registered(self) -> None:
        """Every start-up model is registered or refused, and there is a node for workers."""

    def show(self, models: "tuple[FleetModelBody, ...]", now: float) -> None:
        """The models are now like this."""

    def settled(self, seen: "FleetBody") -> None:
        """Every model is ready, or has failed."""

    def process_ended(self, line: str) -> None:
        """A process has ended by itself and is started again; `line` says so."""

    def stopping(self) -> None:
        """Somebody has asked for the end."""


def is_settled(model: "FleetModelBody") -> bool:
    """Return whether a model is ready or has failed, so that nothing is waited for."""
    return model.is_ready or model.has_failed


class LineView(ServerWatcher):
    """Writes a line for each change of a model, at most one a second until it is settled.

    A model whose workers crash again and again, each time in the same way, is one line; the log has all.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._lines: dict[str, str] = {}
        self._written_at: dict[str, float] = {}
        self._failures: dict[str, str] = {}

    def show(self, models: "tuple[FleetModelBody, ...]", now: float) -> None:
        """Write a line for each model that has changed, if one is due."""
        from torchrelay.cli.remote.fleet_summaries import model_summary

        for model in models:
            if model.is_ready:
                self._failures.pop(model.label, None)
            elif model.last_error and self._failures.get(model.label) == model.last_error:
                continue  # it crashes as before, or is on its next try
            line = f"  {model.label}: {model_summary(model)}"
            is_due = (
                is_settled(model) or now - self._written_at.get(model.label, -math.inf) >= LINE_INTERVAL_S
            )
            if is_due and self._lines.get(model.label) != line:
                self._lines[model.label] = line
                self._written_at[model.label] = now
                self._say(line)
                if model.has_failed:
                    self._failures[model.label] = model.last_error


class Terminal(LineView):
    """Prints to a terminal how far the start is, where the server listens, and a call to try."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        super().__init__(say)
        self._plan = plan

    def answers(self) -> None:
        """Print where the server listens."""
        gateway = self._plan.gateway
        self._say("Model server started.")
        self._say(f"  inference   {client_url(gateway.inference_address, 'inference')}")
        self._say(f"  management  {client_url(gateway.management_address, 'management')}")
        if gateway.enable_metrics_api:
            self._say(f"  metrics     {client_url(gateway.metrics_address, 'metrics')}")
        for setting, address in listen_addresses.all_of(gateway).items():
            self._say(f"  gRPC        {address}  {setting.split('_')[1]}")
        if self._plan.broker.key_file:
            self._say(f"  keys        {self._plan.broker.key_file}")

    def settled(self, seen: "FleetBody") -> None:
        """Print a call that works."""
        inference = client_url(self._plan.gateway.inference_address, "inference")
        self._say(
            f"Try: {example_call(seen, inference, needs_key=self._plan.gateway.token_authorization)}"
            "\nCtrl-C stops everything."
        )

    def process_ended(self, line: str) -> None:
        """Print what the supervisor says of a process that ended."""
        self._say(line)

    def stopping(self) -> None:
        """Confirm that the server is stopping."""
        self._say("Stopping.")


def example_call(seen: "FleetBody", inference: str, *, needs_key: bool = False) -> str:
    """Write a curl command that works against what is loaded."""
    from torchrelay.client import http_calls, server_access

    ready = [model.model_name for model in seen.models if model.workers_ready]
    where = server_access.endpoint(inference)
    target = f"--unix-socket {where.socket_path} {where.base_url}" if where.socket_path else where.base_url
    key = " -H 'Authorization: Bearer KEY'" if needs_key else ""
    trust = " -k" if inference.startswith("https:") else ""
    call = f"-T FILE {target}{http_calls.path_of('predictions', ready[0])}" if ready else f"{target}/ping"
    return f"curl{trust}{key} {call}"


@dataclass(frozen=True, repr=False)
class Startup:
    """Polls `GET /fleet` of the server that this process started, and tells watchers, until it is cancelled.

    Answers with another `server_id` are ignored: another server may have got the address first, so that ours
    is about to report that it can't start.
    """

    url: str
    watchers: Sequence[ServerWatcher]
    key: str | None = None
    server_id: str = ""
    #: Host and port of further listeners, which shall be open before the server counts as up.
    listeners: Sequence[tuple[str, int]] = ()

    async def follow(self) -> None:
        """Tell the watchers of each step of the start, then of each change of the models."""
        await asyncio.sleep(POLL_INTERVAL_S)
        from torchrelay.client.async_client import AsyncClient
        from torchrelay.client.retry_policy import NO_RETRIES

        # The listener is our own, on this machine, whatever name its certificate has.
        async with AsyncClient(
            management=self.url, key=self.key or "", tls=_unverified(), retries=NO_RETRIES
        ) as client:
            seen = await self._next(client)
            for host, port in self.listeners:
                while not await _listens(host, port):
                    await asyncio.sleep(POLL_INTERVAL_S)
            for watcher in self.watchers:
                watcher.answers()
            # Without a node no worker can be placed, so that a model registered now would have none.
            while seen.loading or not seen.nodes:
                self._show(seen)
                await asyncio.sleep(POLL_INTERVAL_S)
                seen = await self._next(client)
            for watcher in self.watchers:
                watcher.registered()
            while not all(map(is_settled, seen.models)):
                self._show(seen)
                await asyncio.sleep(POLL_INTERVAL_S)
                seen = await self._next(client)
            self._show(seen)
            for watcher in self.watchers:
                watcher.settled(seen)
            while True:
                await asyncio.sleep(WATCH_INTERVAL_S)
                seen = await self._poll(client) or seen
                self._show(seen)

    def _show(self, seen: "FleetBody") -> None:
        if seen.nodes:  # before, every model only waits for a node
            for watcher in self.watchers:
                watcher.show(seen.models, asyncio.get_running_loop().time())

    async def _next(self, client: "AsyncClient") -> "FleetBody":
        while True:
            if seen := await self._poll(client):
                return seen
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _poll(self, client: "AsyncClient") -> "FleetBody | None":
        import msgspec

        from torchrelay.client import management_calls
        from torchrelay.shared.errors import RelayError

        try:
            seen = await client.send(
                msgspec.structs.replace(management_calls.fleet(), timeout_s=POLL_LIMIT_S)
            )
        except RelayError:
            return None
        return seen if seen.server_id == self.server_id else None


async def _listens(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # PERF: the system's authorities would take 24 ms
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
