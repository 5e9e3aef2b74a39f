"""One of the two servers: sends it requests as they are, and keeps a bounded part of its answers."""

import hashlib
import re
import string
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx2

from torchrelay.cli.faults import Fault
from torchrelay.cli.migrate.answer_differences import NOBODY_ANSWERS, ServerAnswer
from torchrelay.cli.migrate.replayed_request import Api, ReplayedRequest
from torchrelay.cli.remote.connected import unusable_settings_are_faults
from torchrelay.client import http_pools, server_access
from torchrelay.shared import clock
from torchrelay.shared.settings import environment
from torchrelay.shared.torchserve.key_files import ENTRY_NAMES

#: TorchServe's ports follow one another.
_OFFSETS: dict[Api, int] = {"inference": 0, "management": 1, "metrics": 2}
CONNECT_TIMEOUT_S = 5.0
_PING = ReplayedRequest(api="inference", method="GET", path="/ping")


def addresses(url: str, management: str | None, metrics: str | None) -> dict[Api, str]:
    """Return the address of each API; those not given have the next ports. Raises Fault for no url."""
    given: dict[Api, str | None] = {"inference": url, "management": management, "metrics": metrics}
    for address in given.values():
        if address is not None and not re.match(r"(https?://[^/]|unix:/)", address):
            raise Fault(f"{address} is no address: write http://HOST:PORT, https://HOST:PORT or unix:/PATH")
    return {api: (said or _next(url, _OFFSETS[api])).rstrip("/") for api, said in given.items()}


def _next(url: str, offset: int) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Fault(f"{url} is no address: {error}") from error
    if not offset or port is None or not parts.hostname:
        return url  # one port for all, or a unix socket
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port + offset}"


@contextmanager
def asking(
    url: str, management: str | None, key_file: Path | None, *, timeout_s: float, body_limit_mib: int
) -> Iterator["AskedServer"]:
    """Give out a server at an address, and close its connections in the end.

    Raises Fault where nobody answers there, or there is no such key file.
    """
    if key_file is not None and not key_file.is_file():
        raise Fault(f"{key_file} is not there: name the server's key_file.json")
    with unusable_settings_are_faults():
        server = AskedServer(
            addresses(url, management, None),
            clock=clock.monotonic,
            environ=environment(),
            key_file=key_file,
            timeout_s=timeout_s,
            body_limit_bytes=body_limit_mib << 20,
        )
    try:
        if server.ask(_PING).failure == NOBODY_ANSWERS:
            raise Fault(f"no server answers at {url}: start it, or name another address")
        yield server
    finally:
        server.close()


class AskedServer:
    """Asks one server; threads may share it. `clock` gives seconds."""

    def __init__(
        self,
        urls: Mapping[Api, str],
        *,
        clock: Callable[[], float],
        environ: Mapping[str, str],
        key_file: Path | None = None,
        timeout_s: float = 120.0,
        body_limit_bytes: int = 16 << 20,
    ) -> None:
        self._urls = urls
        self._clock = clock
        self._body_limit_bytes = body_limit_bytes
        entries = server_access.read_key_file(key_file) if key_file else {}
        self._keys = {
            api: entry.key for api, name in ENTRY_NAMES.items() if (entry := entries.get(name)) is not None
        }
        self._bases: dict[Api, str] = {}
        self._clients: dict[Api, httpx2.Client] = {}
        for api, url in urls.items():
            where = server_access.endpoint(url)
            self._bases[api] = where.base_url
            self._clients[api] = httpx2.Client(
                transport=httpx2.HTTPTransport(
                    limits=httpx2.Limits(max_connections=None),  # who asks is bounded
                    uds=where.socket_path,
                    verify=where.is_encrypted and server_access.ServerAccess().trust(environ),
                ),
                timeout=httpx2.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
                trust_env=False,
            )

    def close(self) -> None:
        """Close its connections."""
        for client in self._clients.values():
            client.close()

    def url(self, api: Api) -> str:
        """Return the address of an API."""
        return self._urls[api]

    @contextmanager
    def opened(
        self, request: ReplayedRequest, body: Iterator[bytes] | None = None
    ) -> Iterator[httpx2.Response]:
        """Send a request and give out its answer, whose body is still to be read. Raises httpx2's errors."""
        # Made by hand: a client would add headers of its own.
        sent = httpx2.Request(
            request.method,
            self._bases[request.api],
            headers=self._headers(request),
            content=request.body if body is None else body,
            # Broken escapes and dots are the servers' to judge; what HTTP can't carry is escaped.
            extensions={"target": quote(request.path, safe=string.punctuation).encode()},
        )
        answer = self._clients[request.api].send(sent, stream=True)
        try:
            yield answer
        finally:
            answer.close()

    def ask(self, request: ReplayedRequest) -> ServerAnswer:
        """Send a request, and read its answer to the end."""
        began = self._clock()
        try:
            with self.opened(request) as answer:
                kept = KeptBody(self._body_limit_bytes)
                for part in answer.iter_raw():
                    kept.add(part)
                return kept.answer(answer, self._clock() - began)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return ServerAnswer(failure=why(error), seconds=self._clock() - began)

    def _headers(self, request: ReplayedRequest) -> list[tuple[bytes, bytes]]:
        headers = list(request.headers)
        key = self._key(request)
        if key is not None:
            headers = [(name, value) for name, value in headers if name.lower() != "authorization"]
            headers.append(("Authorization", f"Bearer {key}"))
        return [
            (name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in headers
        ]

    def _key(self, request: ReplayedRequest) -> str | None:
        if request.path.startswith("/token"):
            return self._keys.get("token")
        return None if request.api == "metrics" else self._keys.get(request.api)


class KeptBody:
    """The beginning of a body, and of all of it the size and the hash."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept = bytearray()
        self._size = 0
        self._hash = hashlib.sha256()

    def add(self, part: bytes) -> None:
        """Take the next part."""
        self._kept += part[: self._limit_bytes - len(self._kept)]
        self._size += len(part)
        self._hash.update(part)

    def answer(self, answer: httpx2.Response, seconds: float) -> ServerAnswer:
        """Put an answer together that was read to its end."""
        return ServerAnswer(
            status=answer.status_code,
            headers=tuple(
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers.raw
            ),
            body=bytes(self._kept),
            body_bytes=self._size,
            body_sha256=self._hash.hexdigest(),
            seconds=seconds,
        )


def why(error: Exception) -> str:
    """Say why there was no answer."""
    if refused := http_pools.untrusted(error):
        return f"its certificate is not trusted: {refused.verify_message}; TORCHRELAY_CA names its authority"
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return NOBODY_ANSWERS
    if isinstance(error, httpx2.TimeoutException):
        return "no answer in time"
    return f"the connection broke: {str(error) or type(error).__name__}"
