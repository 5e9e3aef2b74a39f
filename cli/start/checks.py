"""Checks before a process starts: files that must exist, addresses that must be free, key files.

Each raises Fault with one line that says what to do.
"""

import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from torchrelay.cli.faults import Fault
from torchrelay.cli.start import part_settings
from torchrelay.cli.start.required_packages import require_packages
from torchrelay.gateway.grpc import listen_addresses
from torchrelay.gateway.http import addresses
from torchrelay.shared import host
from torchrelay.shared.settings import (
    SOCKET_PATH_LIMIT_BYTES,
    BrokerSettings,
    GatewaySettings,
    SettingsError,
    environment,
)
from torchrelay.shared.torchserve.config_keys import ConfigValues
from torchrelay.shared.torchserve.config_properties import Configuration

#: What a key file takes of the disk, about.
KEY_FILE_BYTES = 1024


def require_broker_addresses(*listened_on: str, dialled: str | None = None) -> None:
    """Raise Fault for what can't be a broker's address; one that is dialled has a host and a port."""
    for address in (*listened_on, *([] if dialled is None else [dialled])):
        scheme, _, rest = address.partition("://")
        host, _, port = rest.rpartition(":")
        is_tcp = scheme == "tcp" and len(port) < 6 and port.isdecimal() and int(port) < 1 << 16
        if not is_tcp and not (scheme == "ipc" and rest):
            raise Fault(f"{address!r} is no broker's address; write it as tcp://HOST:PORT or ipc://PATH")
        if scheme == "ipc" and len(os.fsencode(rest)) > SOCKET_PATH_LIMIT_BYTES:
            limit = SOCKET_PATH_LIMIT_BYTES
            raise Fault(f"{address} is too long: a socket's path has at most {limit} bytes")
        if address == dialled and is_tcp and (host in ("", "*") or not int(port)):
            raise Fault(f"{address!r} is where a broker may listen; say the host and the port that it has")


def raise_faults(faults: Sequence[str]) -> None:
    """Raise Fault with a line for each fault, if there are any."""
    if faults:
        raise Fault("\n".join(faults))


def plan(
    command_line: ConfigValues, config: Configuration, options: part_settings.Options
) -> part_settings.Plan:
    """Make the settings of the three processes, and check that they can work on this machine."""
    require_packages("broker", "gateway", "worker")
    try:
        made = part_settings.compose(command_line, config, options, host.look(environment()))
        gateway = made.gateway
        require_store(made.broker.model_store)
        require_store(made.broker.workflow_store, "--workflow-store")
        files = (gateway.certificate_file, gateway.private_key_file, gateway.keystore)
        require_files(*files, made.broker.metrics_config)
        if addresses.encrypted(gateway) or (gateway.enable_grpc and gateway.enable_grpc_ssl):
            from torchrelay.gateway.http import certificates  # it takes time to load, and most need none

            certificates.context(gateway)
    except SettingsError as error:
        raise Fault(str(error)) from error
    require_grpc(gateway)
    require_key_file(made.broker.key_file)
    require_free_listeners(gateway)
    for address in made.broker.addresses:
        require_free(address, "broker")
    return made


def require_grpc(gateway: GatewaySettings) -> None:
    """Raise Fault where gRPC is asked for, and its packages aren't installed."""
    if gateway.enable_grpc and not listen_addresses.is_installed():
        raise Fault(listen_addresses.NOT_INSTALLED)


def misspelt_models(broker: BrokerSettings) -> list[str]:
    """Name, for each start-up model that is not in the store, the archives that were probably meant."""
    store = Path(broker.model_store or "")
    if broker.model_store is None or not store.is_dir():
        return []
    there = {path.name for path in store.iterdir()}
    misses = []
    for load in broker.load_models:
        meant = sorted(name for name in there if name.startswith(f"{load.url}."))
        if load.url.lower() != "all" and load.url not in there and meant:
            misses.append(f"{load.url} is not in {store}: did you mean {' or '.join(meant)}?")
    return misses


def require_store(folder: str | None, option: str = "--model-store") -> None:
    """Check that a store exists, if one is given."""
    if folder is not None and not Path(folder).is_dir():
        raise Fault(f"{option} directory not found: {folder}")


def require_files(*files: str | None) -> None:
    """Check that the files which settings name can be read."""
    for file in files:
        try:
            if file:
                Path(file).open("rb").close()
        except OSError as error:
            raise Fault(f"{file} can't be read: {error.strerror}") from error


def require_key_file(path: str | None) -> None:
    """Check that the key file can be written: without its keys nobody could call the server."""
    if path is None:
        return
    try:
        with tempfile.TemporaryFile(dir=Path(path).parent) as probe:
            probe.write(bytes(KEY_FILE_BYTES))
            probe.flush()
        if Path(path).is_dir():
            raise IsADirectoryError(None, "it is a folder")
    except OSError as error:
        raise Fault(
            f"{path}, with the keys that callers need, can't be written: {error.strerror};"
            " start the server in another folder, or with --disable-token-auth"
        ) from error


def require_free_listeners(gateway: GatewaySettings) -> None:
    """Check that the gateway's addresses are free."""
    for setting, address in addresses.all_of(gateway).items():
        require_free(address, setting)
    try:
        for held in listen_addresses.hold(gateway):
            held.close()
    except SettingsError as error:
        raise Fault(f"{error}; stop what is there or choose another port in config.properties") from error


def require_free(address: str, setting: str) -> None:
    """Check that an address can be listened on, so that a taken port is reported in one line."""
    option = f"--{setting.replace('_', '-')}"
    if address.startswith("unix:"):
        _require_socket_path(str(addresses.key(address, setting)), option)
    if not address.startswith(("http:", "https:", "tcp:")):
        return
    parts = urlsplit(address)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            parts.hostname,
            parts.port if setting == "broker" else addresses.key(address, setting),
            type=socket.SOCK_STREAM,
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        raise Fault(
            f"can't listen on {address}: {error.strerror or error}; stop what is there or choose another"
            f" address with {option}"
        ) from error


def _require_socket_path(path: str, option: str) -> None:
    place, why = Path(path), ""
    if len(os.fsencode(path)) > SOCKET_PATH_LIMIT_BYTES:
        why = f"a socket's path has at most {SOCKET_PATH_LIMIT_BYTES} bytes"
    elif not place.parent.is_dir():
        why = f"there is no folder {place.parent}"
    elif not os.access(place.parent, os.W_OK | os.X_OK):
        why = f"{place.parent} can't be written"
    elif place.exists() and not place.is_socket():
        why = "something else is there"
    if why:
        raise Fault(f"can't listen on unix:{path}: {why}; choose another address with {option}")


def client_url(address: str, api: str) -> str:
    """Turn an address that is listened on into one that can be called from this machine."""
    if address.startswith("unix:"):
        return address
    parts = urlsplit(address)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(parts.hostname or "", parts.hostname or "")
    return (
        f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{addresses.key(address, f'{api}_address')}"
    )
