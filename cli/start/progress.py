"""Follows a server from its start on, and says what becomes of its models."""

import asyncio
import math
import ssl
from collections.abc import Callable
from typing import Protocol

import httpx

from torchrelay.cli.remote import client
from torchrelay.cli.remote.fleet_summaries import model_summary
from torchrelay.shared.api_bodies import FleetBody, FleetModelBody

POLL_INTERVAL_S = 0.15
#: Once all models are settled, only news are looked for.
WATCH_INTERVAL_S = 1.0
#: A download says its percentage often.
LINE_INTERVAL_S = 1.0


class Watcher(Protocol):
    """Whoever is told of a start; `now` is a clock that only grows."""

    def answers(self) -> None:
        """Take note that the listeners answer, and that the broker is behind them."""

    def registered(self) -> None:
        """Take note that every start-up model is registered or refused, and that workers can be placed."""

    def show(self, models: tuple[FleetModelBody, ...], now: float) -> None:
        """See the models as they are now."""

    def settled(self, seen: FleetBody) -> None:
        """Take note that every model is ready, or has failed to become so."""


def is_settled(model: FleetModelBody) -> bool:
    """Tell whether waiting for a model has an end: it is ready, or has failed to become so."""
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
        """Write what is new and due."""
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
    """Polls `GET /fleet` of our own server and tells a watcher what it sees, until it is cancelled.

    Another that was started at the same time may have the address, and ours is about to say that it can't
    start: what has another `server_id` is no answer.
    """

    def __init__(self, url: str, watcher: Watcher, key: str | None = None, server_id: str = "") -> None:
        self._url = url
        self._watcher = watcher
        self._server_id = server_id
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    async def follow(self) -> None:
        """Tell the watcher of each step of the start, then of the models' ups and downs."""
        uds = self._url.removeprefix("unix:") if self._url.startswith("unix:") else None
        # The listener is our own, on this machine, whatever name its certificate has.
        transport = httpx.AsyncHTTPTransport(uds=uds, verify=_unverified())
        async with httpx.AsyncClient(
            base_url="http://localhost" if uds else self._url,
            transport=transport,
            headers=self._headers,
            timeout=5.0,
        ) as http:
            await self._follow(http)

    async def _follow(self, http: httpx.AsyncClient) -> None:
        seen = await self._next(http)
        self._watcher.answers()
        # Without a node no worker can be placed: who registers a model would find none in its description.
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
