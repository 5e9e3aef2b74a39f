"""What both clients are made with, and how their methods are made of the calls that these send."""

import inspect
import ssl
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from torchrelay.client import http_pools
from torchrelay.client.attempts import Attempts, CallLimits
from torchrelay.client.call_failures import REQUEST_ID
from torchrelay.client.http_calls import Api, Call
from torchrelay.client.retry_policy import DEFAULT_RETRIES, Retries
from torchrelay.client.server_access import ServerAccess
from torchrelay.shared import clock, ids
from torchrelay.shared.settings import environment

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])  # Any: a method of whatever signature
ANSWER_LIMIT_BYTES = 1024 * 1024 * 1024
#: As many requests as may be on their way at once; more wait for one of these to end.
CONNECTIONS_LIMIT = 100

STREAM_WORDS = "Have a model answer, and read its answer part by part, as it comes; see `predict`."


class BaseClient:
    """Where a server is, how to get in, and what calls may take."""

    def __init__(
        self,
        *,
        inference: str | None = None,
        management: str | None = None,
        key: str | None = None,
        key_file: str | PathLike[str] | None = None,
        ca_file: str | PathLike[str] | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float | None = None,
        retries: Retries = DEFAULT_RETRIES,
        answer_limit_bytes: int = ANSWER_LIMIT_BYTES,
        connections_limit: int = CONNECTIONS_LIMIT,
        chance: Callable[[], float] = ids.chance,
    ) -> None:
        """Take a server's addresses: `http://HOST:PORT`, `https://HOST:PORT` or `unix:/PATH`.

        What is left out comes from TORCHRELAY_INFERENCE, TORCHRELAY_MANAGEMENT, TORCHRELAY_KEY and
        TORCHRELAY_CA; else addresses are the server's defaults, and keys those of ./key_file.json. `key` is
        sent to both addresses, `key_file` has one for each. `ca_file` has authorities to trust beside the
        system's; `tls` is used as it is, say with a certificate of the client's own. `timeout_s` is for
        predictions that don't say how long they wait; `answer_limit_bytes` for those not read as a stream.
        """
        self._access = ServerAccess(
            inference=inference,
            management=management,
            key=key,
            key_file=None if key_file is None else Path(key_file),
            ca_file=None if ca_file is None else Path(ca_file),
            tls=tls,
        )
        self._limits = CallLimits(timeout_s=timeout_s, answer_limit_bytes=answer_limit_bytes)
        self._retries = retries
        self._connections_limit = connections_limit
        self._chance = chance
        self._environ = environment()
        #: httpx2's clients, of the one kind or the other; made when they are needed.
        self._pools: dict[Api, Any] = {}

    def _begin(self, call: Call[T]) -> Attempts[T]:
        url = self._access.endpoint(call.api, self._environ).url
        return Attempts(call, url, self._limits, self._retries, clock.monotonic())

    def _headers(self, attempts: Attempts[Any], now: float) -> httpx2.Headers:
        """Return the headers of a try, with the key as it is by now: keys expire, and their file changes."""
        headers = httpx2.Headers(self._access.headers(attempts.call.api, self._environ))
        headers.update(attempts.headers(now))
        return headers

    def _arguments(self, api: Api) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what httpx2's client for an API is made with, and its transport. Raises UnusableSetting."""
        where = self._access.endpoint(api, self._environ)
        return (
            http_pools.client_arguments(where),
            http_pools.transport_arguments(self._access, where, self._environ, self._connections_limit),
        )


class StreamedAnswer:
    """An answer that is read part by part, as a handler sends it; a large part may come in several."""

    def __init__(self, attempts: Attempts[Any], response: httpx2.Response) -> None:
        self._attempts = attempts
        self._response = response
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.request_id = response.headers.get(REQUEST_ID, "")


def described_as(build: Callable[..., Any], method: F, name: str = "", words: str = "") -> F:
    """Give a method the parameters of what makes its call, and its name and words unless it has others."""
    method.__name__, method.__doc__ = name or build.__name__, words or build.__doc__
    signature = inspect.signature(build)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    parameters = [itself, *signature.parameters.values()]
    # The call that is returned is the method's own affair.
    shown = signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    method.__signature__ = shown  # type: ignore[attr-defined]  # `help` reads it
    return method
