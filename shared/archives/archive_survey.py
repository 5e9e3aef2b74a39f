"""What an archive or a model's folder holds: what its handlers import, what its weights need.

Nothing of it is imported or unpacked. Whoever doesn't trust an archive asks an `ArchiveReader` for this.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import msgspec

from torchrelay.shared.archives import model_archive, model_folder, pickled_names, python_facts
from torchrelay.shared.archives.archive_entries import checked_entries
from torchrelay.shared.archives.model_archive import ArchiveInfo
from torchrelay.shared.archives.python_facts import SourceFacts

#: Archives with vendored packages have thousands, which aren't their own.
SOURCES_LIMIT = 500
REQUIREMENTS_LIMIT_BYTES = 64 << 10


class ArchiveSource(msgspec.Struct, frozen=True):
    """A Python file of the archive."""

    name: str
    facts: SourceFacts


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """An archive and what its files say."""

    info: ArchiveInfo
    sources: tuple[ArchiveSource, ...] = ()
    #: Whether it has more sources than were read.
    has_more_sources: bool = False
    #: Modules and packages that handlers find in it.
    own_modules: tuple[str, ...] = ()
    #: Java's: plugins and libraries.
    jars: tuple[str, ...] = ()
    requirements: str = ""
    #: What a state dict refers to, beside tensors. TorchScript and other formats are not looked at.
    pickled: tuple[str, ...] = ()


class _File(NamedTuple):
    path: PurePosixPath
    open: Callable[[], AbstractContextManager[IO[bytes]]]


def survey(path: Path) -> Survey:
    """Read an archive or a model's folder. Raises as `inspect` and `inspect_folder` of `model_archive` do."""
    if path.is_dir():
        root, info = model_archive.inspect_folder(path)
        names = {name for name, _ in model_folder.walk(root)}
        notes = model_archive.missing_files(info.manifest, names, has_config=info.config is not None)
        return _read(msgspec.structs.replace(info, notes=notes, entries=len(names)), _files_of(root))
    info = model_archive.inspect(path)
    return _read(info, _entries_of(path)) if info.entries else Survey(info=info)


def _files_of(root: Path) -> Iterator[_File]:
    for name, file in model_folder.walk(root):
        yield _File(PurePosixPath(name), partial(_opened, file))


def _entries_of(path: Path) -> Iterator[_File]:
    for entry in checked_entries(path):
        if entry.open is not None:
            yield _File(entry.path, entry.open)


def _opened(file: Path) -> IO[bytes]:
    return file.open("rb")


def _read(info: ArchiveInfo, files: Iterator[_File]) -> Survey:
    manifest = info.manifest
    sources: list[ArchiveSource] = []
    modules: set[str] = set()
    jars: list[str] = []
    requirements, has_more = "", False
    pickled: tuple[str, ...] = ()
    for file in files:
        name = str(file.path)
        if file.path.suffix == ".py":
            modules.add(file.path.parts[0].removesuffix(".py"))
            if len(sources) < SOURCES_LIMIT:
                content = _content(file, python_facts.SOURCE_LIMIT_BYTES)
                sources.append(ArchiveSource(name, python_facts.read(content)))
            else:
                has_more = True
        elif file.path.suffix == ".jar":
            jars.append(name)
        if name == manifest.requirements_file:
            requirements = _content(file, REQUIREMENTS_LIMIT_BYTES).decode("utf-8", "replace")
        # Without a model file it is TorchScript, ONNX or a compiled model: no pickle of Python's.
        if manifest.model_file and name == manifest.serialized_file:
            with file.open() as weights:
                pickled = pickled_names.names_in(weights)
    return Survey(
        info=info,
        sources=tuple(sources),
        has_more_sources=has_more,
        own_modules=tuple(sorted(modules)),
        jars=tuple(jars[:SOURCES_LIMIT]),
        requirements=requirements,
        pickled=pickled,
    )


def _content(file: _File, limit_bytes: int) -> bytes:
    """Read a file, but one byte above the limit at most."""
    with file.open() as opened:
        return opened.read(limit_bytes + 1)
