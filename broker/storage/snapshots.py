"""Snapshot files on disk: those a start restores models from, and those written for the next. Blocking."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from torchrelay.broker.models.origins import file_of
from torchrelay.shared import clock, private_files
from torchrelay.shared.errors import StoreFailed
from torchrelay.shared.settings import BrokerSettings, StartupModel
from torchrelay.shared.torchserve import snapshot_files

logger = logging.getLogger(__name__)

_SNAPSHOT = re.compile(r"\d+-(startup|snapshot|shutdown)\.(cfg|part)", re.ASCII)


def check(settings: BrokerSettings) -> None:
    """Raise StoreFailed, in TorchServe's words, where an archive of the snapshot to restore is missing."""
    for model in settings.snapshot or ():
        name = model.archive_name or ""
        is_path = "/" in name and Path(name).exists()
        if not is_path and not (name and settings.model_store and Path(settings.model_store, name).exists()):
            raise StoreFailed(
                f"Model archive file for model :{model.name}, version :{model.version}"
                " not found in model store",
                f"{name!r} is not in {settings.model_store}",
            )


def write(settings: BrokerSettings, kind: snapshot_files.Kind, models: Iterable[StartupModel]) -> None:
    """Write a snapshot of this moment. One that can't be written is missed by nobody but its readers."""
    if settings.snapshot_dir is None:
        return
    folder = Path(settings.snapshot_dir)
    now_ms = clock.wall_ms()
    try:
        private_files.make_folder(folder)
        # TorchServe's hold keystore_pass, and every user may read them.
        private_files.tighten(folder, lambda name: _SNAPSHOT.fullmatch(name) is not None)
        # Two of one millisecond: the later one's name says a little more.
        at_ms = next(at for at in range(now_ms, now_ms + 1000) if not _path(folder, kind, at).exists())
        path = _path(folder, kind, at_ms)
        models = [_as_in_store(model, settings.model_store) for model in models]
        text = snapshot_files.render(
            models, dict(settings.snapshot_config), name=path.name, created_ms=now_ms
        )
        part = path.with_suffix(".part")
        private_files.make_file(part)
        part.write_text(text, encoding="latin-1")
        part.rename(path)
    except (OSError, StopIteration) as error:
        logger.error("snapshot.not_written", extra={"folder": str(folder), "reason": str(error)})


def _as_in_store(model: StartupModel, store: str | None) -> StartupModel:
    """Name the archive by its file in the model store, as TorchServe does, unless it lies elsewhere."""
    given = model.archive_name or ""
    name = file_of(given)
    if not name or (store is not None and "/" in given and not Path(store, name).exists()):
        return model
    return msgspec.structs.replace(model, archive_name=name)


def _path(folder: Path, kind: snapshot_files.Kind, at_ms: int) -> Path:
    return folder / snapshot_files.file_name(kind, at_ms)
