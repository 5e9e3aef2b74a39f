"""The server behind the `torchserve` command: TorchServe's defaults, console, log files and snapshots.

Runs in the folder where the command was given: key_file.json and logs/ are there. As in TorchServe,
registrations end with this process; a later one has those of a snapshot.
"""

import argparse
import os
import sys
from pathlib import Path

import msgspec
import typer

from torchrelay.cli.commands import options
from torchrelay.cli.faults import REPORTED, text_of
from torchrelay.cli.start import (
    checks,
    config_sources,
    early_stops,
    foreground,
    fork_server_start,
    part_settings,
    secrets_file,
)
from torchrelay.cli.start.child import LogTarget
from torchrelay.cli.start.console import say
from torchrelay.cli.start.folders import Folders, folders
from torchrelay.cli.start.part_settings import Plan
from torchrelay.cli.start.progress import ServerWatcher
from torchrelay.cli.torchserve import command
from torchrelay.gateway.grpc import listen_addresses
from torchrelay.gateway.http import addresses
from torchrelay.shared import clock, private_files
from torchrelay.shared.logs.log_file import open_to_append
from torchrelay.shared.settings import GatewaySettings, environment, is_reachable_from_outside
from torchrelay.shared.torchserve import command_line, config_parsers
from torchrelay.shared.torchserve.config_keys import ConfigValues
from torchrelay.shared.torchserve.torchserve_log import SERVER

LOG_FILES = ("access_log.log", "model_log.log", "ts_log.log")
METRICS_FILES = ("ts_metrics.log", "model_metrics.log")
#: Said where a server speaks no gRPC though nobody has said that it shall not.
WITHOUT_GRPC = (
    "gRPC is not spoken, and its ports are not opened: its packages are not installed"
    " (pip install 'torchrelay[grpc]')"
)


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    early_stops.heed()
    given = command_line.parser().parse_args([word for word in sys.argv[1:] if word != command.SERVER_NAME])
    try:
        with folders(None, None, environment(), large_in_temp=True) as made:
            _serve(given, made)
    except REPORTED as fault:
        typer.echo(text_of(fault))
        sys.exit(1)


def _serve(given: argparse.Namespace, made: Folders) -> None:
    environ = environment()
    config_file = command.find_config(given, environ)
    config = config_sources.read_config_file(config_file, environ)
    log_folder, metrics_folder = command.log_folders(environ)
    if metrics_folder == log_folder:
        log_dir = metrics_dir = _usable(log_folder, LOG_FILES + METRICS_FILES)
    else:
        log_dir, metrics_dir = _usable(log_folder, LOG_FILES), _usable(metrics_folder, METRICS_FILES)
    own = part_settings.Options(
        state_dir=str(made.state),
        cache_dir=str(made.cache),
        keep_models=False,
        credential_env_vars=("*",),  # as TorchServe does; blacklist_env_vars keeps them back
        is_state_temporary=True,
        socket_dir=made.sockets,
        defaults=_defaults(),
        insecure=True,  # TorchServe listens on any address; see `_exposed`
        any_host_outside=True,  # and its callers use any name
        key_file=str(Path(options.KEY_FILE_NAME).absolute()),
        static_keys=secrets_file.static_keys(None, environ),
        access_log=_file(log_dir, "access_log.log"),
        model_log=_file(log_dir, "model_log.log"),
        log_limits=config_sources.log_limits(environ),
        metrics_log_dir=None if metrics_dir is None else str(metrics_dir.absolute()),
        snapshot_dir=None if given.no_config_snapshots else _file(log_dir, "config"),
    )
    asked = command.command_line_values(given)
    plan = checks.plan(asked, config, own)
    ignored_options = [
        f"--{option.replace('_', '-')} has no effect: {why}"
        for option, why in command_line.WITHOUT_EFFECT.items()
        if getattr(given, option)
    ]
    for line in [
        *made.warnings,
        *([WITHOUT_GRPC] if own.defaults.enable_grpc is None is asked.enable_grpc else []),
        *ignored_options,
        *config_sources.ignored_keys(config),
        *_exposed(plan.gateway),
        *checks.misspelt_models(plan.broker),
    ]:
        log_line("WARN", line)
    log_line("INFO", _summary(plan, config_file, log_dir, metrics_dir))
    log = LogTarget(
        level="INFO", log_format="torchserve", file=_file(log_dir, "ts_log.log"), limits=own.log_limits
    )
    starting = fork_server_start.with_environment_of_workers(plan.node)
    foreground.run(plan, lambda _: log, Console(plan), starting)


def _defaults() -> ConfigValues:
    """Return what counts where nothing is said: TorchServe speaks gRPC; so do we if we can."""
    if listen_addresses.is_installed():
        return part_settings.TORCHSERVE_DEFAULTS
    return msgspec.structs.replace(part_settings.TORCHSERVE_DEFAULTS, enable_grpc=None)


class Console(ServerWatcher):
    """Writes to stdout the lines of TorchServe for which scripts wait; of models the broker logs there."""

    def __init__(self, plan: Plan) -> None:
        self._gateway = plan.gateway

    def registered(self) -> None:
        """Write the lines for which TorchServe's launcher waits."""
        gateway = self._gateway
        log_line("INFO", f"Inference API bind to: {gateway.inference_address}")
        log_line("INFO", f"Management API bind to: {gateway.management_address}")
        if gateway.enable_metrics_api:
            log_line("INFO", f"Metrics API bind to: {gateway.metrics_address}")
        for setting, address in listen_addresses.all_of(gateway).items():
            log_line("INFO", f"gRPC {setting.split('_')[1]} API bind to: {address}")
        say("Model server started.")

    def process_ended(self, line: str) -> None:
        """Write that a process has ended."""
        log_line("ERROR", line)

    def stopping(self) -> None:
        """Write that the server stops."""
        log_line("INFO", "Stopping.")


def log_line(level: str, text: str) -> None:
    """Write a line as TorchServe's main thread does."""
    say(f"{clock.local_iso(clock.wall_ms())} [{level:<5}] main {SERVER} - {text}")


def _usable(folder: Path, files: tuple[str, ...]) -> Path | None:
    """Make a folder of logs with the empty files that TorchServe makes at its start; None if that fails.

    As TorchServe's, a server that can't write logs serves all the same.
    """
    try:
        private_files.make_folder(folder)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
        for name in files:
            os.close(open_to_append(folder / name))
    except OSError as error:
        log_line("ERROR", f"No log is written to {folder}: {error.strerror}: {error.filename}")
        return None
    return folder


def _file(folder: Path | None, name: str) -> str | None:
    return None if folder is None else str(folder.absolute() / name)


def _exposed(gateway: GatewaySettings) -> list[str]:
    """Warn of addresses that `torchrelay serve` would refuse."""
    if gateway.token_authorization:
        return part_settings.plain_http_warnings(gateway)
    return [
        f"{address} can be reached from other hosts, and token authorization is disabled:"
        " anybody who can reach it can use it"
        for address in addresses.all_of(gateway).values()
        if is_reachable_from_outside(address)
    ]


def _summary(plan: Plan, config: Path | None, log_dir: Path | None, metrics_dir: Path | None) -> str:
    """Write the block of facts with which TorchServe begins its log, as far as they apply here."""
    broker, gateway, devices = plan.broker, plan.gateway, plan.node.devices
    facts = {
        "Torchserve version": command.TORCHSERVE_VERSION,
        "Current directory": Path.cwd(),
        "Temp directory": Path(broker.state_dir).parent.parent,
        "Number of GPUs": "auto" if "auto" in devices else sum(name.startswith("cuda") for name in devices),
        "Python executable": sys.executable,
        "Config file": config or "N/A",
        "Inference address": gateway.inference_address,
        "Management address": gateway.management_address,
        "Metrics address": gateway.metrics_address,
        "Model Store": Path(broker.model_store or "N/A").absolute(),
        "Workflow Store": Path(broker.workflow_store or broker.model_store or "N/A").absolute(),
        "Initial Models": config_parsers.text_of(broker.load_models) or "N/A",
        "Log dir": "N/A" if log_dir is None else log_dir.absolute(),
        "Metrics dir": "N/A" if metrics_dir is None else metrics_dir.absolute(),
        "Default workers per model": broker.default_workers_per_model or broker.startup_workers_per_model,
        "Blacklist Regex": plan.node.blacklist_env_vars or "N/A",
        "Maximum Response Size": broker.max_response_size,
        "Maximum Request Size": gateway.max_request_size,
        "Limit Maximum Image Pixels": str(broker.limit_max_image_pixels).lower(),
        "Allowed Urls": f"[{', '.join(broker.allowed_urls)}]",
        "Custom python dependency for model allowed": str(broker.install_py_dep_per_model).lower(),
        "Enable metrics API": str(gateway.enable_metrics_api).lower(),
        "Metrics mode": broker.metrics_mode.upper(),
        "Disable system metrics": str(not plan.node.system_metrics).lower(),
        "Model API enabled": str(gateway.enable_model_api).lower(),
    }
    return "\n" + "\n".join(f"{name}: {value}" for name, value in facts.items())


if __name__ == "__main__":
    main()
