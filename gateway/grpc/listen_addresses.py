"""Where gRPC is listened for: addresses as TorchServe's settings have them, and sockets that keep them free.

grpc binds by itself, in each process, and the kernel shares connections out among them (SO_REUSEPORT). That
would let another server of the same user in as well: what is held here keeps it out. Imports nothing of grpc.
"""

import contextlib
import errno
import ipaddress
import socket
from importlib.util import find_spec

from torchrelay.gateway.grpc import native_server
from torchrelay.shared.settings import GatewaySettings, SettingsError, is_loopback

#: What is said where the extra `grpc` isn't installed.
NOT_INSTALLED = (
    "gRPC is asked for, and its packages are not installed: pip install 'torchrelay[grpc]', or say --no-grpc"
    " (enable_grpc=false)"
)


def is_installed() -> bool:
    """Tell whether the packages that speak gRPC are there, without importing them."""
    return all(find_spec(name) for name in ("google", "google.protobuf", "google.rpc", "grpc", "grpc_health"))


def all_of(config: GatewaySettings) -> dict[str, str]:
    """Return the addresses to listen on, HOST:PORT, by the setting of their ports; none where gRPC is off."""
    if not config.enable_grpc:
        return {}
    return {
        "grpc_inference_port": _joined(config.grpc_inference_address, config.grpc_inference_port),
        "grpc_management_port": _joined(config.grpc_management_address, config.grpc_management_port),
    }


def _joined(host: str, port: int) -> str:
    bare = host.strip("[]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def split(address: str) -> tuple[str, int]:
    """Split an address into host and port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def faults(config: GatewaySettings) -> list[str]:
    """Return a fault for what is no address, or open without keys, and for TLS without a certificate."""
    found = []
    addresses = all_of(config)
    for setting, address in addresses.items():
        host, _ = split(address)
        if not host or "/" in host or (":" in host and not _is_ip(host)):
            found.append(
                f"{setting.replace('port', 'address')}={host} is no address: write a host or an IP alone"
            )
        elif not (is_loopback(host) or config.insecure or config.token_authorization):
            found.append(
                f"{address} can be reached from other hosts, and nothing checks who calls: say --tokens, use"
                " a loopback address, or say --open-http where the network is your own"
            )
    if len(set(addresses.values())) < len(addresses):
        found.append("grpc_inference_port and grpc_management_port are the same: choose two")
    if addresses and config.enable_grpc_ssl and not has_certificate(config):
        found.append("enable_grpc_ssl needs certificate_file and private_key_file, or a keystore")
    if addresses and config.grpc_server == "pygrpc-native":
        found += native_server.lacks(config)
        if not find_spec("pygrpc_native"):
            found.append(native_server.NOT_INSTALLED)
    return found


def has_certificate(config: GatewaySettings) -> bool:
    """Tell whether there is key material, whether or not it is good."""
    return bool((config.certificate_file and config.private_key_file) or config.keystore)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def hold(config: GatewaySettings) -> list[socket.socket]:
    """Take all addresses, without listening there. Raises SettingsError where one can't be had."""
    with contextlib.ExitStack() as held:
        sockets = [
            held.enter_context(contextlib.closing(_hold(setting, address)))
            for setting, address in all_of(config).items()
        ]
        held.pop_all()
    return sockets


def _hold(setting: str, address: str) -> socket.socket:
    host, port = split(address)
    try:
        family, kind, protocol, _, name = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Whoever listens already shares the address with nobody who doesn't ask to.
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(name)
        held = socket.socket(family, kind, protocol)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            held.bind(name)
        except OSError:
            held.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(f"{setting}={port}: {address} is in use by another process") from error
        raise SettingsError(f"{setting}={port}: cannot listen on {address}: {error}") from error
    return held
