"""Makes the settings of the three processes out of environment, command line, file and defaults.

Pure: everything comes in as arguments. The order is TorchServe's: the environment (where the file admits
it) beats the command line, which beats the file, which beats the defaults of `shared.settings`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from cli.machine import Machine
from shared.settings import (
    BrokerSettings,
    GatewaySettings,
    NodeSettings,
    SettingsError,
    is_reachable_from_outside,
)
from shared.ts_config import Said, TsConfig

#: A unix socket's path is at most this long (108 bytes with its closing zero).
SOCKET_PATH_LIMIT_BYTES = 107
SLOTS_PER_CPU = 4

BROKER_FIELDS = {
    "model_store": "model_store",
    "load_models": "load_models",
    "default_workers_per_model": "default_workers_per_model",
    "default_response_timeout": "default_response_timeout_s",
    "default_startup_timeout": "default_startup_timeout_s",
    "job_queue_size": "job_queue_size",
    "max_response_size": "max_response_size",
    "allowed_urls": "allowed_urls",
    "decode_input_request": "decode_input_request",
    "limit_max_image_pixels": "limit_max_image_pixels",
    "service_envelope": "service_envelope",
    "default_service_handler": "default_service_handler",
}
GATEWAY_FIELDS = {
    "inference_address": "inference_address",
    "management_address": "management_address",
    "metrics_address": "metrics_address",
    "max_request_size": "max_request_size",
    "enable_model_api": "enable_model_api",
    "enable_metrics_api": "enable_metrics_api",
}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What only the command line says."""

    state_dir: str
    cache_dir: str
    socket_dir: str
    #: A tcp address for nodes of other hosts, beside the socket of this one.
    broker_address: str | None = None
    gateway_processes: int = 1
    slots: int | None = None
    devices: tuple[str, ...] = ("auto",)
    insecure: bool = False
    allow_private_urls: bool = False


class Plan(msgspec.Struct, frozen=True):
    """The settings of the three processes."""

    broker: BrokerSettings
    gateway: GatewaySettings
    node: NodeSettings


def merge(environment: Said, command_line: Said, file: Said) -> Said:
    """Take each key from the strongest source that has it.

    The command line can only switch `enable_model_api` on, so it says True or nothing.
    """
    strongest: dict[str, Any] = {}  # any field's type
    for source in (file, command_line, environment):
        strongest |= {
            key: value for key, value in msgspec.structs.asdict(source).items() if value is not None
        }
    return Said(**strongest)


def compose(command_line: Said, config: TsConfig, options: Options, machine: Machine) -> Plan:
    """Settle everything for `torchrelay serve`.

    Raises:
        SettingsError: what was said can't work; one line for each fault.
    """
    said = merge(config.environment, command_line, config.file)
    socket = f"ipc://{options.socket_dir}/broker.sock"
    gpus = machine.gpus if said.number_of_gpu is None else min(machine.gpus, said.number_of_gpu)
    faults = (
        [] if fits_socket(options.socket_dir) else [f"{options.socket_dir}: too long a path for a socket"]
    )
    broker = broker_settings(
        said,
        addresses=(socket, options.broker_address) if options.broker_address else (socket,),
        state_dir=options.state_dir,
        insecure=options.insecure,
        allow_private_urls=options.allow_private_urls,
        startup_workers_per_model=_startup_workers(options.devices, gpus, machine.cpus),
    )
    gateway = gateway_settings(
        said,
        broker_address=socket,
        processes=options.gateway_processes,
        insecure=options.insecure,
        graceful_timeout_s=2,  # all of serve stops within 5 s
    )
    node = NodeSettings(
        broker_address=socket,
        name=machine.name,
        devices=_devices(options.devices, gpus, machine.gpus),
        slots=options.slots or default_slots(machine),
        cache_dir=options.cache_dir,
        stop_grace_s=1.0,
    )
    faults += exposure([*broker.addresses, *listeners(gateway)], options.insecure)
    if faults:
        raise SettingsError("\n".join(faults))
    return Plan(broker, gateway, node)


def default_slots(machine: Machine) -> int:
    """Bound the workers of a node where nobody does: enough for several models, not for a typo."""
    return max(32, SLOTS_PER_CPU * machine.cpus)


def broker_settings(said: Said, **more: object) -> BrokerSettings:
    """Make the broker's settings of what was said; `more` are fields that only one command knows."""
    return msgspec.convert(_fields(said, BROKER_FIELDS) | more, BrokerSettings)


def gateway_settings(said: Said, **more: object) -> GatewaySettings:
    """Make the gateway's settings of what was said; `more` are fields that only one command knows."""
    return msgspec.convert(_fields(said, GATEWAY_FIELDS) | more, GatewaySettings)


def exposure(addresses: Sequence[str], insecure: bool) -> list[str]:
    """Name each address that other hosts could reach although nobody said that this is meant."""
    if insecure:
        return []
    return [
        f"{address} can be reached from other hosts, and nothing here checks who calls yet:"
        " use a loopback address, or say --insecure where the network is your own"
        for address in addresses
        if is_reachable_from_outside(address)
    ]


def fits_socket(folder: str) -> bool:
    """Tell whether a socket in this folder has a path that the kernel takes."""
    return len(f"{Path(folder)}/broker.sock".encode()) <= SOCKET_PATH_LIMIT_BYTES


def _fields(said: Said, names: dict[str, str]) -> dict[str, object]:
    return {field: value for key, field in names.items() if (value := getattr(said, key)) is not None}


def listeners(gateway: GatewaySettings) -> tuple[str, ...]:
    """Return the addresses that the gateway will listen on."""
    always = (gateway.inference_address, gateway.management_address)
    return (*always, gateway.metrics_address) if gateway.enable_metrics_api else always


def _devices(wanted: tuple[str, ...], gpus: int, gpus_of_machine: int) -> tuple[str, ...]:
    """Apply number_of_gpu, which is an upper bound, where devices were not named one by one."""
    if wanted != ("auto",) or gpus == gpus_of_machine:
        return wanted
    return tuple(f"cuda:{index}" for index in range(gpus)) or ("cpu",)


def _startup_workers(devices: tuple[str, ...], gpus: int, cpus: int) -> int:
    """Count workers per model at start as TorchServe does: one for each GPU, else for each cpu."""
    named = sum(device.startswith("cuda") for device in devices)
    if devices == ("auto",):
        named = gpus
    return named or cpus
