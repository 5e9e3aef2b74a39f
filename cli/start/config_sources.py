"""Reads the sources of settings: command line, config.properties, environment."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer

from torchrelay.cli.faults import Fault
from torchrelay.shared import labels
from torchrelay.shared.settings import LogLimits, SettingsError, StaticKey
from torchrelay.shared.torchserve import config_keys, config_parsers, config_properties
from torchrelay.shared.torchserve.config_keys import ConfigValues
from torchrelay.shared.torchserve.config_properties import Configuration
from torchrelay.shared.wire.fields import Labels

#: What typer takes for a flag's value in the environment.
_YES, _NO = ("1", "true", "t", "yes", "y", "on"), ("0", "false", "f", "no", "n", "off")


def command_line_values(
    *,
    model_store: str | None = None,
    models: Sequence[str] | None = None,
    more_models: Sequence[str] | None = None,
    enable_model_api: bool = False,
    enable_workflows: bool = False,
    workflow_store: str | None = None,
    tokens: bool | None = None,
    static_keys: Sequence[StaticKey] = (),
    metrics_mode: str | None = None,
    inference_address: str | None = None,
    management_address: str | None = None,
    metrics_address: str | None = None,
    grpc: bool | None = None,
    grpc_inference: str | None = None,
    grpc_management: str | None = None,
    allowed_hosts: str | None = None,
    label: Sequence[str] | None = None,
    preload: Sequence[str] | None = None,
    **_others: object,
) -> ConfigValues:
    """Make values of a command's parameters, by their names, all of which `typer.Context.params` has.

    The command line can switch the APIs of models and workflows on and never off.

    `more_models` are the words that TorchServe allows after `--models A`, and that typer takes for arguments.
    With static keys callers need one, unless `tokens` says otherwise. Other than in the file an unknown
    metrics mode is refused. Raises Fault for a value that can't work.
    """
    match metrics_mode:
        case None | "prometheus" | "log" | "legacy":
            pass
        case _:
            raise typer.BadParameter(f"{metrics_mode!r} is none of prometheus, log and legacy")
    if static_keys and tokens is None:
        tokens = True
    if more_models and not models:
        raise typer.BadParameter(f"{more_models[0]!r} is no option; models are named after --models")
    named = [*(models or []), *(more_models or [])]
    try:
        return ConfigValues(
            model_store=model_store,
            load_models=config_parsers.parse_load_models(",".join(named)) if named else None,
            enable_model_api=enable_model_api or None,
            enable_workflow_api=enable_workflows or None,
            workflow_store=workflow_store,
            disable_token_authorization=None if tokens is None else not tokens,
            metrics_mode=metrics_mode,
            inference_address=_address(inference_address),
            management_address=_address(management_address),
            metrics_address=_address(metrics_address),
            enable_grpc=grpc,
            **_grpc_listener("inference", grpc_inference),
            **_grpc_listener("management", grpc_management),
            allowed_hosts=None if allowed_hosts is None else config_parsers.parse_hosts(allowed_hosts),
            node_labels=node_labels(label),
            preload=preloaded(preload),
        )
    except ValueError as error:
        raise Fault(str(error)) from error


def node_labels(texts: Sequence[str] | None) -> Labels | None:
    """Read the options `--label`; None where there is none. Raises Fault for what is no label."""
    try:
        return labels.parse(texts) if texts else None
    except ValueError as error:
        raise Fault(f"--label: {error}") from error


def preloaded(texts: Sequence[str] | None) -> tuple[str, ...] | None:
    """Read the options `--preload`; None where there is none. Raises Fault for what is no module's name."""
    try:
        return config_parsers.parse_modules(",".join(texts)) if texts else None
    except ValueError as error:
        raise Fault(f"--preload: {error}") from error


def _grpc_listener(api: str, text: str | None) -> dict[str, Any]:  # Any: values of two types
    """Read HOST:PORT into the values of the two keys that TorchServe has for it."""
    if text is None:
        return {}
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 1 << 16:
        raise ValueError(f"--grpc-{api} {text}: write HOST:PORT")
    return {f"grpc_{api}_address": host, f"grpc_{api}_port": int(port)}


def grpc_flag(environ: Mapping[str, str]) -> bool | None:
    """Read TORCHRELAY_GRPC as the option `--grpc` does; None where it isn't set. Raises Fault for no flag."""
    text = environ.get("TORCHRELAY_GRPC", "").strip().lower()
    if text in ("", *_YES, *_NO):
        return text in _YES if text else None
    raise Fault(f"TORCHRELAY_GRPC={text} is neither yes nor no")


def _address(text: str | None) -> str | None:
    return None if text is None else config_parsers.parse_address(text)


def read_config(option: str | None, environ: Mapping[str, str]) -> Configuration:
    """Read the config.properties that counts, if there is one; `option` is --ts-config. Raises Fault."""
    return read_config_file(config_properties.find_file(option, environ, Path.cwd()), environ)


def read_config_file(path: Path | None, environ: Mapping[str, str]) -> Configuration:
    """Read this config.properties or snapshot; for None, the environment alone. Raises Fault.

    A snapshot has no secrets: they are taken from the file with which its server was started.
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


def ignored_keys(config: Configuration) -> list[str]:
    """Say for each key without an effect why it has none."""
    return [f"{key} in config.properties has no effect: {why}" for key, why in config.without_effect.items()]


def log_limits(environ: Mapping[str, str]) -> LogLimits:
    """Read TORCHRELAY_LOG_FILE_MB and TORCHRELAY_LOG_FILES. Raises Fault for what is no number."""
    default = LogLimits()
    megabytes = _whole_number("TORCHRELAY_LOG_FILE_MB", default.file_bytes >> 20, environ)
    return LogLimits(megabytes << 20, _whole_number("TORCHRELAY_LOG_FILES", default.files, environ))


def _whole_number(name: str, default: int, environ: Mapping[str, str]) -> int:
    text = environ.get(name, "").strip() or str(default)
    if not re.fullmatch("[0-9]{1,9}", text):
        raise Fault(f"{name}={text} is no whole number from 0 on")
    return int(text)
