"""Both clients behind one face, so that each test of how calls are sent is one for either."""

import asyncio
from typing import Any

from torchrelay.client import AsyncClient, Client

#: What is iterated over instead of awaited.
ITERATED = ("watch", "models", "workflows")


class Both:
    """Makes a client for each call; `settings` are the client's."""

    def __init__(self, kind: str, **settings: Any) -> None:
        self._kind = kind
        self._settings = settings

    def call(self, method: str, *arguments: Any, **given: Any) -> Any:
        """Return what a method returns; of one that yields, the list of it."""
        if self._kind == "sync":
            with Client(**self._settings) as client:
                returned = getattr(client, method)(*arguments, **given)
                return list(returned) if method in ITERATED else returned
        return asyncio.run(self._awaited(method, arguments, given))

    async def _awaited(self, method: str, arguments: tuple[Any, ...], given: dict[str, Any]) -> Any:
        async with AsyncClient(**self._settings) as client:
            returned = getattr(client, method)(*arguments, **given)
            return [one async for one in returned] if method in ITERATED else await returned

    def parts(self, got: list[bytes], *arguments: Any, **given: Any) -> Any:
        """Read a stream into `got`, and return it."""
        if self._kind == "sync":
            with Client(**self._settings) as client, client.stream(*arguments, **given) as parts:
                got.extend(parts)
                return parts
        return asyncio.run(self._streamed(got, arguments, given))

    async def _streamed(self, got: list[bytes], arguments: tuple[Any, ...], given: dict[str, Any]) -> Any:
        async with AsyncClient(**self._settings) as client, client.stream(*arguments, **given) as parts:
            async for part in parts:
                got.append(part)
            return parts
