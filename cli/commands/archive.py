"""`torchrelay archive ...`: make and check archives; needs no server."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from torchrelay.cli.commands import options
from torchrelay.cli.faults import Fault, FaultReportingGroup

app = typer.Typer(cls=FaultReportingGroup, help="Make and check archives.", no_args_is_help=True)

ExtraFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--extra-files",
        "--extra-file",
        help="More files or folders, by commas, with * and ?; repeatable.",
    ),
]
ExportPath = Annotated[Path, typer.Option(metavar="DIR", help="Where it is written.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace the archive if it is there.")]


@app.command()
def create(
    model_name: Annotated[str, typer.Option(help="The model's name.")],
    handler: Annotated[str, typer.Option(help="A .py file, FILE:FUNCTION, or a default handler's name.")],
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="The archive to write. [default: by its name, in --export-path]"
        ),
    ] = None,
    version: Annotated[
        str, typer.Option("--version", "-v", metavar="V", help="The model's version.")
    ] = "1.0",
    serialized_file: Annotated[
        Path | None, typer.Option(help="Weights: a state dict or TorchScript.")
    ] = None,
    model_file: Annotated[Path | None, typer.Option(help="The file with the model's class.")] = None,
    extra_files: ExtraFiles = None,
    requirements_file: Annotated[
        Path | None, typer.Option("--requirements-file", "-r", help="A pip requirements file.")
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config-file", "-c", help="The model's YAML configuration.")
    ] = None,
    runtime: Annotated[str, typer.Option(help="python, python3 or LSP.")] = "python",
    export_path: ExportPath = Path("."),
    archive_format: Annotated[
        str, typer.Option(metavar="FORMAT", help="default or zip-store (.mar), tgz (.tar.gz), or no-archive.")
    ] = "default",
    force: Force = False,
) -> None:
    """Write an archive; takes torch-model-archiver's options."""
    from torchrelay.shared.archives import model_archive
    from torchrelay.shared.errors import RelayError

    place = target or export_path / (model_name + model_archive.FORMATS.get(archive_format, ""))
    try:
        model_archive.create(
            place,
            model_name=model_name,
            version=version,
            handler=handler,
            serialized_file=serialized_file,
            model_file=model_file,
            extra_files=_expand(extra_files or []),
            requirements_file=requirements_file,
            config_file=config_file,
            runtime=runtime,
            archive_format=archive_format,
            force=force,
        )
    except (RelayError, OSError) as error:
        raise Fault(f"{place} was not written: {error}") from error
    size = "" if place.is_dir() else f": {place.stat().st_size:,} bytes"
    typer.echo(f"{place}{size}")


@app.command()
def workflow(
    workflow_name: Annotated[str, typer.Option(help="The workflow's name.")],
    spec_file: Annotated[
        Path, typer.Option(help="The YAML file with its models, and which step follows which.")
    ],
    handler: Annotated[Path | None, typer.Option(help="The .py file with its functions.")] = None,
    extra_files: ExtraFiles = None,
    export_path: ExportPath = Path("."),
    force: Force = False,
) -> None:
    """Write a workflow's archive; takes torch-workflow-archiver's options."""
    from torchrelay.shared.archives import workflow_archive
    from torchrelay.shared.errors import RelayError

    place = export_path / f"{workflow_name}.war"
    try:
        workflow_archive.create(
            place,
            workflow_name=workflow_name,
            spec_file=spec_file,
            handler=handler,
            extra_files=_expand(extra_files or []),
            force=force,
        )
    except (RelayError, OSError) as error:
        raise Fault(f"{place} was not written: {error}") from error
    typer.echo(f"{place}: {place.stat().st_size:,} bytes")


def _expand(given: list[str]) -> tuple[Path, ...]:
    """Find the files that comma lists of names and patterns stand for."""
    import glob

    files: list[Path] = []
    for pattern in (part.strip() for text in given for part in text.split(",")):
        if pattern:
            found = sorted(glob.glob(pattern))
            # A name may hold a [ or * of its own.
            files += [Path(name) for name in found] or [Path(pattern)]
    return tuple(files)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .mar, .tar.gz or .war.")],
    as_json: options.Json = False,
) -> None:
    """Check an archive as the server would, without running anything of it."""
    from torchrelay.cli.remote import rendering
    from torchrelay.shared.archives.reader import ArchiveReader
    from torchrelay.shared.errors import RelayError

    if not file.is_file():
        raise Fault(f"{file} is not there: name an archive's file")
    try:
        with closing(ArchiveReader()) as reader:
            if file.suffix == ".war":
                rendering.show(reader.inspect_workflow(file), as_json, rendering.workflow_info)
                return
            info = reader.inspect(file)
    except RelayError as error:
        raise Fault(f"{file} is broken: {error}; make it again with `torchrelay archive create`") from error
    if not info.entries:
        raise Fault(f"{file} is broken: {'; '.join(info.notes) or 'it is empty'}")
    rendering.show(info, as_json, rendering.archive_info)
