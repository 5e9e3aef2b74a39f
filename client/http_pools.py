"""httpx2 as both clients use it: what its clients are made with, and its exceptions as ours."""

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2

from torchrelay.client.attempts import Attempts
from torchrelay.client.call_failures import (
    CertificateNotTrusted,
    ConnectionLost,
    ServerNotReached,
    UnusableSetting,
)
from torchrelay.client.server_access import Endpoint, ServerAccess
from torchrelay.shared import clock

#: Seconds of a connection's silence before the kernel asks whether the other host is there, and between its
#: questions; after so many without an answer the connection is lost. Some systems lack some of these.
KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))

#: Gateways, and most proxies, end idle connections later than this.
IDLE_LIMIT_S = 30.0


def transport_arguments(
    access: ServerAccess, where: Endpoint, environ: Mapping[str, str], connections: int
) -> dict[str, Any]:
    """Return what a transport of httpx2's is made with. Raises UnusableSetting."""
    return {
        "uds": where.socket_path,
        "verify": access.trust(environ) if where.is_encrypted else False,
        "limits": httpx2.Limits(
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=IDLE_LIMIT_S,
        ),
        "socket_options": None if where.socket_path else _socket_options(),
    }


def client_arguments(where: Endpoint) -> dict[str, Any]:
    """Return what a client of httpx2's is made with, beside its transport. Raises UnusableSetting."""
    try:
        base_url = httpx2.URL(where.base_url)
    except httpx2.InvalidURL as error:
        raise UnusableSetting(f"{where.url} is no address: {error}") from error
    if not base_url.host:
        raise UnusableSetting(f"{where.url} is no address: it names no host")
    return {
        "base_url": base_url,
        # What is compressed would have no size before it is unpacked.
        "headers": {"accept-encoding": "identity"},
        # No proxy of the environment, which is never meant for this server.
        "trust_env": False,
    }


def _socket_options() -> list[tuple[int, int, int]]:
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    known = ((getattr(socket, name, None), value) for name, value in KEEPALIVE)
    return options + [(socket.IPPROTO_TCP, name, value) for name, value in known if name is not None]


@contextmanager
def translated(attempts: Attempts[Any]) -> Iterator[None]:  # Any: of whatever answer
    """Raise our failures in place of httpx2's."""
    url = attempts.url
    try:
        yield
    except httpx2.ConnectTimeout as error:
        attempts.require_time(clock.monotonic())
        raise ServerNotReached(f"no server answers at {url}", "it takes no connection") from error
    except httpx2.ConnectError as error:
        if refused := untrusted(error):
            raise CertificateNotTrusted(
                f"the certificate of {url} is not trusted", refused.verify_message
            ) from error
        raise ServerNotReached(f"no server answers at {url}", str(error)) from error
    except httpx2.TimeoutException as error:
        raise attempts.too_late() from error
    except (httpx2.TransportError, httpx2.DecodingError) as error:
        raise ConnectionLost(f"the connection to {url} broke", str(error) or type(error).__name__) from error


def untrusted(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Return the error of the server's certificate if that is why a connection failed."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        error = error.__cause__ or error.__context__
    return None
