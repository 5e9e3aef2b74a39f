"""Fetches an archive by http(s), without becoming a way into the network the broker stands in.

A url must match the allow-list, at every redirect again, and the address its name resolves to must be
public unless a pattern of the operator's spells the host: the check is made on the very address that is
then connected to, so that a name can't change its mind in between. Proxies of the environment aren't used:
they would resolve the name anew.
"""

import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpcore2

from torchrelay.broker.archives import allowed_urls
from torchrelay.broker.archives.public_addresses import is_public
from torchrelay.broker.archives.writing import DownloadPace, TooSlow, failed, pace_of, write_bounded
from torchrelay.broker.models import origins
from torchrelay.broker.models.origins import BadUrl, Http, Origin, UnreadableUrl, without_user
from torchrelay.shared import clock
from torchrelay.shared.errors import DownloadFailed, ModelNotFound
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import BrokerSettings

REDIRECTS_LIMIT = 5
REDIRECTS = (301, 302, 303, 307, 308)
#: Addresses of a name that are tried one after the other.
ADDRESSES_LIMIT = 4
#: How soon a download that waits notices that the broker stops.
LOOK_S = 0.1

Sign = Callable[[Http], list[tuple[bytes, bytes]]]
Resolve = Callable[[str], list[str]]


def _resolve(host: str) -> list[str]:
    return [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


class AddressNotAllowed(Exception):
    """A name that resolves to an address of the broker's own network."""


class Stopped(Exception):
    """The broker stops, and with it a download."""


def require_allowed(origin: Origin, settings: BrokerSettings) -> allowed_urls.Readable:
    """Return an origin whose whole url a pattern allows; else raise ModelNotFound, with TorchServe's text.

    Raises DownloadFailed, which says why, for a url that TorchServe may take and we don't.
    """
    try:
        if isinstance(origin, UnreadableUrl):
            raise BadUrl(origin.why)
        is_allowed = allowed_urls.is_allowed(origin, settings.allowed_urls)
    except BadUrl as error:
        said = failed(without_user(origin.url), str(error))
        raise DownloadFailed(f"{said.message}: {error}", said.details) from error
    if not is_allowed:
        raise ModelNotFound(f"Given URL {quoted(origin.url)} does not match any allowed URL(s)")
    return origin


def download(
    origin: Http,
    target: Path,
    settings: BrokerSettings,
    is_cancelled: Callable[[], bool] = lambda: False,
    *,
    sign: Sign | None = None,
) -> None:
    """Fetch an archive into the file `target`, which a failure may leave half written.

    `sign` makes headers for each url that is asked, one that a redirect leads to as well.
    Raises DownloadFailed where the other side fails, is too slow or is at a private address, ModelNotFound
    where no pattern allows the url.
    """
    url = origin.url
    try:
        _download(origin, target, settings, is_cancelled, sign)
    # ValueError: a url that can't be taken apart. A private address is answered as what can't be reached, so
    # that nobody learns from us what is in our network.
    except (
        AddressNotAllowed,
        Stopped,
        TooSlow,
        httpcore2.NetworkError,
        httpcore2.TimeoutException,
        httpcore2.ProtocolError,
        OSError,
        ValueError,
    ) as error:
        raise failed(url, str(error) or type(error).__name__) from error


def _download(
    origin: Http, target: Path, settings: BrokerSettings, is_cancelled: Callable[[], bool], sign: Sign | None
) -> None:
    pace = pace_of(settings)
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), settings.download_timeout_s)
    url = origin.url
    leads_to: Origin = origin
    for _ in range(REDIRECTS_LIMIT + 1):
        asked = require_allowed(leads_to, settings)
        if not isinstance(asked, Http):
            raise BadUrl("it is no url of http or https")
        if not asked.host:
            raise failed(url, "the url names no host")
        may_be_private = settings.allow_private_urls or allowed_urls.is_host_named(
            asked, settings.allowed_urls
        )
        target_url = httpcore2.URL(scheme=asked.scheme, host=asked.host, port=asked.port, target=asked.target)
        headers = [(b"Host", asked.authority.encode()), *(sign(asked) if sign else ())]
        with (
            httpcore2.ConnectionPool(
                ssl_context=ssl.create_default_context(),
                network_backend=_Backend(pace, is_cancelled, may_be_private=may_be_private),
            ) as pool,
            pool.stream("GET", target_url, headers=headers, extensions={"timeout": timeouts}) as response,
        ):
            if response.status not in REDIRECTS:
                if response.status != 200:
                    raise failed(url, f"the server answered {response.status}")
                write_bounded(_earning(response, pace), target, url, settings, is_cancelled)
                return
            found = {name.lower(): value for name, value in response.headers}
        leads_to = origins.parse(origins.join(asked, found.get(b"location", b"")))
    raise failed(url, f"more than {REDIRECTS_LIMIT} redirects")


def _earning(response: httpcore2.Response, pace: DownloadPace) -> Iterator[bytes]:
    """Let the archive's own bytes earn time; heads, interim answers and framing earn none."""
    for chunk in response.iter_stream():
        pace.count(0, len(chunk))
        yield chunk


@dataclass(frozen=True, eq=False)
class _Backend(httpcore2.SyncBackend):
    """Connects to public addresses only, unless told otherwise."""

    pace: DownloadPace
    is_cancelled: Callable[[], bool]
    may_be_private: bool
    resolve: Resolve = _resolve

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """Resolve the name once, check the addresses, and connect to the first one that answers."""
        why = f"{host} is a private address: spell it in allowed_urls, or set allow_private_urls"
        private = AddressNotAllowed(why)
        began = clock.monotonic()
        addresses = [ipaddress.ip_address(text) for text in self.resolve(host)]
        self.pace.count(clock.monotonic() - began)
        if not self.may_be_private and not all(map(is_public, addresses)):
            raise private
        last: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in addresses[:ADDRESSES_LIMIT]:
            if self.is_cancelled():
                raise Stopped("the broker stops")
            began = clock.monotonic()
            try:
                bounded = min(timeout or self.pace.left_s, self.pace.left_s)
                stream = super().connect_tcp(str(address), port, bounded, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                last = error
                self.pace.count(clock.monotonic() - began)
                continue
            # A host's own public address leads to itself as 127.0.0.1 does.
            if not self.may_be_private and _leads_back(stream):
                stream.close()
                raise private
            return _Stream(stream, self.pace, self.is_cancelled)
        raise last


def _leads_back(stream: httpcore2.NetworkStream) -> bool:
    near, far = stream.get_extra_info("client_addr"), stream.get_extra_info("server_addr")
    return bool(near[0] == far[0])


@dataclass(frozen=True, eq=False)
class _Stream(httpcore2.NetworkStream):
    """A connection whose silences are counted, and end when the broker stops."""

    stream: httpcore2.NetworkStream
    pace: DownloadPace
    is_cancelled: Callable[[], bool]

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what has come. Raises ReadTimeout, TooSlow or Stopped."""
        silent_s = 0.0
        while True:
            if self.is_cancelled():
                raise Stopped("the broker stops")
            began = clock.monotonic()
            try:
                return self.stream.read(max_bytes, LOOK_S)
            except httpcore2.ReadTimeout:
                silent_s += clock.monotonic() - began
                if timeout is not None and silent_s >= timeout:
                    raise
            finally:
                self.pace.count(clock.monotonic() - began)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.stream.write(buffer, timeout)

    def close(self) -> None:
        self.stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        """Encrypt from here on; a handshake has the time of a connection."""
        bounded = min(timeout or self.pace.left_s, self.pace.left_s)
        encrypted = self.stream.start_tls(ssl_context, server_hostname, bounded)
        return _Stream(encrypted, self.pace, self.is_cancelled)

    def get_extra_info(self, info: str) -> object:
        return self.stream.get_extra_info(info)
