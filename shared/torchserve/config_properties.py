"""Reads TorchServe's config.properties, and the TS_* variables where the file admits them.

Pure but for `find_file`: the file's bytes and the environment come in, what they say goes out. What each
key means is in `config_keys`. All faults are reported together. What wins over what is decided in
`cli/start/part_settings.py`, by the order that TorchServe documents: environment, command line, file,
default.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import javaproperties
import msgspec

from torchrelay.shared.settings import LoadAtStart, SettingsError, StartupModel
from torchrelay.shared.torchserve import config_keys

_REFERENCE = re.compile(r"\$\$([^$]+)\$\$")
_SNAPSHOT_NAME = re.compile(r"[0-9]+-(startup|snapshot|shutdown)\.cfg")


class Said(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one source says, by TorchServe's keys; None where it says nothing."""

    inference_address: str | None = None
    management_address: str | None = None
    metrics_address: str | None = None
    model_store: str | None = None
    load_models: tuple[LoadAtStart, ...] | None = None
    models: tuple[StartupModel, ...] | None = None
    model_snapshot: tuple[StartupModel, ...] | None = None
    default_workers_per_model: int | None = None
    default_response_timeout: int | None = None
    default_startup_timeout: int | None = None
    unregister_model_timeout: int | None = None
    job_queue_size: int | None = None
    max_request_size: int | None = None
    max_response_size: int | None = None
    number_of_gpu: int | None = None
    limit_max_image_pixels: bool | None = None
    decode_input_request: bool | None = None
    default_service_handler: str | None = None
    service_envelope: str | None = None
    allowed_urls: tuple[str, ...] | None = None
    install_py_dep_per_model: bool | None = None
    enable_model_api: bool | None = None
    enable_metrics_api: bool | None = None
    metrics_mode: Literal["prometheus", "log", "legacy"] | None = None
    metrics_config: str | None = None
    model_metrics_auto_detect: bool | None = None
    #: Ours, which TorchServe ignores, as are the next ones.
    own_metrics: bool | None = None
    connection_limit: int | None = None
    head_timeout_s: int | None = None
    client_least_rate: int | None = None
    client_stall_s: int | None = None
    unsent_limit_bytes: int | None = None
    in_flight_limit_bytes: int | None = None
    disable_system_metrics: bool | None = None
    metric_time_interval: int | None = None
    disable_token_authorization: bool | None = None
    token_expiration_min: float | None = None
    ts_open_inference_protocol: bool | None = None
    ts_header_key_sequence_id: str | None = None
    ts_header_key_sequence_start: str | None = None
    ts_header_key_sequence_end: str | None = None
    #: Ours, which TorchServe ignores.
    allowed_hosts: tuple[str, ...] | None = None
    cors_allowed_origin: str | None = None
    cors_allowed_methods: str | None = None
    cors_allowed_headers: str | None = None
    blacklist_env_vars: str | None = None
    #: Ours, which TorchServe ignores.
    install_env_vars: str | None = None
    install_timeout_s: int | None = None
    download_timeout_s: int | None = None
    download_min_bytes_per_s: int | None = None
    download_grace_s: int | None = None
    workers_limit: int | None = None
    keystore: str | None = None
    keystore_pass: str | None = None
    keystore_type: str | None = None
    private_key_file: str | None = None
    certificate_file: str | None = None


class TsConfig(msgspec.Struct, frozen=True):
    """Both sources apart, since the command line stands between them.

    `without_effect` says of each key of the file that means nothing here why. `properties` is what the file
    says, `overrides` what the environment says over it, both as texts by key: snapshots repeat them.
    `secret_variables` are those of the environment that hold a secret which the file asks for.
    """

    environment: Said = Said()
    file: Said = Said()
    without_effect: dict[str, str] = {}
    properties: dict[str, str] = {}
    overrides: dict[str, str] = {}
    secret_variables: frozenset[str] = frozenset()


def find_file(
    option: str | None, environ: Mapping[str, str], folder: Path, snapshots: Path | None = None
) -> Path | None:
    """Choose the file as TorchServe does.

    TS_CONFIG_FILE, then `--ts-config`, then the newest of the folder of snapshots, if one is given, then
    ./config.properties.
    """
    if asked_for := named(option, environ):
        return Path(asked_for)
    newest = None if snapshots is None else newest_snapshot(snapshots)
    nearby = folder / "config.properties"
    return newest or (nearby if nearby.is_file() else None)


def named(option: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the file that somebody asked for, as it was written."""
    return environ.get("TS_CONFIG_FILE") or option


def newest_snapshot(folder: Path) -> Path | None:
    """Find the snapshot that was written last, which in the hour that comes twice its name doesn't tell."""
    if not folder.is_dir():
        return None
    found = [path for path in folder.iterdir() if _SNAPSHOT_NAME.fullmatch(path.name) and path.is_file()]
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)


def read(content: bytes, environ: Mapping[str, str]) -> TsConfig:
    """Read a file's content.

    Raises:
        SettingsError: the file can't be read or holds values that can't work; one line for each.
    """
    try:
        # Java reads Latin-1; a file that is valid UTF-8 was almost surely meant as such.
        raw = javaproperties.loads(_text(content))
    except ValueError as error:
        raise SettingsError(f"not a properties file: {error}") from error
    faults: list[str] = []
    properties = {key: _substitute(value, environ, faults) for key, value in raw.items()}
    file = _parse({key: (key, text) for key, text in properties.items()}, faults)
    overrides = _overrides(properties, environ)
    environment = _parse(overrides, faults)
    if faults:
        raise SettingsError("\n".join(faults))
    texts = {key: text for key, (_, text) in overrides.items()}
    said = sorted({**properties, **texts}.items())
    ignored = {key: why for key, text in said if (why := config_keys.reason(key, text.strip())) is not None}
    asked_for = {name for key in raw if config_keys.is_secret(key) for name in _REFERENCE.findall(raw[key])}
    return TsConfig(with_oip(environment, environ), file, ignored, properties, texts, frozenset(asked_for))


def with_secrets(snapshot: TsConfig, origin: TsConfig) -> TsConfig:
    """Take the secrets that a snapshot leaves out from the file that the server was started with."""
    missing = {
        key: value
        for key in config_keys.SECRETS
        if getattr(snapshot.file, key) is None and (value := getattr(origin.file, key)) is not None
    }
    return msgspec.structs.replace(
        snapshot,
        file=msgspec.structs.replace(snapshot.file, **missing),
        secret_variables=snapshot.secret_variables | origin.secret_variables,
    )


def with_oip(said: Said, environ: Mapping[str, str]) -> Said:
    """Apply TS_OPEN_INFERENCE_PROTOCOL, which needs no leave and knows one word: `oip`."""
    word = environ.get("TS_OPEN_INFERENCE_PROTOCOL")
    return msgspec.structs.replace(said, ts_open_inference_protocol=word == "oip") if word else said


def _overrides(properties: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return what the environment says, where the file admits it: the variable's name and its text."""
    if not config_keys.is_true(properties.get("enable_envvars_config", "")):
        return {}
    variables = {key: config_keys.variable(key) for key in config_keys.PARSERS}
    said = {
        key: (name, environ[name]) for key, name in variables.items() if name is not None and name in environ
    }
    if not config_keys.is_true(properties.get("use_env_allowed_urls", "")):
        said.pop("allowed_urls", None)
    return said


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _substitute(value: str, environ: Mapping[str, str], faults: list[str]) -> str:
    """Replace each $$NAME$$, once: what comes in from the environment is not searched again."""

    def look_up(match: re.Match[str]) -> str:
        if match[1] not in environ:
            faults.append(f"Invalid Environment Variable {match[1]}")
        return environ.get(match[1], "")

    return _REFERENCE.sub(look_up, value)


def _parse(texts: Mapping[str, tuple[str, str]], faults: list[str]) -> Said:
    """Parse values by key; each comes with the name by which its faults are reported."""
    values: dict[str, object] = {}
    for key in sorted(texts.keys() & config_keys.PARSERS.keys()):
        name, text = texts[key]
        try:
            values[key] = config_keys.PARSERS[key](text.strip())
        except ValueError as error:
            faults.append(f"{name}: {error}")
    return msgspec.convert(values, Said)
