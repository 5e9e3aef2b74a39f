"""Unpacked copies of archives: each is one registration's on one node, and begins as the archive was made.

`models/<sha256>.<random>/` is a copy: `model` in it is the handlers' model_dir, `made.json` lists all that
was unpacked, and the node that uses the copy holds a lock on `lock`. A copy that no node uses is used again
if no file of it was changed; added files are removed before. A changed file has another size, mode or time:
nobody can set its ctime, not even root. Copies share no files by links, with which a handler that writes into
a file would change it for others.
"""

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from torchrelay.shared import ids, private_files
from torchrelay.shared.archives.reader import ArchiveReader
from torchrelay.shared.locks import hold

FOLDER, LISTING, LOCK = "model", "made.json", "lock"
#: A copy in the making is called so until it is whole.
_MAKING = "making."
#: Copies that go when their node stops have this in their name.
_OF_A_RUN = "run-"
#: Folders of what is on its way out begin with this.
DROPPED = "dropped."

#: Mode, size, and times of modification and change (ns); of a folder, the mode alone.
Facts = tuple[int, int, int, int]


class UnpackedCopy:
    """A copy that this process uses."""

    def __init__(self, holder: Path, lock: IO[bytes]) -> None:
        self.holder = holder
        self._lock = lock

    @property
    def folder(self) -> Path:
        """The model_dir."""
        return self.holder / FOLDER

    def release(self) -> None:
        """Let other nodes use or drop the copy; the time of its folder becomes now."""
        with suppress(OSError):  # whatever has become of the disk meanwhile
            os.utime(self.holder)
        self._lock.close()

    def take_again(self) -> bool:
        """Lock the copy again as it was left; return whether no other node took it meanwhile."""
        if taken := _take(self.holder):
            self._lock = taken._lock
        return taken is not None

    def restore(self) -> bool:
        """Undo what was added to the copy; return whether it is again as the archive was made."""
        folder = self.folder
        try:
            listing = json.loads((self.holder / LISTING).read_text())
            made = {name: tuple(facts) for name, facts in listing.items()}
            found = dict(_scan(folder))
        except (OSError, ValueError, RecursionError):
            return False
        if any(found.get(name) != facts for name, facts in made.items()):
            return False
        try:
            for name in found.keys() - made.keys():
                if os.path.dirname(name) in made or os.path.dirname(name) == "":
                    path = folder / name
                    shutil.rmtree(path) if stat.S_ISDIR(found[name][0]) else path.unlink()
        except OSError:
            return False
        return True

    def drop(self) -> None:
        """Remove the copy from the disk."""
        drop(self.holder)
        self._lock.close()


class UnpackedCopies:
    """The copies below a cache's folder; all of it blocks."""

    def __init__(self, root: Path, reader: ArchiveReader, *, is_kept: bool) -> None:
        """Use the copies below `root`; unless `is_kept`, each is made anew and removed after its use."""
        self.reader = reader
        self._models = root / "models"
        self._is_kept = is_kept
        private_files.make_folder(self._models)

    def claim(self, name: str) -> UnpackedCopy | None:
        """Take a copy of an archive that nobody uses, as it was made; None if there is none."""
        if not self._is_kept:
            return None
        for holder in sorted(self._models.glob(f"{name}.*"), key=_modified_at, reverse=True):
            if copy := _take(holder):
                if copy.restore():
                    # By a new name: the node that released it, and may want it again, sees that it is taken.
                    return self._name(copy, name)
                copy.drop()
        return None

    def make(self, name: str, source: Path, called: str) -> UnpackedCopy:
        """Unpack an archive. Raises as `ArchiveReader.extract` does; then nothing is left."""
        copy = self._new_copy()
        is_whole = False
        try:
            self.reader.extract(source, copy.folder, called=called)
            with open(copy.holder / LISTING, "w", opener=private_files.opener) as listing:
                listing.write(json.dumps(dict(_scan(copy.folder))))
            is_whole = True
        finally:
            if not is_whole:
                copy.drop()
        return self._name(copy, name)

    def drop_left(self) -> None:
        """Remove the copies of killed nodes that kept none."""
        for holder in self._models.glob(f"*.{_OF_A_RUN}*"):
            if copy := _take(holder):
                copy.drop()

    def _new_copy(self) -> UnpackedCopy:
        while True:
            private_files.make_folder(self._models)
            holder = Path(tempfile.mkdtemp(prefix=_MAKING, dir=self._models))
            if copy := _take(holder):  # eviction may have found it without a lock
                return copy

    def _name(self, copy: UnpackedCopy, name: str) -> UnpackedCopy:
        run = "" if self._is_kept else _OF_A_RUN
        copy.holder = copy.holder.rename(self._models / f"{name}.{run}{ids.folder_suffix()}")
        return copy


def drop(path: Path) -> None:
    """Remove a file or folder below a folder of the cache, unless it is gone."""
    with suppress(FileNotFoundError):
        remove(set_aside(path))


def set_aside(path: Path) -> Path:
    """Rename an entry of a folder of the cache at once, and return the new path, which is to be removed.

    No folder is made for it, since the disk may be full. Raises FileNotFoundError.
    """
    aside = path.parent.parent / f"{DROPPED}{path.name}"
    if aside.exists():
        remove(aside)
    return path.rename(aside)


def remove_dropped(root: Path) -> None:
    """Remove what nodes have set aside that ended before they removed it."""
    for leftover in root.glob(f"{DROPPED}*"):
        remove(leftover)


def remove(path: Path) -> None:
    """Remove what was set aside."""
    if path.is_dir() and not path.is_symlink():
        try:
            shutil.rmtree(path, ignore_errors=True)
            if path.exists():  # a handler may have forbidden it
                _allow_removal(path)
                shutil.rmtree(path, ignore_errors=True)
        except RecursionError:  # or have made folders in folders, deeper than Python's own functions go
            subprocess.run(["rm", "-rf", "--", path], check=False, stderr=subprocess.DEVNULL)
    else:
        path.unlink(missing_ok=True)


def _allow_removal(folder: Path) -> None:
    with suppress(OSError):
        folder.chmod(0o700)
        for at, names, _ in os.walk(folder):
            for name in names:  # before they are walked
                if not os.path.islink(os.path.join(at, name)):
                    os.chmod(os.path.join(at, name), 0o700)


def _take(holder: Path) -> UnpackedCopy | None:
    """Lock a copy; None if another node holds it, or it is gone."""
    try:
        lock = hold(holder / LOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return UnpackedCopy(holder, lock) if lock else None


def _modified_at(path: Path) -> float:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0


def _scan(folder: Path, below: str = "") -> Iterator[tuple[str, Facts]]:
    """Yield all that is in a folder by its path in it; links aren't followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{below}{entry.name}"
            facts = entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                yield name, (facts.st_mode, 0, 0, 0)
                yield from _scan(folder / entry.name, f"{name}/")
            else:
                yield name, (facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
