"""The `torchrelay` command.

Commands import what they need when they run, so that `--help` and usage errors come at once.
"""

from typing import Annotated

import typer

from torchrelay.cli.commands import (
    archive,
    broker_key,
    gateways_command,
    keys,
    migrate,
    models,
    nodes_command,
    parts,
    ping,
    predict,
    serve,
    snapshot,
    status,
    workflows_command,
)
from torchrelay.cli.faults import FaultReportingGroup
from torchrelay.cli.start import standard_streams
from torchrelay.shared import private_files

app = typer.Typer(
    cls=FaultReportingGroup,
    help="A model server for PyTorch that takes TorchServe's archives, clients and configuration.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve.serve)
app.command()(parts.broker)
app.command()(parts.gateway)
app.command()(parts.worker)
app.command()(ping.ping)
app.command()(status.status)
app.command()(predict.predict)
app.add_typer(models.app, name="models")
app.add_typer(workflows_command.app, name="workflows")
app.add_typer(archive.app, name="archive")
app.add_typer(keys.app, name="keys")
app.add_typer(nodes_command.app, name="nodes")
app.add_typer(gateways_command.app, name="gateways")
app.add_typer(broker_key.app, name="broker-key")
app.command()(snapshot.snapshot)
app.add_typer(migrate.app, name="migrate")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"torchrelay {version('torchrelay')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take what stands before the command."""


def main() -> None:
    """Run the command."""
    standard_streams.open_missing()
    private_files.keep_own_rights()
    app()
