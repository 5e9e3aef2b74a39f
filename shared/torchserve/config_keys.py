"""Every key of TorchServe's config.properties: how its value is read, or why it has no effect here.

Pure tables and the parsers they name. A parser gets the stripped value and raises ValueError for what can't
work; None means that the value says nothing, so that the default stays.
"""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import pyjson5

from torchrelay.shared.settings import LoadAtStart, StartupModel

#: TorchServe's numbers are 32-bit; a larger one is a slip.
NUMBER_LIMIT = 2**31 - 1
#: int() alone would also take 1_000 and other scripts' digits.
_NUMBER = re.compile(r"[+-]?[0-9]{1,10}")

#: TorchServe's fields of a model in `models` and in snapshots, and ours.
_MODEL_NUMBERS = {
    "minWorkers": "min_workers",
    "maxWorkers": "max_workers",
    "batchSize": "batch_size",
    "maxBatchDelay": "max_batch_delay_ms",
    "responseTimeout": "response_timeout_s",
    "startupTimeout": "startup_timeout_s",
}


def parse_address(text: str) -> str:
    """Check an address to listen on: `http://HOST[:PORT]`, `https://HOST[:PORT]` or `unix:/PATH`.

    Raises:
        ValueError: it is none.
    """
    text = text.strip()
    if text.startswith("unix:/") and len(text) > len("unix:/"):
        return text
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise ValueError(f"Invalid binding address: {text} (wanted http[s]://HOST[:PORT] or unix:/PATH)")
    return text.rstrip("/")


def parse_load_models(text: str) -> tuple[LoadAtStart, ...]:
    """Read `load_models`: `all`, or a comma list of `url` and `name=url`; TorchServe doesn't trim, we do."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    return tuple(load_at_start(item) for item in items if item.lower() != "none")


def load_at_start(item: str) -> LoadAtStart:
    """Read one archive of a list: `url` or `name=url`."""
    name, equals, url = item.partition("=")
    # A url may hold "=" itself; a name holds neither ":" nor "/".
    if equals and name.strip() and not re.search(r"[:/]", name):
        return LoadAtStart(url=url.strip(), name=name.strip())
    return LoadAtStart(url=item)


def parse_models(text: str) -> tuple[StartupModel, ...]:
    """Read `models`, `{name: {version: {...}}}`; numbers that are not positive say nothing."""
    return _startup_models(_json_object(text))


def parse_snapshot(text: str) -> tuple[StartupModel, ...]:
    """Read `model_snapshot`; each of its models names its archive."""
    models = _startup_models(_object(_json_object(text).get("models", {}), "models"))
    for model in models:
        if not model.archive_name:
            raise ValueError(f"{model.name} {model.version} says no marName")
    return models


def text_of(value: object) -> str:
    """Write a value so that its parser reads it again."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(_item(item) for item in value)
    return str(value)


def _item(item: object) -> str:
    if isinstance(item, LoadAtStart):
        return item.url if item.name is None else f"{item.name}={item.url}"
    return str(item)


def is_true(text: str) -> bool:
    """Read a boolean as Java does: anything but `true` is false."""
    return text.strip().lower() == "true"


def _json_object(text: str) -> dict[str, object]:
    """Read an object as leniently as TorchServe does, which takes single quotes and bare names."""
    try:
        return _object(pyjson5.decode(text) if text else {}, "it")
    except pyjson5.Json5DecoderException as error:
        reason = (error.message or "").replace("b'", "'")
        raise ValueError(f"not JSON: {reason}") from error


def _object(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object, {{...}}")
    return value


def _startup_models(models: dict[str, object]) -> tuple[StartupModel, ...]:
    return tuple(
        _startup_model(name, version, _object(facts, f"{name} {version}"))
        for name, versions in models.items()
        for version, facts in _object(versions, name).items()
    )


def _startup_model(name: str, version: str, facts: dict[str, object]) -> StartupModel:
    numbers = {
        field: _positive(facts.get(key), f"{name} {version} {key}") for key, field in _MODEL_NUMBERS.items()
    }
    words = {key: facts.get(key) for key in ("marName", "runtimeType")}
    for key, word in words.items():
        if not isinstance(word, str | None):
            raise ValueError(f"{name} {version} {key}: {word!r} is no text")
    return StartupModel(
        name=name,
        version=version,
        archive_name=str(words["marName"]) if words["marName"] else None,
        runtime=str(words["runtimeType"]) if words["runtimeType"] else None,
        is_default=is_true(str(facts.get("defaultVersion"))),
        **numbers,
    )


def _positive(value: object, what: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value > NUMBER_LIMIT:
        raise ValueError(f"{what}: {value!r} is no whole number")
    return value if value > 0 else None


def _word(text: str) -> str | None:
    return text or None


def _number(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text) if _NUMBER.fullmatch(text) else None
        if value is None or not minimum <= value <= NUMBER_LIMIT:
            raise ValueError(f"{text[:40]!r} is not a whole number from {minimum} to {NUMBER_LIMIT}")
        return value

    return parse


def _seconds(text: str) -> int | None:
    """Read a worker's time for an answer; none at all says nothing: every request would fail at once."""
    seconds = _number(-NUMBER_LIMIT)(text)
    return seconds if seconds > 0 else None


def _minutes(text: str) -> float | None:
    """Read a life of keys, decimals allowed; TorchServe takes its default for anything else."""
    if not re.fullmatch(r"[0-9]{0,9}\.?[0-9]{0,9}", text) or not text.strip(".0"):
        return None
    return float(text)


def _patterns(text: str) -> tuple[str, ...]:
    patterns = tuple(part.strip() for part in text.split(",") if part.strip())
    for pattern in patterns:
        _pattern(pattern)
    return patterns


def parse_hosts(text: str) -> tuple[str, ...]:
    """Read `allowed_hosts`: a comma list of names, in which `*` stands for anything."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_.*-]{1,253}", name):
            raise ValueError(f"{name[:100]!r} is no name of a host; write NAME or *.DOMAIN, without a port")
    return names


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from error
    return text


def _metrics_mode(text: str) -> str:
    return text.lower() if text.lower() in ("prometheus", "legacy") else "log"


def _keystore_type(text: str) -> str | None:
    if text.upper() not in ("", "PKCS12"):
        raise ValueError(
            f"{text!r} can't be read here: convert the keystore to PKCS12 (keytool -importkeystore)"
        )
    return text or None


#: Keys with an effect, and how each is read.
PARSERS: dict[str, Callable[[str], object]] = {
    "inference_address": parse_address,
    "management_address": parse_address,
    "metrics_address": parse_address,
    "model_store": _word,
    "load_models": parse_load_models,
    "models": parse_models,
    "model_snapshot": parse_snapshot,
    "default_workers_per_model": _number(0),
    "default_response_timeout": _seconds,
    "default_startup_timeout": _seconds,
    "unregister_model_timeout": _number(0),
    "job_queue_size": _number(1),
    "max_request_size": _number(1),
    "max_response_size": _number(1),
    "number_of_gpu": _number(0),
    "limit_max_image_pixels": is_true,
    "decode_input_request": is_true,
    "default_service_handler": _word,
    "service_envelope": _word,
    "allowed_urls": _patterns,
    "install_py_dep_per_model": is_true,
    "enable_model_api": is_true,
    "enable_metrics_api": is_true,
    "metrics_mode": _metrics_mode,
    "metrics_config": _word,
    "model_metrics_auto_detect": is_true,
    "own_metrics": is_true,
    "connection_limit": _number(1),
    "head_timeout_s": _number(1),
    "client_least_rate": _number(1),
    "client_stall_s": _number(1),
    "unsent_limit_bytes": _number(0),
    "in_flight_limit_bytes": _number(0),
    "disable_system_metrics": is_true,
    "metric_time_interval": _number(1),
    "disable_token_authorization": is_true,
    "token_expiration_min": _minutes,
    "ts_open_inference_protocol": is_true,
    "ts_header_key_sequence_id": _word,
    "ts_header_key_sequence_start": _word,
    "ts_header_key_sequence_end": _word,
    "allowed_hosts": parse_hosts,
    "cors_allowed_origin": _word,
    "cors_allowed_methods": _word,
    "cors_allowed_headers": _word,
    "blacklist_env_vars": _pattern,
    "install_env_vars": _pattern,
    "install_timeout_s": _number(1),
    "download_timeout_s": _number(1),
    "download_min_bytes_per_s": _number(1),
    "download_grace_s": _number(1),
    "workers_limit": _number(1),
    "keystore": _word,
    "keystore_pass": _word,
    "keystore_type": _keystore_type,
    "private_key_file": _word,
    "certificate_file": _word,
}

_NO_GRPC = "gRPC is not spoken here yet"
_NO_NETTY = "there is no Netty here; --gateway-processes sets how many processes speak HTTP"
_NO_JAVA = "there is no Java here"
_NO_IPEX = "Intel's extension for PyTorch is no longer developed; its work went into PyTorch"
_WORKERS_DIAL = "workers dial out and open no port"

#: Keys of TorchServe's that have no effect here, and why.
REASONS: dict[str, str] = {
    "grpc_inference_address": _NO_GRPC,
    "grpc_management_address": _NO_GRPC,
    "grpc_inference_port": _NO_GRPC,
    "grpc_management_port": _NO_GRPC,
    "grpc_inference_max_connection_age_ms": _NO_GRPC,
    "grpc_management_max_connection_age_ms": _NO_GRPC,
    "grpc_inference_max_connection_age_grace_ms": _NO_GRPC,
    "grpc_management_max_connection_age_grace_ms": _NO_GRPC,
    "enable_grpc_ssl": _NO_GRPC,
    "number_of_netty_threads": _NO_NETTY,
    "netty_client_threads": _NO_NETTY,
    "prefer_direct_buffer": _NO_NETTY,
    "use_native_io": _NO_NETTY,
    "io_ratio": _NO_NETTY,
    "vmargs": _NO_JAVA,
    "model_server_home": _NO_JAVA,
    "async_logging": "logging holds up no request here",
    "plugins_path": "plugins are Java; theirs are TorchServe's own extension points",
    "cpp_log_config": "there is no C++ backend here",
    "workflow_store": "workflows are not offered",
    "initial_worker_port": _WORKERS_DIAL,
    "initial_distribution_port": "free ports are found when a worker with several processes starts",
    "cpu_launcher_enable": "cores are shared out by threads; see threads_per_worker",
    "cpu_launcher_args": "cores are shared out by threads; see threads_per_worker",
    "ipex_enable": _NO_IPEX,
    "ipex_gpu_enable": _NO_IPEX,
    "system_metrics_cmd": "the host is measured by the node itself",
    "debug": "workers always run, and within their timeouts; a debugger can join a worker's process",
}
_UNKNOWN = "no key of TorchServe's; kept, like there"

#: Keys whose values nobody shall see: not in snapshots, logs or descriptions, and no handler.
SECRETS = frozenset({"keystore_pass"})
#: How secrets are called; of keys that mean something here none is called so but those above.
_CALLED_SECRET = re.compile(r"pass(wd|word|phrase)?|secret|tokens?|credentials?|keys?", re.IGNORECASE)

#: Keys that switch the reading itself.
SWITCHES = frozenset({"enable_envvars_config", "use_env_allowed_urls"})
#: What TorchServe adds to the snapshots that it writes; the one names the file that the server started with.
CONFIG_FILE_MARK = "tsConfigFile"
SNAPSHOT_MARKS = frozenset({"python", CONFIG_FILE_MARK, "version"})
#: Keys with an effect that no variable overrides, as in TorchServe.
_FILE_ONLY = frozenset({"models", "model_snapshot", "metric_time_interval"})
_VARIABLES = {"token_expiration_min": "TS_TOKEN_EXPIRATION_TIME_MIN"}


def variable(key: str) -> str | None:
    """Name the variable that overrides a key, or None for one that none does."""
    if key in _FILE_ONLY:
        return None
    return _VARIABLES.get(key) or f"TS_{key.removeprefix('ts_').upper()}"


def is_secret(key: str) -> bool:
    """Tell whether a key's value is to be kept secret; one that we don't know may be, by its name."""
    if key in PARSERS or key in REASONS or key in SWITCHES or key in SNAPSHOT_MARKS:
        return key in SECRETS
    return any(_CALLED_SECRET.fullmatch(word) for word in re.split(r"[^a-zA-Z]|(?<=[a-z])(?=[A-Z])", key))


def reason(key: str, text: str | None = None) -> str | None:
    """Say why a key, or this value of it, has no effect; None where it has, or is no setting at all."""
    if text is not None and PARSERS.get(key) is _seconds and _seconds(text) is None:
        return f"no worker could answer within {text} s; the default stays"
    if key in PARSERS or key in SWITCHES or key in SNAPSHOT_MARKS:
        return None
    return REASONS.get(key, _UNKNOWN)
