"""Makes the settings of the three processes from environment, command line, config.properties and defaults.

Pure. The order is TorchServe's: the environment (where the file admits it) beats the command line, which
beats the file, which beats the defaults of `shared.settings`. Which key sets which setting is in
`shared.torchserve.config_keys`.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

import msgspec

from torchrelay.cli.faults import Fault
from torchrelay.gateway.grpc import listen_addresses
from torchrelay.gateway.http import addresses
from torchrelay.shared import settings
from torchrelay.shared.host import Host
from torchrelay.shared.torchserve import config_keys, config_parsers, snapshot_files
from torchrelay.shared.torchserve.config_keys import ConfigValues, settings_from
from torchrelay.shared.torchserve.config_properties import Configuration
from torchrelay.shared.wire.fields import MemberRole

SLOTS_PER_CPU = 4
#: Of a node's time to stop, what its workers have at the end: as long as they ever needed, and not nothing.
STOP_GRACE_S, MIN_STOP_GRACE_S = 3.0, 0.1
#: Answers of max_response_size that a gateway process keeps for clients that take them slowly.
LARGEST_ANSWERS = 4
#: The defaults of each command: TorchServe's own, and ours.
TORCHSERVE_DEFAULTS = ConfigValues(
    disable_token_authorization=False, metrics_mode="log", own_metrics=False, enable_grpc=True
)
SERVE_DEFAULTS = ConfigValues(disable_token_authorization=True, metrics_mode="prometheus", own_metrics=True)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that config.properties has no key for."""

    state_dir: str
    cache_dir: str
    socket_dir: str
    cache_limit_bytes: int = settings.DEFAULT_CACHE_LIMIT_BYTES
    #: Whether unpacked models are kept for the next run.
    keep_models: bool = True
    #: How long open requests may go on once it is told to stop; with the rest of it, that is under 5 s.
    grace_s: float = 2.0
    #: Whether state_dir is removed when the run ends.
    is_state_temporary: bool = False
    #: The weakest source.
    defaults: ConfigValues = SERVE_DEFAULTS
    #: A tcp address for nodes of other hosts, beside the socket of this one.
    broker_address: str | None = None
    #: Where those reach it.
    advertised_addresses: tuple[str, ...] = ()
    gateway_processes: int = 1
    slots: int | None = None
    devices: tuple[str, ...] = ("auto",)
    insecure: bool = False
    open_http: bool = False
    #: Whether requests from other hosts may name any host, where allowed_hosts isn't set.
    any_host_outside: bool = False
    allow_private_urls: bool = False
    #: Where the server's own keys are written, if it makes any.
    key_file: str | None = None
    static_keys: tuple[settings.StaticKey, ...] = ()
    access_log: str | None = None
    model_log: str | None = None
    metrics_log_dir: str | None = None
    log_limits: settings.LogLimits = settings.LogLimits()
    #: Variables with credentials for clouds that handlers get.
    credential_env_vars: tuple[str, ...] = ()
    #: Where snapshots are written; None writes none.
    snapshot_dir: str | None = None


class Plan(msgspec.Struct, frozen=True):
    """The settings of the three processes."""

    broker: settings.BrokerSettings
    gateway: settings.GatewaySettings
    node: settings.NodeSettings


def merge(
    command_line: ConfigValues, config: Configuration, defaults: ConfigValues = SERVE_DEFAULTS
) -> ConfigValues:
    """Take each key from the strongest source that has it.

    The command line can only switch `enable_model_api` and `enable_workflow_api` on: there they are True or
    None.
    """
    strongest: dict[str, Any] = {}  # any field's type
    for source in (defaults, config.file, command_line, config.environment):
        strongest |= {
            key: value for key, value in msgspec.structs.asdict(source).items() if value is not None
        }
    return ConfigValues(**strongest)


def compose(command_line: ConfigValues, config: Configuration, options: Options, host: Host) -> Plan:
    """Make all settings for `torchrelay serve` and `torchserve`.

    Raises:
        SettingsError: values that can't work; one line for each fault.
    """
    values = merge(command_line, config, options.defaults)
    socket = f"ipc://{options.socket_dir}/broker.sock"
    faults = []
    if not fits_socket(options.socket_dir):
        faults.append(f"{options.socket_dir}: too long a path for a socket")
    gateway = gateway_settings(
        values,
        broker_address=socket,
        processes=options.gateway_processes,
        insecure=options.insecure or options.open_http,
        any_host_outside=options.any_host_outside and values.allowed_hosts is None,
        graceful_timeout_s=max(1, math.ceil(options.grace_s)),
        access_log=options.access_log,
        log_limits=options.log_limits,
    )
    broker = broker_settings(
        values,
        queue_limit_bytes=_queue_limit_bytes(gateway),
        addresses=(socket, *([options.broker_address] if options.broker_address else [])),
        advertised_addresses=options.advertised_addresses,
        state_dir=options.state_dir,
        folders_in_place=options.broker_address is None,
        archives_in_place=options.broker_address is None and options.is_state_temporary,
        private_folders=(options.cache_dir,),
        insecure=options.insecure,
        allow_private_urls=options.allow_private_urls,
        startup_workers_per_model=_startup_workers(values, options.devices, host),
        metrics_log_dir=options.metrics_log_dir,
        log_limits=options.log_limits,
        snapshot_dir=options.snapshot_dir,
        snapshot_config=snapshot_config(command_line, config),
        key_file=options.key_file if has_tokens(values) else None,
        static_keys=options.static_keys if has_tokens(values) else (),
    )
    node = node_settings(
        values,
        broker_address=socket,
        name=host.name,
        devices=devices(values, options.devices, host),
        slots=options.slots or default_slots(host),
        cache_dir=options.cache_dir,
        cache_limit_bytes=options.cache_limit_bytes,
        keep_models=options.keep_models,
        credential_env_vars=options.credential_env_vars,
        secret_env_vars=secret_variables(config),
        stop_grace_s=1.0,
        model_log=options.model_log,
        log_limits=options.log_limits,
    )
    faults += unused_key_faults(options.static_keys, values, command_line)
    faults += broker_exposure_faults(broker.addresses, options.insecure)
    faults += gateway_faults(gateway)
    if faults:
        raise settings.SettingsError("\n".join(faults))
    return Plan(broker, gateway, node)


def snapshot_config(command_line: ConfigValues, config: Configuration) -> tuple[tuple[str, str], ...]:
    """Return what a snapshot repeats of the configuration: every key that was given, with its text.

    Secrets are left out: whoever restores the snapshot takes them from the file that it names.
    """
    values = msgspec.structs.asdict(command_line)
    texts = {key: config_parsers.text_of(value) for key, value in values.items() if value is not None}
    strongest = {**config.properties, **texts, **config.overrides}
    if "load_models" in strongest:  # a url may be signed, and restoring doesn't need that
        loads = config_parsers.parse_load_models(strongest["load_models"])
        strongest["load_models"] = config_parsers.text_of(tuple(map(_unsigned, loads)))
    return tuple(
        (key, text)
        for key, text in strongest.items()
        if key != snapshot_files.KEY and not config_keys.is_secret(key)
    )


def _unsigned(load: settings.LoadAtStart) -> settings.LoadAtStart:
    url = load.url.partition("?")[0] if "://" in load.url else load.url
    return settings.LoadAtStart(url=url, name=load.name)


def default_slots(host: Host) -> int:
    """Return the default bound of a node's workers: enough for several models, not for a typo."""
    return max(32, SLOTS_PER_CPU * host.cpus)


def has_tokens(values: ConfigValues) -> bool:
    """Return whether requests need keys; without a value they need none."""
    return values.disable_token_authorization is False


def broker_settings(values: ConfigValues, **more: object) -> settings.BrokerSettings:
    """Make the broker's settings of values; `more` are fields that only one command sets."""
    ours = {
        "token_authorization": has_tokens(values),
        "queue_limit_bytes": _queue_limit_bytes(gateway_settings(values)),
    }
    return msgspec.convert(settings_from(values, "broker") | ours | more, settings.BrokerSettings)


def _queue_limit_bytes(gateway: settings.GatewaySettings) -> int:
    """Return what the queues must hold so that no request is refused that the gateway has let in."""
    processes = gateway.processes + (gateway.grpc_processes if gateway.enable_grpc else 0)
    return max(settings.QUEUE_LIMIT_BYTES, processes * gateway.in_flight_bytes)


def speaks_grpc(values: ConfigValues) -> bool:
    """Return whether gRPC is spoken: as is said, else where config.properties has one of its keys."""
    if values.enable_grpc is not None:
        return values.enable_grpc
    return any(
        getattr(values, key) is not None
        for key in config_keys.KEYS
        if key.startswith("grpc_") or key == "enable_grpc_ssl"
    )


def gateway_settings(values: ConfigValues, **more: object) -> settings.GatewaySettings:
    """Make the gateway's settings of values; `more` are fields that only one command sets."""
    ours = {
        "token_authorization": has_tokens(values),
        "enable_grpc": speaks_grpc(values),
        "unsent_limit_bytes": max(settings.UNSENT_BYTES, LARGEST_ANSWERS * (values.max_response_size or 0)),
    }
    return msgspec.convert(ours | settings_from(values, "gateway") | more, settings.GatewaySettings)


def node_settings(values: ConfigValues, **more: object) -> settings.NodeSettings:
    """Make a node's settings of values; `more` are fields that only one command sets."""
    metrics = {"system_metrics": not values.disable_system_metrics}
    return msgspec.convert(settings_from(values, "node") | metrics | more, settings.NodeSettings)


def gateway_grace(grace_s: float, lead_s: float) -> dict[str, float]:
    """Return the settings by which a gateway stops within `grace_s`, of which `lead_s` go first."""
    lead_s = min(lead_s, max(0.0, grace_s - 1))
    return {"leave_lead_s": lead_s, "graceful_timeout_s": max(1, int(grace_s - lead_s))}


def node_grace(grace_s: float) -> dict[str, float]:
    """Return the settings by which a node stops within `grace_s`; at the end workers finish a last batch."""
    stop_s = max(MIN_STOP_GRACE_S, min(STOP_GRACE_S, grace_s / 2))
    return {"leave_grace_s": max(0.0, grace_s - stop_s), "stop_grace_s": stop_s}


def secret_variables(config: Configuration) -> tuple[str, ...]:
    """Name the variables of the environment that hold secrets of the configuration."""
    overriding = {variable for key in config_keys.SECRETS if (variable := config_keys.variable(key))}
    return tuple(sorted(config.secret_variables | overriding))


def broker_exposure_faults(addresses: Sequence[str], insecure: bool) -> list[str]:
    """Return a fault for each of a broker's addresses that others could reach, unless `insecure`."""
    if insecure:
        return []
    return [
        f"whoever reaches {address} can run code on every node, other users of this host as well: use"
        " ipc://PATH or tcp://HOST:PORT, or say --insecure where you trust all who reach it"
        for address in addresses
        if settings.is_open_to_others(address) and not address.startswith("tcp://")
    ]


def invitation_files(said: Sequence[str]) -> tuple[settings.InvitationFile, ...]:
    """Read which files are to hold an invitation, each as ROLE=PATH. Raises Fault."""
    found = []
    for one in said:
        role, _, path = one.partition("=")
        if role not in get_args(MemberRole) or not path:
            raise Fault(f"--invitation-file {one}: say node=PATH or gateway=PATH")
        found.append(settings.InvitationFile(cast("MemberRole", role), str(Path(path).absolute())))
    return tuple(found)


def invitation_faults(broker: settings.BrokerSettings) -> list[str]:
    """Return a fault where nobody could join by the invitations that files are to hold."""
    if not broker.invitation_files or broker.join_addresses:
        return []
    return [
        "--invitation-file is for hosts that join by a key: listen on --address tcp://HOST:7700 without"
        " --insecure, and where that names no host say --advertise"
    ]


def unused_key_faults(
    keys: Sequence[settings.StaticKey], values: ConfigValues, command_line: ConfigValues
) -> list[str]:
    """Return a fault if keys are given in one place and switched off in another.

    Not if --disable-token-auth is on the command line, which is typed on purpose.
    """
    if not keys or has_tokens(values) or command_line.disable_token_authorization:
        return []
    return [
        "keys are given (--keys, TORCHRELAY_KEYS_FILE or a TORCHRELAY_..._KEY), and"
        " disable_token_authorization=true lets callers in without one: take back one of the two"
    ]


def gateway_faults(gateway: settings.GatewaySettings) -> list[str]:
    """Return a fault for each listener that others reach without keys, and for TLS without a certificate."""
    listeners = addresses.all_of(gateway).values()
    faults: list[str] = []
    if not gateway.insecure and not gateway.token_authorization:
        faults = [
            f"{address} can be reached from other hosts, and nothing checks who calls: say --tokens, use a"
            " loopback address, or say --open-http where the network is your own"
            for address in listeners
            if settings.is_reachable_from_outside(address)
        ]
    has_pair = bool(gateway.certificate_file) and bool(gateway.private_key_file)
    if bool(gateway.certificate_file) != bool(gateway.private_key_file):
        faults.append("certificate_file and private_key_file need each other")
    if any(address.startswith("https:") for address in listeners) and not (has_pair or gateway.keystore):
        faults.append("an https address needs certificate_file and private_key_file, or a keystore")
    return faults + listen_addresses.faults(gateway)


def plain_http_warnings(gateway: settings.GatewaySettings) -> list[str]:
    """Warn of addresses to which keys are sent unencrypted; the metrics port asks for none."""
    open_ones = [
        address
        for address in dict.fromkeys((gateway.inference_address, gateway.management_address))
        if address.startswith("http:") and settings.is_reachable_from_outside(address)
    ]
    if not gateway.enable_grpc_ssl:
        open_ones += [
            address
            for address in listen_addresses.all_of(gateway).values()
            if not settings.is_loopback(listen_addresses.split(address)[0])
        ]
    if not open_ones or not gateway.token_authorization:
        return []
    return [
        f"keys that callers send to {' and '.join(open_ones)} can be read on their way: use https addresses"
        " (enable_grpc_ssl for gRPC), or a proxy that speaks TLS"
    ]


def fits_socket(folder: str) -> bool:
    """Return whether a socket in this folder has a path that is short enough for the kernel."""
    return len(os.fsencode(f"{Path(folder)}/broker.sock")) <= settings.SOCKET_PATH_LIMIT_BYTES


def devices(values: ConfigValues, wanted: tuple[str, ...], host: Host) -> tuple[str, ...]:
    """Return the devices that a node offers; number_of_gpu bounds the GPUs for which `auto` stands."""
    if _gpus(values, host) == host.gpus:
        return wanted
    auto = tuple(f"cuda:{number}" for number in range(_gpus(values, host))) or ("cpu",)
    return tuple(name for asked in wanted for name in (auto if asked == "auto" else (asked,)))


def _gpus(values: ConfigValues, host: Host) -> int:
    return host.gpus if values.number_of_gpu is None else min(host.gpus, values.number_of_gpu)


def _startup_workers(values: ConfigValues, wanted: tuple[str, ...], host: Host) -> int:
    """Count workers per model at start as TorchServe does: one for each GPU, else for each cpu."""
    named = {name for name in wanted if name.startswith("cuda")}
    if "auto" in wanted:
        named |= {f"cuda:{number}" for number in range(_gpus(values, host))}
    return len(named) or host.cpus
