"""Model archives: read what they say of themselves, unpack them safely, make them.

An archive is TorchServe's: a zip (`.mar`) or a gzipped tar whose first path component is dropped; its
content tells which, not its name. A folder becomes a zip before anything else. Archives are not trusted: no
entry is written before `archive_entries` has checked it.
"""

import errno
import gzip
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import msgspec

from torchrelay.shared import clock, private_files
from torchrelay.shared.archives import archive_entries, model_config
from torchrelay.shared.archives.archive_entries import BROKEN, COPY_BYTES, checked_entries
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.archives.model_folder import Bounds, inner_folder, walk
from torchrelay.shared.errors import InvalidModel, StoreFailed
from torchrelay.shared.quoting import quoted

MANIFEST_NAME = "MAR-INF/MANIFEST.json"
#: Handlers that come with the server; an archive names them without bringing a file.
DEFAULT_HANDLERS = frozenset(
    (
        "base_handler",
        "text_classifier",
        "image_classifier",
        "object_detector",
        "image_segmenter",
        "dali_image_classifier",
        "vllm_handler",
        "trt_llm_handler",
    )
)
RUNTIMES = ("python", "python3", "LSP")
#: Forms of an archive, by torch-model-archiver's names, and what a file of each is called.
FORMATS = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}
#: Manifests have some hundred bytes.
MANIFEST_LIMIT_BYTES = 1 << 20
#: What it says are names, and names of files.
TEXT_LIMIT_CHARS = 4096
#: Files above this are weights as a rule, and are stored: deflating them takes long and gains little.
DEFLATE_LIMIT_BYTES = 16 << 20
ARCHIVER_VERSION = "0.12.0"

ARCHIVE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")
#: Entries carry no date of their own, so that equal content gives equal archives.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive says of itself; `raw` is the file as it stands, None where there is none."""

    raw: dict[str, object] | None = None
    runtime: str = "python"
    model_name: str | None = None
    model_version: str = "1.0"
    handler: str | None = None
    serialized_file: str | None = None
    model_file: str | None = None
    requirements_file: str | None = None
    config_file: str | None = None


class ArchiveInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An archive as it would unpack; `notes` are faults that only show when a worker starts."""

    manifest: Manifest
    entries: int = 0
    total_bytes: int = 0
    notes: tuple[str, ...] = ()
    #: The content of the manifest's configFile; None where there is none.
    config: bytes | None = None
    #: What it asks of the server, and a line for each fault in it.
    server_config: ModelConfig | None = None
    config_warnings: tuple[str, ...] = ()


def inspect(path: Path) -> ArchiveInfo:
    """Read an archive's manifest and check every entry, without unpacking anything.

    A file called `.mar` that can't be unzipped counts as an archive without content, as in TorchServe.
    Raises InvalidModel for an unsafe archive or an unreadable manifest, StoreFailed for any other file
    that is no archive.
    """
    raw: bytes | None = None
    names: set[str] = set()
    entries = total = 0
    notes: list[str] = []
    try:
        for entry in checked_entries(path):
            entries += 1
            total += entry.size
            names.add(str(entry.path))
            if str(entry.path) == MANIFEST_NAME and entry.open is not None:
                with entry.open() as file:
                    raw = file.read(MANIFEST_LIMIT_BYTES + 1)
    except (*BROKEN, OSError) as error:
        unreadable = isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile)
        if unreadable or path.suffix != ".mar":
            raise StoreFailed(f"Failed to save model: {path.name}", one_line(error)) from error
        return ArchiveInfo(manifest=Manifest(), notes=(f"no readable archive: {one_line(error)}",))
    manifest = Manifest() if raw is None else parse_manifest(raw)
    if raw is None:
        notes.append(f"no {MANIFEST_NAME}")
    config = _read_config(path, manifest.config_file, names) if manifest.config_file else None
    notes += missing_files(manifest, names, has_config=config is not None)
    info = _info(manifest, config)
    return msgspec.structs.replace(info, entries=entries, total_bytes=total, notes=tuple(notes))


def inspect_folder(folder: Path, *, is_inner_meant: bool = True) -> tuple[Path, ArchiveInfo]:
    """Read what an unpacked archive says of itself; return the folder that is meant, too.

    A folder that holds one folder and nothing else stands for that one, as in TorchServe, unless told
    otherwise. Raises InvalidModel for an unreadable manifest, StoreFailed for a folder that can't be read.
    """
    try:
        root = inner_folder(folder) if is_inner_meant else folder
        raw = _read_file(root / MANIFEST_NAME, MANIFEST_LIMIT_BYTES)
        manifest = Manifest() if raw is None else parse_manifest(raw)
        name = archive_entries.safe_path(manifest.config_file or "")
        config = _read_file(root / name, model_config.SIZE_LIMIT_BYTES) if name.parts else None
    except OSError as error:
        raise StoreFailed(f"Failed to save model: {folder.name}", one_line(error)) from error
    return root, _info(manifest, config)


def extract(path: Path, into: Path) -> None:
    """Unpack an archive into the folder `into`, which is made; nothing is written outside of it.

    Raises as `inspect` does, and StoreFailed where the disk fails.
    A failure may leave `into` half full.
    """
    try:
        private_files.make_folder(into)
        for entry in checked_entries(path):
            target = into.joinpath(*entry.path.parts)
            if entry.open is None:
                private_files.make_folder(target)
                continue
            private_files.make_folder(target.parent)
            with entry.open() as source, open(target, "wb", opener=private_files.opener) as sink:
                shutil.copyfileobj(source, sink, COPY_BYTES)
            if entry.is_executable:
                target.chmod(target.stat().st_mode | stat.S_IXUSR)
    except (*BROKEN, OSError) as error:
        raise StoreFailed(f"Failed to save model: {path.name}", one_line(error)) from error


def unpacked_bytes(path: Path) -> int:
    """Return what an archive's files come to, as far as it can be told without unpacking it."""
    try:
        with zipfile.ZipFile(path) as file:
            return sum(info.file_size for info in file.infolist())
    except BROKEN:
        return path.stat().st_size


def sha256_of(path: Path) -> str:
    """Hash a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_manifest(raw: bytes) -> Manifest:
    """Read a MANIFEST.json; unknown keys stay in `raw` alone. Raises InvalidModel with TorchServe's text."""
    try:
        if len(raw) > MANIFEST_LIMIT_BYTES:
            raise ValueError(f"above {MANIFEST_LIMIT_BYTES} bytes")
        content = _object(json.loads(raw))
        msgspec.json.encode(content)  # what can't be written again could be neither stored nor sent
        model = _object(content.get("model") or {})
        runtime = content.get("runtime", "python")
        known = {
            "model_name": _text(model, "modelName"),
            "handler": _text(model, "handler"),
            "serialized_file": _text(model, "serializedFile"),
            "model_file": _text(model, "modelFile"),
            "requirements_file": _text(model, "requirementsFile"),
            "config_file": _text(model, "configFile"),
        }
        version = _text(model, "modelVersion") or "1.0"
    except (ValueError, OverflowError, RecursionError) as error:
        raise InvalidModel("Failed to parse signature.json.", one_line(error)) from error
    if runtime not in RUNTIMES:
        raise InvalidModel(
            "Runtime is not defined or invalid.", f"runtime {quoted(runtime)!r}, not one of {RUNTIMES}"
        )
    return Manifest(raw=content, runtime=str(runtime), model_version=version, **known)


def create(
    target: Path,
    *,
    model_name: str,
    version: str,
    handler: str,
    serialized_file: Path | None = None,
    model_file: Path | None = None,
    extra_files: Sequence[Path] = (),
    requirements_file: Path | None = None,
    config_file: Path | None = None,
    runtime: str = "python",
    archive_format: str = "default",
    force: bool = False,
) -> None:
    """Write an archive with its manifest; folders among `extra_files` are added by content.

    `handler` is a file, `file:function`, or one of DEFAULT_HANDLERS; `archive_format` one of FORMATS. Raises
    InvalidModel for what can't become an archive, and where `target` exists unless `force` is given.
    """
    if archive_format not in FORMATS:
        raise InvalidModel(f"Archive format {archive_format!r} is not one of {', '.join(FORMATS)}.")
    if not ARCHIVE_NAME.fullmatch(model_name):
        raise InvalidModel(f"Model name {model_name!r} may have only letters, digits, '_', '-' and '.'.")
    if runtime not in RUNTIMES:
        raise InvalidModel(f"Runtime {runtime!r} is not one of {', '.join(RUNTIMES)}.")
    handler_file, handler_entry = _handler_source(handler)
    named = {
        "serializedFile": serialized_file,
        "modelFile": model_file,
        "requirementsFile": requirements_file,
        "configFile": config_file,
    }
    model = {"modelName": model_name, "handler": handler_entry, "modelVersion": version}
    model |= {key: file.name for key, file in named.items() if file is not None}
    manifest = {
        "createdOn": datetime.fromtimestamp(clock.wall_ms() / 1000, UTC).strftime("%d/%m/%Y %H:%M:%S"),
        "runtime": runtime,
        "model": model,
        "archiverVersion": ARCHIVER_VERSION,
    }
    files = [file for file in (handler_file, *named.values()) if file is not None]
    sources = sources_of([*files, *extra_files])
    content = json.dumps(manifest, indent=2).encode()
    if archive_format == "tgz":
        _write_tar(target, content, sources, model_name, force=force)
    elif archive_format == "no-archive":
        _write_folder(target, content, sources, force=force)
    else:
        is_stored = archive_format == "zip-store"
        _write_zip(target, content, sources, force=force, is_stored=is_stored)


def pack_folder(folder: Path, target: Path, link_targets: Sequence[Path] = ()) -> None:
    """Write an unpacked archive back into a `.mar`, so that it can be stored and sent as one file.

    A folder that holds one folder and nothing else stands for that one, as in TorchServe. Folders without
    content are packed too, and links by what they lead to, which must lie in the folder or in `link_targets`.
    """
    bounds = Bounds(folder, link_targets)
    root = inner_folder(folder)
    sources = dict(itertools.islice(walk(root, bounds, with_empty=True), archive_entries.ENTRY_LIMIT + 1))
    if len(sources) > archive_entries.ENTRY_LIMIT:
        raise InvalidModel(f"The folder has more than {archive_entries.ENTRY_LIMIT} files and folders.")
    size = sum(path.stat().st_size for path in sources.values())
    if shutil.disk_usage(target.parent).free < size:
        # The room is needed for as long as it is packed, and links may multiply what a folder holds.
        reason = f"{os.strerror(errno.ENOSPC)}: up to {size} bytes are needed in"
        raise OSError(errno.ENOSPC, reason, str(target.parent))
    manifest = sources.pop(MANIFEST_NAME, None)
    content = None
    if manifest is not None:
        with bounds.open(manifest) as file:
            content = file.read(MANIFEST_LIMIT_BYTES + 1)
    _write_zip(target, content, sources, force=True, bounds=bounds)


def _info(manifest: Manifest, config: bytes | None) -> ArchiveInfo:
    found, warnings = (None, ()) if config is None else model_config.parse(config)
    return ArchiveInfo(manifest=manifest, config=config, server_config=found, config_warnings=warnings)


def _read_file(path: Path, limit_bytes: int) -> bytes | None:
    """Read a file, but one byte above the limit at most, which is refused as too large; None without one."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(limit_bytes + 1)


def _read_config(path: Path, name: str, names: set[str]) -> bytes | None:
    """Read one file of an archive that was checked; a tar shows only now which one was meant."""
    wanted = str(PurePosixPath(name))
    if wanted not in names:
        return None
    for entry in checked_entries(path):
        if str(entry.path) == wanted and entry.open is not None:
            with entry.open() as file:
                return file.read(model_config.SIZE_LIMIT_BYTES + 1)  # one more, which is refused as too large
    return None


def missing_files(manifest: Manifest, names: set[str], *, has_config: bool) -> tuple[str, ...]:
    """Say which files a manifest names that aren't there, and without which no worker loads."""
    missing = _missing_handler(manifest.handler, names)
    notes = [f"the handler's file {quoted(missing)} is not in the archive"] if missing else []
    if manifest.config_file and not has_config:
        notes.append(f"the model config {quoted(manifest.config_file)} is not in the archive")
    return tuple(notes)


def _missing_handler(handler: str | None, names: set[str]) -> str | None:
    """Return the file that a handler needs and the archive lacks; None for a handler of our own."""
    if not handler:
        return None
    module = handler_module(handler)
    if module in DEFAULT_HANDLERS or f"{module}.py" in names or f"{module}/__init__.py" in names:
        return None
    return f"{module}.py"


def handler_module(handler: str) -> str:
    """Return the module of a handler entry: `X` of `dir/X.py`, `X` and `X:function`."""
    name = PurePosixPath(handler.partition(":")[0]).name
    return name.removesuffix(".py")


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    return value


def _text(fields: dict[str, object], key: str) -> str | None:
    """Return a text; numbers pass as text, since TorchServe reads `"modelVersion": 1.0` so."""
    value = fields.get(key)
    if isinstance(value, str) and len(value) > TEXT_LIMIT_CHARS:
        raise ValueError(f"{key} has more than {TEXT_LIMIT_CHARS} characters")
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{key} is neither text nor a number")


def _handler_source(handler: str) -> tuple[Path | None, str]:
    """Return the file to pack, if any, and the manifest's entry."""
    file, colon, function = handler.partition(":")
    if file in DEFAULT_HANDLERS and not colon:
        return None, handler
    path = Path(file if file.endswith(".py") else f"{file}.py")
    if not path.is_file():
        raise InvalidModel(
            f"There is no handler file {path}; the handlers that need none are "
            f"{', '.join(sorted(DEFAULT_HANDLERS))}."
        )
    return path, f"{path.stem}:{function}" if colon else path.name


def sources_of(files: Sequence[Path]) -> dict[str, Path]:
    """Return archive name -> file. Raises InvalidModel for missing files and for two of one name."""
    sources: dict[str, Path] = {}
    for given in files:
        if not given.exists():
            raise InvalidModel(f"There is no file {given}.")
        for name, file in walk(given) if given.is_dir() else [(given.name, given)]:
            if sources.setdefault(name, file).resolve() != file.resolve():
                raise InvalidModel(f"Both {sources[name]} and {file} would be {name} in the archive.")
    return sources


@contextmanager
def replacing(target: Path, *, force: bool) -> Iterator[Path]:
    """Give out a path beside a file's place and move what is there then, so that no half is ever seen."""
    if target.exists() and not (force and target.is_file()):
        raise InvalidModel(f"{target} exists; it is replaced only when forced, and no folder ever is.")
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(target.name + ".part")
    try:
        yield half
        half.replace(target)
    finally:
        half.unlink(missing_ok=True)


def _write_zip(
    target: Path,
    manifest: bytes | None,
    sources: dict[str, Path],
    *,
    force: bool,
    is_stored: bool = False,
    bounds: Bounds | None = None,
) -> None:
    with replacing(target, force=force) as half, zipfile.ZipFile(half, "w") as file:
        if manifest is not None:
            file.writestr(zipfile.ZipInfo(MANIFEST_NAME, ZIP_DATE), manifest, zipfile.ZIP_DEFLATED)
        for name in sorted(sources):
            _add(file, name, sources[name], bounds, is_stored=is_stored)


def _write_tar(target: Path, manifest: bytes, sources: dict[str, Path], top: str, *, force: bool) -> None:
    """Write a gzipped tar whose entries lie below one folder, which readers drop."""
    with replacing(target, force=force) as half, tarfile.open(half, "w:gz") as file:
        entry = tarfile.TarInfo(f"{top}/{MANIFEST_NAME}")
        entry.size = len(manifest)
        file.addfile(entry, io.BytesIO(manifest))
        for name in sorted(sources):
            file.add(sources[name].resolve(), f"{top}/{name}", filter=_without_owner)


def _without_owner(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def _write_folder(target: Path, manifest: bytes, sources: dict[str, Path], *, force: bool) -> None:
    """Lay an archive's content out as a folder; what lay there goes only if it was a model's folder, too."""
    if target.exists():
        if not (force and (target / MANIFEST_NAME).is_file()):
            raise InvalidModel(f"{target} exists; only a model's folder is replaced, and only when forced.")
        shutil.rmtree(target)
    for name, source in sources.items():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)  # with its mode: it may be a program
    (target / MANIFEST_NAME).parent.mkdir(parents=True, exist_ok=True)
    (target / MANIFEST_NAME).write_bytes(manifest)


def _add(archive: zipfile.ZipFile, name: str, path: Path, bounds: Bounds | None, *, is_stored: bool) -> None:
    info = zipfile.ZipInfo(name, ZIP_DATE)
    if name.endswith("/"):
        info.external_attr = (stat.S_IFDIR | 0o755) << 16
        archive.writestr(info, b"")
        return
    with bounds.open(path) if bounds else path.open("rb") as source:
        facts = os.fstat(source.fileno())
        info.external_attr = (stat.S_IFREG | (0o755 if facts.st_mode & stat.S_IXUSR else 0o644)) << 16
        info.file_size = facts.st_size
        small = info.file_size <= DEFLATE_LIMIT_BYTES and not is_stored
        info.compress_type = zipfile.ZIP_DEFLATED if small else zipfile.ZIP_STORED
        with archive.open(info, "w") as sink:
            shutil.copyfileobj(source, sink, COPY_BYTES)


def one_line(error: BaseException) -> str:
    """Write an error in one line, with its kind."""
    return quoted(f"{type(error).__name__}: {' '.join(str(error).split())}")
