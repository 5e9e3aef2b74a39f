"""Addresses of listeners, `http(s)://HOST[:PORT]` or `unix:PATH`, and the sockets bound to them.

Sockets are bound here and not by gunicorn, which tries five times and tells in fifteen lines.
"""

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from urllib.parse import urlsplit

from torchrelay.shared.settings import GatewaySettings, SettingsError, is_reachable_from_outside

#: TorchServe's, for an address that names no port.
_DEFAULT_PORTS = {
    ("inference_address", "http"): 80,
    ("inference_address", "https"): 443,
    ("management_address", "http"): 8081,
    ("management_address", "https"): 8444,
    ("metrics_address", "http"): 8082,
    ("metrics_address", "https"): 8445,
}
_BACKLOG = 2048
#: Of what a client hasn't been sent, the kernel holds no more: it would take on 4 MB of each answer, which
#: would be in nobody's sum, and a container pays for it.
_KERNEL_BYTES = 256 * 1024

#: What ASGI tells listeners apart by: the port, or the path of a unix socket.
Key = int | str


def key(address: str, setting: str) -> Key:
    """Return what requests to this listener carry. Raises SettingsError for what is no address."""
    if address.startswith("unix:"):
        return address.removeprefix("unix:").removeprefix("//")
    try:
        url = urlsplit(address)
        port = url.port
    except ValueError as error:
        raise SettingsError(f"{setting}={address} is no address: {error}") from error
    if url.scheme not in ("http", "https") or not url.hostname:
        raise SettingsError(
            f"{setting}={address} is no address: write http://HOST:PORT, https://HOST:PORT or unix:PATH"
        )
    return port or _DEFAULT_PORTS[setting, url.scheme]


def all_of(config: GatewaySettings) -> dict[str, str]:
    """Return the addresses to listen on, by setting."""
    wanted = {"inference_address": config.inference_address, "management_address": config.management_address}
    if config.enable_metrics_api:
        wanted["metrics_address"] = config.metrics_address
    return wanted


def encrypted(config: GatewaySettings) -> frozenset[Key]:
    """Return which listeners speak TLS. Raises SettingsError."""
    wanted = all_of(config).items()
    return frozenset(key(address, setting) for setting, address in wanted if address.startswith("https:"))


def bind_all(config: GatewaySettings) -> list[socket.socket]:
    """Bind a socket for each listener; equal addresses share one. Raises SettingsError, all or none."""
    by_key: dict[Key, tuple[str, str]] = {}
    for setting, address in all_of(config).items():
        first = by_key.setdefault(key(address, setting), (setting, address))
        if first[1] != address:
            raise SettingsError(f"{setting}={address} has the port of {first[0]}={first[1]}: choose another")
        is_guarded = config.token_authorization or config.insecure
        if is_reachable_from_outside(address) and not is_guarded:
            raise SettingsError(
                f"{setting}={address} can be reached from other hosts, where anybody could use it:"
                " listen on 127.0.0.1, ask for keys with token_authorization, or allow it with --insecure"
            )
    with contextlib.ExitStack() as bound:
        sockets = [
            bound.enter_context(contextlib.closing(_bind(setting, address)))
            for setting, address in by_key.values()
        ]
        bound.pop_all()
    return sockets


def _bind(setting: str, address: str) -> socket.socket:
    where = key(address, setting)
    try:
        if isinstance(where, str):
            return _bind_path(where)
        host = urlsplit(address).hostname
        family, kind, protocol, _, name = socket.getaddrinfo(
            host, where, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _KERNEL_BYTES)
        return _listen(listener, name)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(f"{setting}={address}: {where} is in use by another process") from error
        raise SettingsError(f"{setting}={address}: cannot listen there: {error}") from error


def _bind_path(path: str) -> socket.socket:
    """Listen on a unix socket; the file that a dead server left behind is removed."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if Path(path).exists() and stat.S_ISSOCK(os.stat(path).st_mode):
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
            if probe.connect_ex(path) == errno.ECONNREFUSED:
                Path(path).unlink()
    return _listen(listener, path)


def _listen(listener: socket.socket, name: object) -> socket.socket:
    try:
        listener.bind(name)  # type: ignore[arg-type]  # getaddrinfo's and ours fit the socket's family
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
