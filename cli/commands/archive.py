"""`torchrelay archive ...`: make and check archives; needs no server."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from torchrelay.cli.commands import options
from torchrelay.cli.faults import Fault, FaultReportingGroup

app = typer.Typer(cls=FaultReportingGroup, help="Make and check archives.", no_args_is_help=True)


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
    extra_files: Annotated[
        list[str] | None,
        typer.Option(
            "--extra-files",
            "--extra-file",
            help="More files or folders, by commas, with * and ?; repeatable.",
        ),
    ] = None,
    requirements_file: Annotated[
        Path | None, typer.Option("--requirements-file", "-r", help="A pip requirements file.")
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config-file", "-c", help="The model's YAML configuration.")
    ] = None,
    runtime: Annotated[str, typer.Option(help="python, python3 or LSP.")] = "python",
    export_path: Annotated[Path, typer.Option(metavar="DIR", help="Where it is written.")] = Path("."),
    archive_format: Annotated[
        str, typer.Option(metavar="FORMAT", help="default or zip-store (.mar), tgz (.tar.gz), or no-archive.")
    ] = "default",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the archive if it is there.")] = False,
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
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .mar or .tar.gz.")],
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
            info = reader.inspect(file)
    except RelayError as error:
        raise Fault(f"{file} is broken: {error}; make it again with `torchrelay archive create`") from error
    if not info.entries:
        raise Fault(f"{file} is broken: {'; '.join(info.notes) or 'it is empty'}")
    rendering.show(info, as_json, rendering.archive_info)
