"""Archives on the broker's disk, kept by the sha256 of their content, and the way an archive gets there.

Blocking; `server` calls it in threads. Nothing here is remembered in memory.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import unquote

import msgspec

from torchrelay.broker.archives import fetching
from torchrelay.broker.archives.fetching import PART_PREFIX, PART_SUFFIX
from torchrelay.broker.archives.local_file import open_regular
from torchrelay.broker.models.origins import InStore, Origin, without_query
from torchrelay.broker.models.records import Prepared, PreparedWorkflow
from torchrelay.shared import errors, locks, private_files
from torchrelay.shared.archives import model_archive
from torchrelay.shared.archives.reader import ArchiveReader
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import BrokerSettings

logger = logging.getLogger(__name__)

COPY_BYTES = 4 << 20
#: Linux's request to share a file's blocks with another, which Python has no name for yet.
FICLONE = 0x40049409
#: What a broker that was killed leaves in the state folder is known by its name.
PACKING_PREFIX = "packing-"
#: Files of the model store that `all` stands for, besides folders.
STARTUP_SUFFIXES = (".mar", ".model", ".tar.gz", ".tgz")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ArchiveStore:
    """Archives by content under `folder`."""

    def __init__(
        self, folder: Path, free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
    ) -> None:
        self._folder = folder.absolute()
        self._free_bytes = free_bytes
        private_files.make_folder(folder)

    def put(self, source: Path, *, is_ours: bool = False) -> tuple[str, int]:
        """Copy an archive in, durably; return its sha256 in hex and its size.

        One that is here already is not copied again, and one of ours is moved. Raises OSError.
        """
        size = source.stat().st_size
        if is_ours or any(path.stat().st_size == size for path in self._folder.glob("*.archive")):
            sha256 = model_archive.sha256_of(source)
            if self.path_of(sha256).exists():
                return sha256, size
            if is_ours:
                with source.open("rb") as file:
                    os.fsync(file.fileno())
                source.rename(self.path_of(sha256))
                return sha256, size
        if self._free_bytes(self._folder) < size:  # a full disk would stop more than this
            reason = f"{os.strerror(errno.ENOSPC)}: {size} bytes are needed in"
            raise OSError(errno.ENOSPC, reason, str(self._folder))
        with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".part", delete=False) as part:
            try:
                sha256, size = _copy(source, part)
                os.fsync(part.fileno())
                Path(part.name).rename(self.path_of(sha256))
            finally:
                Path(part.name).unlink(missing_ok=True)  # it is there only if something failed
        return sha256, size

    def read(self, sha256: str, offset: int, length: int) -> tuple[bytes, int] | None:
        """Read part of an archive; return it and the archive's size, or None if there is no such archive."""
        try:
            with self.path_of(sha256).open("rb") as file:
                file.seek(offset)
                return file.read(length), os.fstat(file.fileno()).st_size
        except (FileNotFoundError, ValueError):
            return None

    def set_aside(self, sha256: str) -> Path:
        """Take an archive out of the store at once; return the file that is left to be deleted."""
        aside = self._folder / f"{sha256}.dropped"
        with contextlib.suppress(FileNotFoundError):
            self.path_of(sha256).rename(aside)
        return aside

    def keep_only(self, archives: set[str]) -> None:
        """Delete what no version uses: leftovers of a broker that was killed."""
        for path in self._folder.iterdir():
            if path.stem not in archives or path.suffix != ".archive":
                path.unlink()

    def path_of(self, sha256: str) -> Path:
        """Return where an archive lies. Raises ValueError for what is no hash."""
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is no sha256")
        return self._folder / f"{sha256}.archive"


def prepare(
    origin: Origin,
    store: ArchiveStore,
    settings: BrokerSettings,
    is_cancelled: Callable[[], bool] = lambda: False,
    *,
    reader: ArchiveReader,
    s3_sse_kms: bool = False,
    is_wanted_now: bool = False,
) -> Prepared:
    """Find or fetch an archive, check it, and put it into the store, or have it used where it is.

    The order of the checks and their texts are TorchServe's. Raises a CallerFault or StoreFailed.
    """
    path = _locate(origin, settings, is_cancelled, s3_sse_kms=s3_sse_kms)
    try:
        if path.is_dir() and settings.folders_in_place:
            return _use_folder(path, reader)
        if path.is_dir():
            with tempfile.TemporaryDirectory(prefix=PACKING_PREFIX, dir=settings.state_dir) as folder:
                packed = Path(folder) / f"{path.name}.mar"
                targets = [Path(target) for target in settings.link_targets]
                reader.pack_folder(_as_bounded(path, origin, settings), packed, targets)
                info = reader.inspect(packed)
                sha256, size = store.put(packed, is_ours=True)
                return _prepared(path, info, sha256, size, store.path_of(sha256), is_packed=True)
        info = reader.inspect(path)
        if settings.archives_in_place and is_wanted_now:
            return _use_file(path, info)
        try:
            sha256, size = store.put(path)
        except OSError as error:
            # Unpacking it may find room that nobody here can make: the node drops what it keeps unused.
            if not (settings.folders_in_place and is_wanted_now and error.errno in DISK_FULL):
                raise
            logger.warning("archive.not_copied", extra={"file": str(path), "reason": str(error)})
            return _use_file(path, info)
        return _prepared(path, info, sha256, size, store.path_of(sha256))
    except (errors.RelayError, OSError) as error:
        if copy := set_aside_download(origin, settings):
            copy.unlink(missing_ok=True)
        if isinstance(error, errors.CallerFault):
            raise
        details = error.details if isinstance(error, errors.RelayError) else str(error)
        raise errors.StoreFailed(f"Failed to save model: {quoted(origin.url)}", details) from error


def prepare_workflow(
    origin: Origin,
    store: ArchiveStore,
    settings: BrokerSettings,
    is_cancelled: Callable[[], bool] = lambda: False,
    *,
    reader: ArchiveReader,
    s3_sse_kms: bool = False,
) -> PreparedWorkflow:
    """Do the same for an archive of a workflow, with TorchServe's texts of those.

    Raises a CallerFault, InvalidWorkflow or StoreFailed.
    """
    settings = of_workflows(settings)
    try:
        path = _locate(origin, settings, is_cancelled, s3_sse_kms=s3_sse_kms, texts=_OF_WORKFLOWS)
    except errors.ModelNotFound as error:
        raise errors.WorkflowNotFound(error.message) from error
    if path.is_dir():
        raise errors.WorkflowNotFound(f"{_OF_WORKFLOWS.nothing_at}{quoted(origin.url)}")
    try:
        info = reader.inspect_workflow(path)
        sha256, size = store.put(path)
    except (errors.RelayError, OSError) as error:
        if copy := set_aside_download(origin, settings):
            copy.unlink(missing_ok=True)
        if isinstance(error, errors.InvalidModel):  # it takes too much to be read
            raise errors.InvalidWorkflow(error.message) from error
        if isinstance(error, errors.RelayError) and not isinstance(error, errors.StoreFailed):
            raise
        details = error.details if isinstance(error, errors.RelayError) else str(error)
        raise errors.StoreFailed(f"Failed to save workflow: {quoted(origin.url)}", details) from error
    return PreparedWorkflow(sha256, size, str(store.path_of(sha256)), info.name, info.handler, info.spec)


def of_workflows(settings: BrokerSettings) -> BrokerSettings:
    """Return the settings by which archives of workflows are found and fetched."""
    return msgspec.structs.replace(settings, model_store=settings.workflow_store or settings.model_store)


def remove_leftovers(settings: BrokerSettings) -> None:
    """Delete what a broker that was killed left half made; before anything is prepared."""
    for packing in Path(settings.state_dir).glob(f"{PACKING_PREFIX}*"):
        shutil.rmtree(packing, ignore_errors=True)
    for folder in filter(None, {settings.model_store, settings.workflow_store}):
        for part in Path(folder).glob(f"{PART_PREFIX}*{PART_SUFFIX}"):
            # Another broker may use the same store: it holds what it is still writing.
            with contextlib.suppress(OSError), part.open("rb") as file:
                if locks.try_flock(file):
                    part.unlink()


def startup_urls(settings: BrokerSettings) -> list[str]:
    """Name the archives of the model store that `all` stands for, in order of their names."""
    if settings.model_store is None:
        return []
    return sorted(
        entry.name
        for entry in Path(settings.model_store).iterdir()
        if not entry.name.startswith(".")
        and (not _is_ours(entry, settings) if entry.is_dir() else entry.name.endswith(STARTUP_SUFFIXES))
    )


def set_aside_download(origin: Origin, settings: BrokerSettings) -> Path | None:
    """Take the model store's copy of an archive that was fetched out of the way, as TorchServe does.

    At once, so that the url can be fetched anew; return the file that is left to be deleted, if any.
    """
    if settings.model_store is None or not fetching.is_remote(origin, settings):
        return None
    copy = Path(settings.model_store) / origin.name
    aside = copy.with_name(f".{copy.name}.dropped")
    with contextlib.suppress(OSError):  # it is gone already, or can't be touched
        return copy.rename(aside)
    return None


def _use_file(path: Path, info: model_archive.ArchiveInfo) -> Prepared:
    return _prepared(path, info, model_archive.sha256_of(path), path.stat().st_size, path.absolute())


def _as_bounded(folder: Path, origin: Origin, settings: BrokerSettings) -> Path:
    """Return a folder by the path that bounds its links; a link in the model store is one of them.

    What the operator has named may be reached through links, and a whole path was resolved to be found.
    """
    is_named = _is_path_named_at_start(origin, settings)
    store = Path(settings.model_store) if settings.model_store is not None else None
    return folder.resolve() if is_named or _is_in(folder, store) else folder


def _use_folder(path: Path, reader: ArchiveReader) -> Prepared:
    """Take a folder as the model itself; its workers see what is in it when they start.

    It is known by its place and what it says of itself: what handlers write there makes it no other model.
    """
    root, info = reader.inspect_folder(path)
    digest = hashlib.sha256(os.fsencode(root.absolute()))
    digest.update(msgspec.json.encode(info.manifest) + (info.config or b""))
    return _prepared(path, info, digest.hexdigest(), 0, root.absolute())


def _prepared(
    path: Path,
    info: model_archive.ArchiveInfo,
    sha256: str,
    size: int,
    place: Path,
    *,
    is_packed: bool = False,
) -> Prepared:
    manifest = info.manifest
    name = f"{path.name}.mar" if path.is_dir() else path.name
    stem = re.sub(r"\.[^.]*$", "", name) if re.search(r"\.(model|mar)", name) else name
    return Prepared(
        archive=sha256,
        archive_bytes=size,
        model_name=manifest.model_name or "",
        model_version=manifest.model_version,
        handler=manifest.handler or "",
        runtime=manifest.runtime,
        file_name=re.sub(r"\W", "_", stem, flags=re.ASCII),
        config=info.server_config,
        config_warnings=info.config_warnings,
        has_requirements=bool(manifest.requirements_file),
        path=str(place),
        is_packed=is_packed,
    )


def _copy(source: Path, target: IO[bytes]) -> tuple[str, int]:
    """Copy a file, by sharing its blocks where the disk can do that; return its sha256 and size."""
    with open_regular(source) as file:
        try:
            fcntl.ioctl(target.fileno(), FICLONE, file.fileno())
        except OSError:  # another disk, or one that can't
            digest = hashlib.sha256()
            size, whole = 0, os.fstat(file.fileno()).st_size
            # No more than it has now: one that is written to might never end.
            while data := file.read(min(COPY_BYTES, whole - size)):
                digest.update(data)
                size += len(data)
                target.write(data)
            target.flush()
            return digest.hexdigest(), size
    shared = Path(target.name)
    return model_archive.sha256_of(shared), shared.stat().st_size


class _Texts(NamedTuple):
    """What TorchServe says where there is no url, nothing at it, or no store."""

    no_url: str
    nothing_at: str
    no_store: str


_OF_MODELS = _Texts("empty url", "Model not found at: ", "Model store has not been configured.")
_OF_WORKFLOWS = _Texts(
    "Workflow not found at: ",
    "Workflow not found in workflow store: ",
    "Workflow store has not been configured.",
)


def _locate(
    origin: Origin,
    settings: BrokerSettings,
    is_cancelled: Callable[[], bool],
    *,
    s3_sse_kms: bool,
    texts: _Texts = _OF_MODELS,
) -> Path:
    url = origin.url
    if not url:
        raise errors.ModelNotFound(texts.no_url)
    if ".." in unquote(url):
        raise errors.ModelNotFound(f"Relative path is not allowed in url: {quoted(url)}")
    is_named = _is_path_named_at_start(origin, settings)
    if settings.model_store is None and not is_named:
        raise errors.ModelNotFound(texts.no_store)
    folder = Path(settings.model_store) if settings.model_store is not None else None
    if folder is not None and fetching.is_remote(origin, settings):
        try:
            return fetching.fetch(origin, folder, settings, is_cancelled, s3_sse_kms=s3_sse_kms)
        except errors.DownloadFailed as error:
            # TorchServe's answer has no place for the reason.
            logger.warning("download.failed", extra={"url": without_query(url), "reason": error.details})
            raise
    with contextlib.suppress(OSError, ValueError):  # a name that no file can have
        found = _find(origin, folder, is_named=is_named)
        if found and (is_named or not (found.is_dir() and _is_ours(found, settings))):
            return found
    raise errors.ModelNotFound(f"{texts.nothing_at}{quoted(url)}")


def _find(origin: Origin, folder: Path | None, *, is_named: bool) -> Path | None:
    """Find a file or folder. Raises OSError or ValueError for a name that nothing can have.

    Only what lies in the model store: of a path the folders are ignored, as in TorchServe, unless it is the
    whole path of a folder there, or of anything that the operator has named.
    """
    whole = Path(origin.url)
    inside = folder / origin.name if folder is not None and origin.name else None
    if inside is not None and inside.is_file():
        return inside
    if whole.is_dir() and (is_named or _is_in(whole, folder)):
        return whole
    if inside is not None and inside.is_dir():
        return inside
    return whole if is_named and whole.is_file() else None


def _is_in(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.is_absolute() and path.resolve().is_relative_to(folder.resolve())


def _is_ours(folder: Path, settings: BrokerSettings) -> bool:
    """Tell whether a folder is no model: the model store, a folder of ours, or one that has such in it."""
    named = [settings.state_dir, settings.snapshot_dir, settings.metrics_log_dir, *settings.private_folders]
    ours = [Path(name).resolve() for name in named if name]
    stores = [Path(settings.model_store).resolve()] if settings.model_store is not None else []
    real = folder.resolve()
    if any(place.is_relative_to(real) for place in (*stores, *ours)):
        return True
    # One volume may hold all: then the model store lies in a folder of ours.
    apart = [place for place in ours if not any(store.is_relative_to(place) for store in stores)]
    return any(real.is_relative_to(place) for place in apart)


def _is_path_named_at_start(origin: Origin, settings: BrokerSettings) -> bool:
    """Tell whether the operator has named this very path: it may lie anywhere."""
    url = origin.url
    named = [load.url for load in settings.load_models]
    named += [model.archive_name or "" for model in settings.snapshot or ()]
    return isinstance(origin, InStore) and "/" in url and url in named
