"""Follows a server that starts, until every model is loaded or has failed, and says what it sees."""

import asyncio
from collections.abc import Callable

import httpx

from cli import client, fleet

POLL_INTERVAL_S = 0.15
#: Models that have not even been registered after this long without any change won't be.
PATIENCE_S = 8.0


def _is_loading(model: fleet.Version) -> bool:
    return bool(model.workers) and not (model.is_ready or model.has_failed)


class LineView:
    """Prints a line whenever a model's state has changed."""

    def __init__(self, echo: Callable[[str], None]) -> None:
        self._echo = echo
        self._shown: dict[str, str] = {}

    def show(self, models: tuple[fleet.Version, ...]) -> bool:
        """Show the models; tell whether anything is new."""
        new = {model.label: model.summary() for model in models}
        for label, summary in new.items():
            if self._shown.get(label) != summary:
                self._echo(f"  {label}: {summary}")
        is_new = new != self._shown
        self._shown = new
        return is_new


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
            changed_at = loop.time()
            while not self._is_settled(seen) and loop.time() - changed_at < PATIENCE_S:
                await asyncio.sleep(POLL_INTERVAL_S)
                newer = await self._poll(http)
                seen = newer or seen
                # A model that loads for minutes says so by its workers, and is waited for.
                if self._view.show(seen.models) or any(_is_loading(model) for model in seen.models):
                    changed_at = loop.time()
        return seen

    async def _poll(self, http: httpx.AsyncClient) -> fleet.Fleet | None:
        try:
            answer = await http.get("/fleet")
        except httpx.TransportError:
            return None
        return client.decode(answer.content, fleet.Fleet) if answer.status_code == 200 else None

    def _is_settled(self, seen: fleet.Fleet) -> bool:
        self._view.show(seen.models)
        settled = sum(model.is_ready or model.has_failed for model in seen.models)
        return settled == len(seen.models) >= self._expected
