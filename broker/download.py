"""Fetches an archive by http(s), without becoming a way into the network the broker stands in.

A url must match the allow-list, at every redirect again, and the address its name resolves to must be
public unless a pattern of the operator's names such urls: the check is made on the very address that is
then connected to, so that a name can't change its mind in between.
"""

import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import httpcore

from torchrelay.broker.object_stores import is_in_object_store
from torchrelay.broker.writing import failed, write_bounded
from torchrelay.shared.errors import ModelNotFound
from torchrelay.shared.settings import BrokerSettings

REDIRECTS_LIMIT = 5
REDIRECTS = (301, 302, 303, 307, 308)
#: What a url is asked for with as it is; the rest, such as letters beyond ASCII, is escaped.
_AS_IT_IS = bytes(range(0x21, 0x7F))
#: A pattern that matches a url as well with this host in place of its own doesn't name the host.
ELSEWHERE = "elsewhere.example"


Sign = Callable[[str], list[tuple[bytes, bytes]]]


def _unsigned(url: str) -> list[tuple[bytes, bytes]]:
    return []


class AddressNotAllowed(Exception):
    """A name that resolves to an address of the broker's own network."""


def is_remote(url: str, settings: BrokerSettings) -> bool:
    """Tell whether a url names something to fetch, not a file of the model store.

    As in TorchServe, a url that is none of its three kinds is one only if allowed_urls says so.
    """
    if url.lower().startswith(("http://", "https://", "file://")):
        return True
    return is_in_object_store(url) and bool(_matching(url, settings))


def check_allowed(url: str, settings: BrokerSettings) -> None:
    """Raise ModelNotFound, with TorchServe's text, unless a pattern allows the whole url."""
    if not _matching(url, settings):
        raise _not_allowed(url)


def download(
    url: str,
    target: Path,
    settings: BrokerSettings,
    is_cancelled: Callable[[], bool] = lambda: False,
    *,
    sign: Sign = _unsigned,
) -> None:
    """Fetch `url` into the file `target`, which a failure may leave half written.

    `sign` makes headers for each url that is asked, one that a redirect leads to as well.
    Raises DownloadFailed where the other side fails or is at a private address, ModelNotFound where no
    pattern allows the url.
    """
    try:
        _download(url, target, settings, is_cancelled, sign)
    # ValueError: a url that can't be taken apart.
    except (
        httpcore.NetworkError,
        httpcore.TimeoutException,
        httpcore.ProtocolError,
        httpcore.UnsupportedProtocol,
        OSError,
        ValueError,
    ) as error:
        raise failed(url, str(error) or type(error).__name__) from error


def _download(
    url: str, target: Path, settings: BrokerSettings, is_cancelled: Callable[[], bool], sign: Sign
) -> None:
    at = url
    for _ in range(REDIRECTS_LIMIT + 1):
        matching = _matching(at, settings)
        if not matching:
            raise _not_allowed(at)
        may_be_private = settings.allow_private_urls or any(_names_host(p, at) for p in matching)
        if not urlsplit(at).hostname:
            raise failed(url, "the url names no host")
        asked = quote(at, safe=_AS_IT_IS)
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), settings.download_timeout_s)
        try:
            with (
                httpcore.ConnectionPool(
                    ssl_context=ssl.create_default_context(), network_backend=_Backend(may_be_private)
                ) as pool,
                pool.stream("GET", asked, headers=sign(asked), extensions={"timeout": timeouts}) as response,
            ):
                if response.status in REDIRECTS:
                    headers = {name.lower(): value for name, value in response.headers}
                    at = urljoin(asked, quote(headers.get(b"location", b""), safe=_AS_IT_IS))
                    continue
                if response.status != 200:
                    raise failed(url, f"the server answered {response.status}")
                write_bounded(response.iter_stream(), target, url, settings, is_cancelled)
                return
        except AddressNotAllowed as error:
            # Answered as what can't be reached, so that nobody learns from us what is in our network.
            why = f"{error} is a private address: name it in allowed_urls, or set allow_private_urls"
            raise failed(url, why) from error
    raise failed(url, f"more than {REDIRECTS_LIMIT} redirects")


def _matching(url: str, settings: BrokerSettings) -> list[str]:
    return [p for p in settings.allowed_urls if re.fullmatch(p, url, re.IGNORECASE)]


def _names_host(pattern: str, url: str) -> bool:
    # With its slashes, since a host may be called `http`.
    host = f"//{urlsplit(url).netloc}"
    return not re.fullmatch(pattern, url.replace(host, f"//{ELSEWHERE}", 1), re.IGNORECASE)


def _not_allowed(url: str) -> ModelNotFound:
    return ModelNotFound(f"Given URL {url} does not match any allowed URL(s)")


class _Backend(httpcore.SyncBackend):
    """Connects to public addresses only, unless told otherwise."""

    def __init__(self, may_be_private: bool) -> None:
        super().__init__()
        self._may_be_private = may_be_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Resolve the name once, check the addresses, and connect to the first one."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(str(info[4][0])) for info in found]
        if not self._may_be_private and not all(address.is_global for address in addresses):
            raise AddressNotAllowed(host)
        return super().connect_tcp(str(addresses[0]), port, timeout, local_address, socket_options)
