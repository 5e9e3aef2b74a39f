"""Follows a server from its start on, and reports the state of its models."""

import asyncio
import math
import ssl
from collections.abc import Callable
from typing import Protocol

import httpx

from torchrelay.cli.remote import client, credentials
from torchrelay.cli.remote.fleet_summaries import model_summary
from torchrelay.shared.api_bodies import FleetBody, FleetModelBody

POLL_INTERVAL_S = 0.15
#: After all models are ready or have failed.
WATCH_INTERVAL_S = 1.0
#: The least time between two lines of a model that is still being fetched or loaded.
LINE_INTERVAL_S = 1.0


class StartupWatcher(Protocol):
    """What is told of a server's start, step by step; `now` is in seconds of a monotonic clock."""

    def answers(self) -> None:
        """The listeners answer, and the broker is behind them."""

    def registered(self) -> None:
        """Every start-up model is registered or refused, and there is a node for workers."""

    def show(self, models: tuple[FleetModelBody, ...], now: float) -> None:
        """The models are now like this."""

    def settled(self, seen: FleetBody) -> None:
        """Every model is ready, or has failed."""


def is_settled(model: FleetModelBody) -> bool:
    """Return whether a model is ready or has failed, so that nothing is waited for."""
    return model.is_ready or model.has_failed


class LineView:
    """Writes a line for each change of a model, at most one a second until it is settled.

    A model whose workers crash again and again, each time in the same way, is one line; the log has all.
    """

    def __init__(self, echo: Callable[[str], None]) -> None:
        self._echo = echo
        self._lines: dict[str, str] = {}
        self._written_at: dict[str, float] = {}
        self._failures: dict[str, str] = {}

    def show(self, models: tuple[FleetModelBody, ...], now: float) -> None:
        """Write a line for each model that has changed, if one is due."""
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
                self._echo(line)
                if model.has_failed:
                    self._failures[model.label] = model.last_error


class Startup:
    """Polls `GET /fleet` of the server that this process started, and tells a watcher, until it is cancelled.

    Answers with another `server_id` are ignored: another server may have got the address first, so that ours
    is about to report that it can't start.
    """

    def __init__(
        self, url: str, watcher: StartupWatcher, key: str | None = None, server_id: str = ""
    ) -> None:
        self._url = url
        self._watcher = watcher
        self._server_id = server_id
        self._headers = credentials.headers(key)

    async def follow(self) -> None:
        """Tell the watcher of each step of the start, then of each change of the models."""
        base_url, socket_path = client.endpoint(self._url)
        # The listener is our own, on this machine, whatever name its certificate has.
        transport = httpx.AsyncHTTPTransport(uds=socket_path, verify=_unverified())
        async with httpx.AsyncClient(
            base_url=base_url, transport=transport, headers=self._headers, timeout=5.0
        ) as http:
            await self._follow(http)

    async def _follow(self, http: httpx.AsyncClient) -> None:
        seen = await self._next(http)
        self._watcher.answers()
        # Without a node no worker can be placed, so that a model registered now would have none.
        while seen.loading or not seen.nodes:
            self._show(seen)
            seen = await self._next(http)
        self._watcher.registered()
        while not all(map(is_settled, seen.models)):
            self._show(seen)
            seen = await self._next(http)
        self._show(seen)
        self._watcher.settled(seen)
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            seen = await self._poll(http) or seen
            self._show(seen)

    def _show(self, seen: FleetBody) -> None:
        if seen.nodes:  # before, every model only waits for a node
            self._watcher.show(seen.models, asyncio.get_running_loop().time())

    async def _next(self, http: httpx.AsyncClient) -> FleetBody:
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            if seen := await self._poll(http):
                return seen

    async def _poll(self, http: httpx.AsyncClient) -> FleetBody | None:
        try:
            answer = await http.get("/fleet")
        except httpx.TransportError:
            return None
        if answer.status_code != 200:
            return None
        seen = client.decode(answer.content, FleetBody)
        return seen if seen.server_id == self._server_id else None


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
