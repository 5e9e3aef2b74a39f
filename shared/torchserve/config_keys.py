"""Every key of TorchServe's config.properties, one row each; pure tables.

A row of `ConfigValues` has the key's name and type, the parser of its value, and the settings that it sets:
reading, merging and docs/configuration.md follow from it. A key without an effect has a row in `REASONS`.
"""

import re
from collections.abc import Callable
from typing import Annotated, Literal, get_type_hints

import msgspec

from torchrelay.shared.settings import LoadAtStart, StartupModel
from torchrelay.shared.torchserve import config_parsers as p
from torchrelay.shared.wire.fields import Labels


class Key(msgspec.Struct, frozen=True):
    """What is known of a key that has an effect."""

    #: Reads its value; see `config_parsers`.
    parse: Callable[[str], object]
    #: The processes with a setting of its value, separated by blanks: `broker`, `gateway`, `node`, or
    #: `broker.FIELD` where the setting has another name than the key.
    sets: str = ""
    #: What it does, in words, where no setting has its value as it is.
    effect: str = ""
    #: The variable of the environment that overrides it; TS_<KEY> if this is empty, none if it is None.
    variable: str | None = ""
    #: Whether its value is kept out of snapshots, logs, descriptions and handlers.
    is_secret: bool = False
    #: What it does otherwise than in TorchServe, in words.
    differs: str = ""


Text = str | None
Number = int | None
Flag = bool | None
Models = tuple[StartupModel, ...] | None


class ConfigValues(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The values that one source gives, by key; None where it gives none."""

    inference_address: Annotated[Text, Key(p.parse_address, "gateway")] = None
    management_address: Annotated[Text, Key(p.parse_address, "gateway")] = None
    metrics_address: Annotated[Text, Key(p.parse_address, "gateway")] = None
    model_store: Annotated[Text, Key(p.parse_text, "broker")] = None
    workflow_store: Annotated[Text, Key(p.parse_text, "broker")] = None
    load_models: Annotated[tuple[LoadAtStart, ...] | None, Key(p.parse_load_models, "broker")] = None
    models: Annotated[Models, Key(p.parse_models, "broker", variable=None)] = None
    model_snapshot: Annotated[Models, Key(p.parse_snapshot, "broker.snapshot", variable=None)] = None
    default_workers_per_model: Annotated[Number, Key(p.parse_number(0), "broker")] = None
    default_response_timeout: Annotated[Number, Key(p.parse_seconds, "broker.default_response_timeout_s")] = (
        None
    )
    default_startup_timeout: Annotated[Number, Key(p.parse_seconds, "broker.default_startup_timeout_s")] = (
        None
    )
    unregister_model_timeout: Annotated[Number, Key(p.parse_number(0), "broker.unregister_timeout_s")] = None
    job_queue_size: Annotated[Number, Key(p.parse_number(1), "broker")] = None
    max_request_size: Annotated[Number, Key(p.parse_number(1), "gateway")] = None
    max_response_size: Annotated[Number, Key(p.parse_number(1), "broker")] = None
    number_of_gpu: Annotated[
        Number,
        Key(
            p.parse_number(0),
            effect="how many GPUs a node offers at most, of those that CUDA_VISIBLE_DEVICES leaves",
        ),
    ] = None
    limit_max_image_pixels: Annotated[Flag, Key(p.is_true, "broker")] = None
    decode_input_request: Annotated[Flag, Key(p.is_true, "broker")] = None
    default_service_handler: Annotated[Text, Key(p.parse_text, "broker")] = None
    service_envelope: Annotated[Text, Key(p.parse_text, "broker")] = None
    allowed_urls: Annotated[
        tuple[str, ...] | None,
        Key(
            p.parse_patterns,
            "broker",
            differs="a pattern must match host and port, too, and private addresses are fetched only where"
            " one spells the host, or with --allow-private-urls",
        ),
    ] = None
    install_py_dep_per_model: Annotated[
        Flag,
        Key(
            p.is_true,
            "broker",
            differs="of the environment, pip sees paths, proxies, certificates and PIP_* alone, and what"
            " install_env_vars=REGEX names",
        ),
    ] = None
    enable_model_api: Annotated[Flag, Key(p.is_true, "broker gateway")] = None
    # TorchServe ignores this one.
    enable_workflow_api: Annotated[Flag, Key(p.is_true, "broker gateway")] = None
    enable_metrics_api: Annotated[Flag, Key(p.is_true, "gateway")] = None
    metrics_mode: Annotated[
        Literal["prometheus", "log", "legacy"] | None, Key(p.parse_metrics_mode, "broker")
    ] = None
    metrics_config: Annotated[Text, Key(p.parse_text, "broker")] = None
    model_metrics_auto_detect: Annotated[Flag, Key(p.is_true, "broker")] = None
    # TorchServe ignores the next ones, which are ours.
    own_metrics: Annotated[Flag, Key(p.is_true, "broker")] = None
    connection_limit: Annotated[Number, Key(p.parse_number(1), "gateway")] = None
    head_timeout_s: Annotated[Number, Key(p.parse_number(1), "gateway")] = None
    client_least_rate: Annotated[Number, Key(p.parse_number(1), "gateway")] = None
    client_stall_s: Annotated[Number, Key(p.parse_number(1), "gateway")] = None
    unsent_limit_bytes: Annotated[Number, Key(p.parse_number(0), "gateway")] = None
    in_flight_limit_jobs: Annotated[Number, Key(p.parse_number(1), "gateway")] = None
    in_flight_limit_bytes: Annotated[Number, Key(p.parse_number(0), "gateway")] = None
    disable_system_metrics: Annotated[Flag, Key(p.is_true, effect="whether nodes measure their host")] = None
    metric_time_interval: Annotated[
        Number, Key(p.parse_number(1), "node.metric_time_interval_s", variable=None)
    ] = None
    disable_token_authorization: Annotated[
        Flag,
        Key(p.is_true, effect="whether callers need keys; `torchserve` says yes, `torchrelay serve` no"),
    ] = None
    token_expiration_min: Annotated[
        float | None, Key(p.parse_minutes, "broker", variable="TS_TOKEN_EXPIRATION_TIME_MIN")
    ] = None
    ts_open_inference_protocol: Annotated[Flag, Key(p.is_true, "gateway.open_inference_protocol")] = None
    grpc_inference_address: Annotated[Text, Key(p.parse_text, "gateway")] = None
    grpc_inference_port: Annotated[Number, Key(p.parse_number(1), "gateway")] = None
    grpc_management_address: Annotated[Text, Key(p.parse_text, "gateway")] = None
    grpc_management_port: Annotated[Number, Key(p.parse_number(1), "gateway")] = None
    grpc_inference_max_connection_age_ms: Annotated[Number, Key(p.parse_number(1), "gateway")] = None
    grpc_inference_max_connection_age_grace_ms: Annotated[Number, Key(p.parse_number(1), "gateway")] = None
    grpc_management_max_connection_age_ms: Annotated[Number, Key(p.parse_number(1), "gateway")] = None
    grpc_management_max_connection_age_grace_ms: Annotated[Number, Key(p.parse_number(1), "gateway")] = None
    enable_grpc_ssl: Annotated[Flag, Key(p.is_true, "gateway")] = None
    # TorchServe ignores the next three.
    enable_grpc: Annotated[
        Flag,
        Key(
            p.is_true,
            effect="whether gRPC is spoken; by default by `torchserve`, and where one of its keys is there",
        ),
    ] = None
    grpc_processes: Annotated[Number, Key(p.parse_number(1), "gateway")] = None
    grpc_server: Annotated[Literal["grpcio", "pygrpc-native"] | None, Key(p.parse_grpc_server, "gateway")] = (
        None
    )
    ts_header_key_sequence_id: Annotated[
        Text, Key(p.parse_text, "gateway.header_key_sequence_id node.header_key_sequence_id")
    ] = None
    ts_header_key_sequence_start: Annotated[Text, Key(p.parse_text, "node.header_key_sequence_start")] = None
    ts_header_key_sequence_end: Annotated[Text, Key(p.parse_text, "node.header_key_sequence_end")] = None
    # TorchServe ignores this one.
    allowed_hosts: Annotated[tuple[str, ...] | None, Key(p.parse_hosts, "gateway")] = None
    cors_allowed_origin: Annotated[Text, Key(p.parse_text, "gateway")] = None
    cors_allowed_methods: Annotated[Text, Key(p.parse_text, "gateway")] = None
    cors_allowed_headers: Annotated[Text, Key(p.parse_text, "gateway")] = None
    blacklist_env_vars: Annotated[Text, Key(p.parse_pattern, "node")] = None
    # TorchServe ignores these.
    shared_memory: Annotated[Flag, Key(p.is_true, "broker")] = None
    preload: Annotated[tuple[str, ...] | None, Key(p.parse_modules, "node")] = None
    node_labels: Annotated[Labels | None, Key(p.parse_labels, "node.labels")] = None
    install_env_vars: Annotated[Text, Key(p.parse_pattern, "node")] = None
    install_timeout_s: Annotated[Number, Key(p.parse_number(1), "node")] = None
    download_timeout_s: Annotated[Number, Key(p.parse_number(1), "broker")] = None
    download_min_bytes_per_s: Annotated[Number, Key(p.parse_number(1), "broker")] = None
    download_grace_s: Annotated[Number, Key(p.parse_number(1), "broker")] = None
    workers_limit: Annotated[Number, Key(p.parse_number(1), "broker")] = None
    keystore: Annotated[Text, Key(p.parse_text, "gateway")] = None
    keystore_pass: Annotated[Text, Key(p.parse_text, "gateway", is_secret=True)] = None
    keystore_type: Annotated[Text, Key(p.parse_keystore_type, effect="nothing but `PKCS12` can be read")] = (
        None
    )
    private_key_file: Annotated[Text, Key(p.parse_text, "gateway")] = None
    certificate_file: Annotated[Text, Key(p.parse_text, "gateway")] = None


#: The rows of `ConfigValues`, by key.
KEYS: dict[str, Key] = {
    name: next(fact for fact in hint.__metadata__ if isinstance(fact, Key))
    for name, hint in get_type_hints(ConfigValues, include_extras=True).items()
}
#: Keys whose values are kept out of snapshots, logs, descriptions and handlers.
SECRETS = frozenset(name for name, key in KEYS.items() if key.is_secret)

#: Keys of TorchServe's that have no effect here, by the reason.
_WITHOUT_EFFECT = {
    "there is no Netty here; --gateway-processes sets how many processes speak HTTP": (
        "number_of_netty_threads netty_client_threads prefer_direct_buffer use_native_io io_ratio"
    ),
    "there is no Java here": "vmargs model_server_home",
    "logging holds up no request here": "async_logging",
    "plugins are Java; theirs are TorchServe's own extension points": "plugins_path",
    "there is no C++ backend here": "cpp_log_config",
    "workers dial out and open no port": "initial_worker_port",
    "free ports are found when a worker with several processes starts": "initial_distribution_port",
    "cores are shared out by threads; see threads_per_worker": "cpu_launcher_enable cpu_launcher_args",
    "Intel's extension for PyTorch is no longer developed; its work went into PyTorch": (
        "ipex_enable ipex_gpu_enable"
    ),
    "the host is measured by the node itself": "system_metrics_cmd",
    "workers always run, and within their timeouts; a debugger can join a worker's process": "debug",
}
REASONS = {key: why for why, keys in _WITHOUT_EFFECT.items() for key in keys.split()}

#: How secrets are called; of the keys in this file none is called so but those that are.
_CALLED_SECRET = re.compile(r"pass(wd|word|phrase)?|secret|tokens?|credentials?|keys?", re.IGNORECASE)

#: Keys that switch the reading itself.
SWITCHES = frozenset({"enable_envvars_config", "use_env_allowed_urls"})
#: What TorchServe adds to the snapshots that it writes; the one names the file that the server started with.
CONFIG_FILE_MARK = "tsConfigFile"
SNAPSHOT_MARKS = frozenset({"python", CONFIG_FILE_MARK, "version"})


def settings_of(name: str, process: str) -> list[str]:
    """Name the settings of a process (`broker`, `gateway`, `node`) that have the value of this key."""
    targets = [target.partition(".") for target in KEYS[name].sets.split()]
    return [field or name for target, _, field in targets if target == process]


def settings_from(values: ConfigValues, process: str) -> dict[str, object]:
    """Return the settings of a process that have a value here, by their names."""
    return {
        field: value
        for key in KEYS
        if (value := getattr(values, key)) is not None
        for field in settings_of(key, process)
    }


def variable(name: str) -> str | None:
    """Name the variable of the environment that overrides this key; None for a key that none overrides."""
    named = KEYS[name].variable
    return f"TS_{name.removeprefix('ts_').upper()}" if named == "" else named


def is_secret(name: str) -> bool:
    """Tell whether a key's value is to be kept secret; of an unknown key its name tells."""
    if name in KEYS:
        return KEYS[name].is_secret
    if name in REASONS or name in SWITCHES or name in SNAPSHOT_MARKS:
        return False
    return any(_CALLED_SECRET.fullmatch(word) for word in re.split(r"[^a-zA-Z]|(?<=[a-z])(?=[A-Z])", name))


def reason(name: str, text: str | None = None) -> str | None:
    """Say why a key, or this value of it, has no effect; None where it has one, or is no setting."""
    if name in KEYS:
        if text is not None and KEYS[name].parse is p.parse_seconds and p.parse_seconds(text) is None:
            return f"no worker could answer within {text} s; the default stays"
        return None
    if name in SWITCHES or name in SNAPSHOT_MARKS:
        return None
    return REASONS.get(name, "no key of TorchServe's; kept, like there")
