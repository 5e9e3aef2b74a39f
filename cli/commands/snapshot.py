"""`torchrelay snapshot`: what a server serves, as a snapshot file of TorchServe's."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchrelay.cli.commands import options
from torchrelay.cli.faults import Fault

if TYPE_CHECKING:
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
    from torchrelay.cli.remote.client import Client, Described, decode, model_path

    client = Client("management", management)
    defaults = {model.label for model in client.fleet().models if model.is_default}
    models = []
    for line in client.models():
        for version in decode(client.call("GET", model_path(line.model_name, "all")), list[Described]):
            is_default = f"{version.model_name} {version.model_version}" in defaults
            models.append(version.as_startup_model(is_default=is_default))
    return models
