"""Which archives may be deleted: those that no version uses, once no registration may need them. Pure."""

from torchrelay.broker.core.effects import DropArchive
from torchrelay.broker.models.origins import parse
from torchrelay.broker.models.running_changes import RunningChanges
from torchrelay.broker.models.steps import Preparing, Registering


def add(running: RunningChanges, archive: str, url: str) -> None:
    """Note an archive that a version used, or might have used."""
    running.let_go[archive, url] = None


def drop(running: RunningChanges) -> None:
    """Have those deleted that are unused, unless a registration that is on its way may need them."""
    if not running.let_go or any(running.of_kind(Preparing)) or any(running.of_kind(Registering)):
        return
    let_go, running.let_go = running.let_go, {}
    for archive, url in let_go:
        is_used = running.catalog.is_archive_used(archive)
        is_url_used = any(record.url == url for record in running.catalog)
        if not (is_used and is_url_used):
            running.emit(DropArchive("" if is_used else archive, None if is_url_used else parse(url)))
