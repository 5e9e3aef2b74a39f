"""`torchrelay migrate ...`: what of an installation runs here, and whether two servers answer alike."""

from pathlib import Path
from typing import Annotated

import typer

from torchrelay.cli.commands import options
from torchrelay.cli.faults import Fault, FaultReportingGroup

app = typer.Typer(cls=FaultReportingGroup, help="Move from TorchServe.", no_args_is_help=True)


@app.command()
def check(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Archives, model stores, config.properties, scripts, manifests, or folders of them.",
        ),
    ],
    packages: Annotated[
        bool,
        typer.Option(
            help="Whether the packages that handlers import must be installed here, as they must where"
            " workers run."
        ),
    ] = True,
    as_json: options.Json = False,
) -> None:
    """Say for each file what runs unchanged, what differs and why, and what has no effect.

    Nothing of it is imported or run. Exits with 1 if something will not run.
    """
    import shutil

    from torchrelay.cli.migrate import check_view, surroundings
    from torchrelay.cli.remote import rendering

    if not surroundings.is_installed("yaml"):
        raise Fault("archives and manifests are read with pyyaml: pip install 'torchrelay[broker]'")
    from torchrelay.cli.migrate import installation_files

    has_package = surroundings.is_installed if packages else lambda _: True
    with rendering.progress_line() as say:
        report = installation_files.check(paths, has_package, say)
    width = shutil.get_terminal_size().columns
    rendering.show(
        report, as_json, lambda found: rendering.styled_lines(check_view.lines(found, min(width, 100)))
    )
    if report.summary["fails"]:
        raise typer.Exit(1)
