"""`torchrelay snapshot`: what a server serves, as a snapshot file of TorchServe's."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchrelay.cli.commands import options
from torchrelay.cli.faults import Fault

if TYPE_CHECKING:
    from torchrelay.shared.api_bodies import VersionBody
    from torchrelay.shared.settings import StartupModel


def snapshot(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where to write it. [default: stdout]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the file if it is there.")] = False,
    management: options.Management = options.DEFAULT_MANAGEMENT,
) -> None:
    """Write the models of a server, and how they are served, as a config.properties that restores them.

    Start with it by `--ts-config FILE`, here or in TorchServe; the archives must lie in the model store.
    """
    from torchrelay.shared import clock
    from torchrelay.shared.torchserve import snapshot_files as form

    name = file.name if file else "snapshot.cfg"
    text = form.render(_models(management), {}, name=name, created_ms=clock.wall_ms())
    if file is None:
        typer.echo(text, nl=False)
        return
    try:
        with file.open("w" if force else "x", encoding="latin-1") as opened:
            opened.write(text)
    except FileExistsError as error:
        raise Fault(f"{file} exists; say --force to replace it") from error
    except OSError as error:
        raise Fault(f"{file} can't be written: {error.strerror}") from error


def _models(management: str) -> "list[StartupModel]":
    from torchrelay.cli.remote.connected import connected

    with connected("management", management) as client:
        models = client.fleet().models
        defaults = {model.label for model in models if model.is_default}
        steps = {model.model_name for model in models if model.workflow}  # snapshots know no workflows
        return [
            _startup_model(version, is_default=f"{version.model_name} {version.model_version}" in defaults)
            for entry in client.models()
            if entry.model_name not in steps
            for version in client.describe(entry.model_name, "all")
        ]


def _startup_model(version: "VersionBody", *, is_default: bool) -> "StartupModel":
    from torchrelay.shared.settings import StartupModel

    return StartupModel(
        name=version.model_name,
        version=version.model_version,
        archive_name=(version.model_url or "").rstrip("/").rpartition("/")[2],
        is_default=is_default,
        min_workers=version.min_workers,
        max_workers=version.max_workers,
        batch_size=version.batch_size,
        max_batch_delay_ms=version.max_batch_delay,
        response_timeout_s=version.response_timeout,
        startup_timeout_s=version.startup_timeout,
        runtime=version.runtime,
    )
