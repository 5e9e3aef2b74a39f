"""What happens before a process starts: config.properties, files that must be there, ports to be free."""

import os
import re
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec
import typer

from torchrelay.cli.faults import Fault
from torchrelay.cli.start import part_settings
from torchrelay.gateway.http import addresses
from torchrelay.shared import host
from torchrelay.shared.settings import (
    BrokerSettings,
    GatewaySettings,
    LogLimits,
    SettingsError,
    environment,
)
from torchrelay.shared.torchserve import config_keys, config_parsers, config_properties
from torchrelay.shared.torchserve.config_keys import ConfigValues
from torchrelay.shared.torchserve.config_properties import Configuration

#: What a key file takes of the disk, about.
KEY_FILE_BYTES = 1024

MetricsMode = Literal["prometheus", "log", "legacy"]


def require_broker_addresses(*listened_on: str, dialled: str | None = None) -> None:
    """Raise Fault for what can't be a broker's address; one that is dialled has a host and a port."""
    for address in (*listened_on, *([] if dialled is None else [dialled])):
        scheme, _, rest = address.partition("://")
        host, _, port = rest.rpartition(":")
        is_tcp = scheme == "tcp" and len(port) < 6 and port.isdecimal() and int(port) < 1 << 16
        if not is_tcp and not (scheme == "ipc" and rest):
            raise Fault(f"{address!r} is no broker's address; write it as tcp://HOST:PORT or ipc://PATH")
        if scheme == "ipc" and len(os.fsencode(rest)) > part_settings.SOCKET_PATH_LIMIT_BYTES:
            limit = part_settings.SOCKET_PATH_LIMIT_BYTES
            raise Fault(f"{address} is too long: a socket's path has at most {limit} bytes")
        if address == dialled and is_tcp and (host in ("", "*") or not int(port)):
            raise Fault(f"{address!r} is where a broker may listen; say the host and the port that it has")


def said(
    *,
    model_store: str | None = None,
    models: Sequence[str] | None = None,
    more_models: Sequence[str] | None = None,
    enable_model_api: bool = False,
    tokens: bool | None = None,
    metrics_mode: MetricsMode | None = None,
    inference_address: str | None = None,
    management_address: str | None = None,
    metrics_address: str | None = None,
    allowed_hosts: str | None = None,
) -> ConfigValues:
    """Read the command line's share of the settings; it can switch the model API on and never off.

    `more_models` are the words that TorchServe allows after `--models A`, and that typer sees as arguments.
    """
    if more_models and not models:
        raise typer.BadParameter(f"{more_models[0]!r} is no option; models are named after --models")
    named = [*(models or []), *(more_models or [])]
    try:
        return ConfigValues(
            model_store=model_store,
            load_models=config_parsers.parse_load_models(",".join(named)) if named else None,
            enable_model_api=enable_model_api or None,
            disable_token_authorization=None if tokens is None else not tokens,
            metrics_mode=metrics_mode,
            inference_address=_address(inference_address),
            management_address=_address(management_address),
            metrics_address=_address(metrics_address),
            allowed_hosts=None if allowed_hosts is None else config_parsers.parse_hosts(allowed_hosts),
        )
    except ValueError as error:
        raise Fault(str(error)) from error


def metrics_mode(text: str | None) -> MetricsMode | None:
    """Read --metrics-mode, which, unlike the file's key, is not forgiving."""
    match text:
        case None | "prometheus" | "log" | "legacy":
            return text
        case _:
            raise typer.BadParameter(f"{text!r} is none of prometheus, log and legacy")


def config(option: str | None, environ: Mapping[str, str]) -> Configuration:
    """Read the config.properties that counts, if there is one."""
    return config_of(config_properties.find_file(option, environ, Path.cwd()), environ)


def config_of(path: Path | None, environ: Mapping[str, str]) -> Configuration:
    """Read this config.properties or snapshot; None stands for the environment alone.

    A snapshot holds no secrets: they are in the file that it was made with.
    """
    if path is None:
        return Configuration(environment=config_properties.with_oip(ConfigValues(), environ))
    found = _read_config(path, environ)
    if found.file.model_snapshot is None:
        mark = {config_keys.CONFIG_FILE_MARK: str(path.absolute())}
        return msgspec.structs.replace(found, properties={**found.properties, **mark})
    named = found.properties.get(config_keys.CONFIG_FILE_MARK, "")
    if not Path(named).is_file():
        return found
    return config_properties.with_secrets(found, _read_config(Path(named), environ))


def _read_config(path: Path, environ: Mapping[str, str]) -> Configuration:
    try:
        return config_properties.read(path.read_bytes(), environ)
    except OSError as error:
        raise Fault(f"--ts-config file {path} can't be read: {error.strerror}") from error
    except SettingsError as error:
        raise Fault(f"Invalid configuration: {path}:\n{error}") from error


def with_file(command_line: ConfigValues, option: str | None) -> ConfigValues:
    """Merge what was said on the command line with config.properties and the environment."""
    found = config(option, environment())
    return part_settings.merge(found.environment, command_line, found.file, part_settings.SERVE_DEFAULTS)


def require_private(faults: Sequence[str]) -> None:
    """Make sure that nobody listens to other hosts by mistake."""
    if faults:
        raise Fault("\n".join(faults))


def unheeded(config: Configuration) -> list[str]:
    """Say of each key that has no effect why."""
    return [f"{key} in config.properties has no effect: {why}" for key, why in config.without_effect.items()]


def plan(
    command_line: ConfigValues, config: Configuration, options: part_settings.Options
) -> part_settings.Plan:
    """Settle the three processes' settings, and make sure that they can work on this machine."""
    try:
        made = part_settings.compose(command_line, config, options, host.look(environment()))
    except SettingsError as error:
        raise Fault(str(error)) from error
    require_store(made.broker.model_store)
    require_files(
        made.gateway.certificate_file,
        made.gateway.private_key_file,
        made.gateway.keystore,
        made.broker.metrics_config,
    )
    require_certificate(made.gateway)
    require_key_file(made.broker.key_file)
    require_free_listeners(made.gateway)
    for address in made.broker.addresses:
        require_free(address, "--broker")
    return made


def near_misses(broker: BrokerSettings) -> list[str]:
    """Say what was probably meant by a start-up model that is not in the store."""
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


def require_store(folder: str | None) -> None:
    """Make sure that the model store is there; a run without one can only load from urls."""
    if folder is not None and not Path(folder).is_dir():
        raise Fault(f"--model-store directory not found: {folder}")


def require_files(*files: str | None) -> None:
    """Make sure that files which settings name can be read."""
    for file in files:
        try:
            if file:
                Path(file).open("rb").close()
        except OSError as error:
            raise Fault(f"{file} can't be read: {error.strerror}") from error


def require_certificate(gateway: GatewaySettings) -> None:
    """Make sure that listeners which speak TLS can."""
    try:
        if addresses.encrypted(gateway):
            from torchrelay.gateway.http import certificates  # it takes time to load, and most need none

            certificates.context(gateway)
    except SettingsError as error:
        raise Fault(str(error)) from error


def require_key_file(path: str | None) -> None:
    """Make sure that made keys can be written, so that no server starts that nobody could call."""
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


def log_limits(environ: Mapping[str, str]) -> LogLimits:
    """Read when logs are moved away: TORCHRELAY_LOG_FILE_MB and TORCHRELAY_LOG_FILES."""
    default = LogLimits()
    megabytes = _whole_number("TORCHRELAY_LOG_FILE_MB", default.file_bytes >> 20, environ)
    return LogLimits(megabytes << 20, _whole_number("TORCHRELAY_LOG_FILES", default.files, environ))


def _whole_number(name: str, default: int, environ: Mapping[str, str]) -> int:
    text = environ.get(name, "").strip() or str(default)
    if not re.fullmatch("[0-9]{1,9}", text):
        raise Fault(f"{name}={text} is no whole number from 0 on")
    return int(text)


def require_free_listeners(gateway: GatewaySettings) -> None:
    """Make sure that the gateway's ports are free."""
    require_free(gateway.inference_address, "--inference-address", "inference")
    require_free(gateway.management_address, "--management-address", "management")
    if gateway.enable_metrics_api:
        require_free(gateway.metrics_address, "--metrics-address", "metrics")


def require_free(address: str, option: str, api: str = "") -> None:
    """Make sure that an address can be listened on, so that a taken port is one clear line."""
    if address.startswith("unix:"):
        _require_socket_path(str(addresses.key(address, api)), option)
    if not address.startswith(("http:", "https:", "tcp:")):
        return
    parts = urlsplit(address)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            parts.hostname,
            addresses.key(address, f"{api}_address") if api else parts.port,
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
    if len(os.fsencode(path)) > part_settings.SOCKET_PATH_LIMIT_BYTES:
        why = f"a socket's path has at most {part_settings.SOCKET_PATH_LIMIT_BYTES} bytes"
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


def _address(text: str | None) -> str | None:
    return None if text is None else config_parsers.parse_address(text)
