"""The `torchserve` command: TorchServe's flags, messages and pid file, over our processes.

What TorchServe's command writes to stdout, and its exit codes, are kept to the letter: scripts read them.
The server itself is `cli.torchserve.torchserve_server`, a process of its own in the background,
and this very process with --foreground.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from torchrelay.cli.commands import options
from torchrelay.cli.faults import REPORTED, Fault, text_of
from torchrelay.cli.start import checks, config_sources, console, part_settings, standard_streams
from torchrelay.cli.torchserve import pid_file
from torchrelay.shared import private_files
from torchrelay.shared.settings import environment
from torchrelay.shared.torchserve import command_line, config_properties
from torchrelay.shared.torchserve.config_keys import ConfigValues

#: The version of TorchServe that this command replaces: clients and scripts compare it.
TORCHSERVE_VERSION = "0.12.0"
#: A word of the server's command line, by which SageMaker's toolkit, for one, finds its process.
SERVER_NAME = "org.pytorch.serve.ModelServer"
#: -P: a folder called `shared` where it was started must not shadow ours.
SERVER_COMMAND = (sys.executable, "-P", "-m", "torchrelay.cli.torchserve.torchserve_server", SERVER_NAME)
#: How long TorchServe waits for the end of its server.
STOP_LIMIT_S = 60.0
#: How long a server that is being started may take to write its pid.
WRITE_LIMIT_S = 5.0
ALREADY_RUNNING = "TorchServe is already running, please use torchserve --stop to stop TorchServe."


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    standard_streams.open_missing()
    private_files.keep_own_rights()
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = command_line.parser().parse_args(words)
    try:
        if given.version:
            typer.echo(f"TorchServe Version is {TORCHSERVE_VERSION}")
        elif given.stop:
            stop(_pid_path(is_start=False), quietly=given.foreground)
        else:
            start(_pid_path(is_start=True), given, words)
    except REPORTED as fault:
        typer.echo(text_of(fault))
        sys.exit(1)


def stop(path: Path, *, quietly: bool) -> None:
    """End the server that runs, and wait for its end."""
    pid = _running_pid(path)
    if not pid:
        _remove_orphan(path)
        typer.echo("TorchServe is not currently running.")
        return
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        typer.echo("TorchServe already stopped.")
    except PermissionError as error:
        raise Fault(f"TorchServe (pid {pid}) belongs to another user.") from error
    Path(options.KEY_FILE_NAME).unlink(missing_ok=True)
    # TorchServe writes "has stopped" at once; a start right after that would find the ports taken.
    if not pid_file.wait_until_free(path, STOP_LIMIT_S):
        raise Fault("Stopping TorchServe took too long.")
    pid_file.remove(path)
    if not quietly:
        typer.echo("TorchServe has stopped.")


def start(path: Path, given: argparse.Namespace, words: Sequence[str]) -> None:
    """Start a server in the background, or in this process with --foreground."""
    if _running_pid(path) is not None:
        raise Fault(ALREADY_RUNNING)
    _remove_orphan(path)
    _check(given, environment())
    try:
        lock = pid_file.take(path)
    except pid_file.AlreadyRunning as error:
        raise Fault(ALREADY_RUNNING) from error
    except OSError as error:
        raise Fault(f"The pid file {path} can't be written: {error.strerror}") from error
    console.flush()
    if given.foreground:
        pid_file.write(lock, os.getpid())
        os.execv(SERVER_COMMAND[0], [*SERVER_COMMAND, *words])
    server = subprocess.Popen(
        [*SERVER_COMMAND, *words], stdin=subprocess.DEVNULL, pass_fds=(lock,), start_new_session=True
    )
    pid_file.write(lock, server.pid)


def log_folders(environ: Mapping[str, str]) -> tuple[Path, Path]:
    """Return the folders of TorchServe's logs, and of its metrics' logs."""
    return Path(environ.get("LOG_LOCATION") or "logs"), Path(environ.get("METRICS_LOCATION") or "logs")


def find_config(given: argparse.Namespace, environ: Mapping[str, str]) -> Path | None:
    """Find the configuration that counts: the named file, the newest snapshot, or ./config.properties."""
    snapshots = None if given.no_config_snapshots else log_folders(environ)[0] / "config"
    return config_properties.find_file(given.ts_config, environ, Path.cwd(), snapshots)


def command_line_values(given: argparse.Namespace) -> ConfigValues:
    """Read the command line's share of the settings; its two switches can only switch on."""
    return config_sources.command_line_values(
        model_store=given.model_store,
        workflow_store=given.workflow_store,
        models=given.models,
        enable_model_api=given.model_mode,
        tokens=False if given.token_auth else None,
        grpc=config_sources.grpc_flag(environment()),
        allowed_hosts=environment().get("TORCHRELAY_ALLOWED_HOSTS"),
        preload=[preload] if (preload := environment().get("TORCHRELAY_PRELOAD")) else None,
    )


def _check(given: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Refuse what TorchServe's command refuses, in its order and words, and faults of the file."""
    _require_file("--log-config", given.log_config)
    temporary = environ.get("TEMP")
    if temporary and not Path(temporary).is_dir():
        raise Fault(f"Invalid temp directory: {temporary}, please check TEMP environment variable.")
    named = config_properties.named(given.ts_config, environ)
    if named and not Path(named).is_file():
        raise Fault(f"--ts-config file not found: {named}")
    found = config_sources.read_config_file(find_config(given, environ), environ)
    store = part_settings.merge(command_line_values(given), found, ConfigValues()).model_store
    if not store:
        raise Fault("Missing mandatory parameter --model-store")
    checks.require_store(store)
    checks.require_store(given.workflow_store, "--workflow-store")
    _require_file("--cpp-log-config", given.cpp_log_config)


def _require_file(option: str, file: str | None) -> None:
    if file and not Path(file).is_file():
        raise Fault(f"{option} file not found: {Path(file).resolve()}")


def _pid_path(*, is_start: bool) -> Path:
    """Find this user's pid file, and write which it is where TorchServe's path has another user's."""
    try:
        usual = Path(tempfile.gettempdir()) / pid_file.NAME
    except FileNotFoundError as error:
        raise Fault(f"No temporary folder can be used: name one with TMPDIR ({error.strerror})") from error
    if pid_file.remove_others(usual):
        console.say("Removing orphan pid file.")
    try:
        path = pid_file.place(usual.parent)
    except OSError as error:
        raise Fault(f"The pid file {error.filename or usual} can't be read: {error.strerror}") from error
    if path != usual:
        ours = f": the pid file of this user's server is {path}" if is_start or path.exists() else ""
        console.say(f"{usual} is another user's{ours}")
        console.flush()
    return path


def _running_pid(path: Path) -> int | None:
    """Return the pid of the server, also of one that is being started; None where the file names none."""
    try:
        pid = pid_file.written_pid(path, WRITE_LIMIT_S)
        if pid is None or (pid and pid_file.is_server(pid, SERVER_NAME, WRITE_LIMIT_S)):
            return pid
        pid_file.discard(path)
    except OSError as error:
        raise Fault(f"The pid file {path} can't be read: {error.strerror}") from error
    return None


def _remove_orphan(path: Path) -> None:
    try:
        if pid_file.remove(path):
            console.say("Removing orphan pid file.")
    except OSError as error:
        raise Fault(
            f"The pid file {path}, of a server that has ended, can't be removed: {error.strerror}; "
            "remove it, or name another temporary folder with TMPDIR"
        ) from error


if __name__ == "__main__":
    main()
