"""Follows a server that starts, until every model is loaded or has failed, and says what it sees."""

import asyncio
import math
from collections.abc import Callable

import httpx

from cli import client, fleet

POLL_INTERVAL_S = 0.15
#: Models that are not even registered after this long, while nothing loads, won't be.
PATIENCE_S = 8.0


#: A download says its percentage often.
LINE_INTERVAL_S = 1.0


def is_settled(model: fleet.Version) -> bool:
    """Tell whether waiting for a model has an end: it is ready, or has failed to become so."""
    return model.is_ready or model.has_failed


class LineView:
    """Writes a line for each change of a model, at most one a second until it is settled."""

    def __init__(self, echo: Callable[[str], None]) -> None:
        self._echo = echo
        self._lines: dict[str, str] = {}
        self._written_at: dict[str, float] = {}

    def show(self, models: tuple[fleet.Version, ...], now: float) -> None:
        """Write what is new and due."""
        for model in models:
            line = f"  {model.label}: {model.summary()}"
            is_due = (
                is_settled(model) or now - self._written_at.get(model.label, -math.inf) >= LINE_INTERVAL_S
            )
            if is_due and self._lines.get(model.label) != line:
                self._lines[model.label] = line
                self._written_at[model.label] = now
                self._echo(line)


class Startup:
    """Polls `GET /fleet` of the server at `url`, which waits for `expected` models."""

    def __init__(self, url: str, expected: int, view: LineView, came_up: Callable[[], None]) -> None:
        self._url = url
        self._expected = expected
        self._view = view
        self._came_up = came_up

    async def follow(self) -> fleet.Fleet:
        """Return the fleet once all its models are settled; `came_up` is called when the server answers."""
        uds = self._url.removeprefix("unix:") if self._url.startswith("unix:") else None
        transport = httpx.AsyncHTTPTransport(uds=uds)
        base_url = "http://localhost" if uds else self._url
        loop = asyncio.get_running_loop()
        async with httpx.AsyncClient(base_url=base_url, transport=transport, timeout=5.0) as http:
            seen = await self._poll(http)
            while seen is None:
                await asyncio.sleep(POLL_INTERVAL_S)
                seen = await self._poll(http)
            self._came_up()
            idle_since = loop.time()
            while loop.time() - idle_since < PATIENCE_S:
                if seen.nodes:
                    self._view.show(seen.models, loop.time())
                if len(seen.models) >= self._expected and all(map(is_settled, seen.models)):
                    break
                # A model that loads for minutes says so by its workers, and is waited for.
                if any(model.workers and not is_settled(model) for model in seen.models):
                    idle_since = loop.time()
                await asyncio.sleep(POLL_INTERVAL_S)
                seen = await self._poll(http) or seen
        return seen

    async def _poll(self, http: httpx.AsyncClient) -> fleet.Fleet | None:
        try:
            answer = await http.get("/fleet")
        except httpx.TransportError:
            return None
        return client.decode(answer.content, fleet.Fleet) if answer.status_code == 200 else None
