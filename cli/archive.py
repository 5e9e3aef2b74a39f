"""`torchrelay archive ...`: make and check archives; needs no server."""

from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.faults import Fault, FaultReportingGroup

app = typer.Typer(cls=FaultReportingGroup, help="Make and check .mar archives.", no_args_is_help=True)


@app.command()
def create(
    target: Annotated[Path, typer.Argument(metavar="FILE.mar", help="The archive to write.")],
    model_name: Annotated[str, typer.Option(help="The model's name.")],
    handler: Annotated[str, typer.Option(help="A .py file, FILE:FUNCTION, or a default handler's name.")],
    version: Annotated[
        str, typer.Option("--version", "-v", metavar="V", help="The model's version.")
    ] = "1.0",
    serialized_file: Annotated[
        Path | None, typer.Option(help="Weights: a state dict or TorchScript.")
    ] = None,
    model_file: Annotated[Path | None, typer.Option(help="The file with the model's class.")] = None,
    extra_file: Annotated[
        list[Path] | None, typer.Option(help="More files or folders; may be repeated.")
    ] = None,
    requirements_file: Annotated[Path | None, typer.Option(help="A pip requirements file.")] = None,
    config_file: Annotated[Path | None, typer.Option(help="The model's YAML configuration.")] = None,
    runtime: Annotated[str, typer.Option(help="python, python3 or LSP.")] = "python",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the archive if it is there.")] = False,
) -> None:
    """Write an archive."""
    from shared import archive
    from shared.errors import RelayError

    try:
        archive.create(
            target,
            model_name=model_name,
            version=version,
            handler=handler,
            serialized_file=serialized_file,
            model_file=model_file,
            extra_files=tuple(extra_file or ()),
            requirements_file=requirements_file,
            config_file=config_file,
            runtime=runtime,
            force=force,
        )
    except (RelayError, OSError) as error:
        raise Fault(f"{target} was not written: {error}") from error
    typer.echo(f"{target}: {target.stat().st_size:,} bytes")


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .mar or .tar.gz.")],
    as_json: options.Json = False,
) -> None:
    """Check an archive as the server would, without running anything of it."""
    from cli import render
    from shared import archive
    from shared.errors import RelayError

    if not file.is_file():
        raise Fault(f"{file} is not there: name an archive's file")
    try:
        info = archive.inspect(file)
    except RelayError as error:
        raise Fault(f"{file} is broken: {error}; make it again with `torchrelay archive create`") from error
    if not info.entries:
        raise Fault(f"{file} is broken: {'; '.join(info.notes) or 'it is empty'}")
    render.show(info, as_json, render.archive_info)
