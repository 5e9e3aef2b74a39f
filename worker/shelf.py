"""What this host keeps of models and environments, within a limit: what was used least recently goes first.

What belongs to one model or environment begins with its name. Two files beside it are locks: `NAME.use` is
held by every node that uses it, for as long as it does, and its time is that of the latest such moment;
`NAME.lock` by whoever makes it. Neither is ever removed: another process may be about to lock it.
"""

import logging
import os
import shutil
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from torchrelay.worker.locks import SharedLock, try_lock

logger = logging.getLogger(__name__)

_LOCKS = (".lock", ".use")
#: Folders of what is on its way out begin with this.
_DROPPED = "dropped."


class Thing(msgspec.Struct, frozen=True):
    """A model or an environment: its name, where its locks are, and all that it has on the disk."""

    name: str
    home: Path
    paths: tuple[Path, ...]

    @property
    def last_used(self) -> float:
        """When it was last begun or ceased to be used; the beginning of time if it never was."""
        file = self.home / f"{self.name}.use"
        return file.stat().st_mtime if file.exists() else 0.0


class Shelf:
    """The models and environments under one folder, which several nodes may share."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self._root = root
        self._limit_bytes = limit_bytes
        self._archives, self._models = root / "archives", root / "models"
        self._environments = root / "environments"
        #: Held by the thread that tidies; one is enough.
        self._tidying = threading.Lock()
        #: Names that the latest tidying found; only others can have brought the rest above the limit.
        self._counted: set[str] = set()
        self._is_tidy = False

    def use_model(self, archive: str) -> SharedLock:
        """Keep a model, which need not be here yet, until the lock is released."""
        return self._use(self._archives, archive)

    def use_environment(self, key: str) -> SharedLock:
        """Keep an environment likewise."""
        return self._use(self._environments, key)

    def _use(self, home: Path, name: str) -> SharedLock:
        self._is_tidy = self._is_tidy and name in self._counted
        return SharedLock(home / f"{name}.use")

    def tidy(self) -> None:
        """Drop what nobody uses until the rest is within the limit, if something has come since last time.

        Blocks for as long as the disk likes.
        """
        if self._is_tidy or not self._tidying.acquire(blocking=False):
            return
        try:
            self._is_tidy = True
            for leftover in self._root.glob(f"{_DROPPED}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            self._shrink()
        except OSError as error:
            logger.warning("cache.not_tidied", extra={"reason": str(error)})
        finally:
            self._tidying.release()

    def _shrink(self) -> None:
        things = [*_things(self._archives, self._models), *_things(self._environments)]
        sizes = {thing.name: _size(thing) for thing in things}
        excess = sum(sizes.values()) - self._limit_bytes
        self._counted = set(sizes)
        for thing in sorted(things, key=lambda thing: thing.last_used):
            if excess > 0 and self._drop(thing):
                self._counted.discard(thing.name)
                excess -= sizes[thing.name]
                logger.info("cache.dropped", extra={"entry": thing.name, "bytes": sizes[thing.name]})

    def _drop(self, thing: Thing) -> bool:
        """Drop a thing, unless it is used or being made."""
        lock, use = (thing.home / f"{thing.name}{ending}" for ending in _LOCKS)
        with try_lock(use) as is_unused, try_lock(lock) as is_mine:
            if not (is_unused and is_mine):
                return False
            # Who wants it now waits for the lock, so it is only moved while that is held.
            dump = Path(tempfile.mkdtemp(prefix=_DROPPED, dir=self._root))
            for number, path in enumerate(thing.paths):
                with suppress(FileNotFoundError):  # another node has dropped it
                    path.rename(dump / str(number))
        shutil.rmtree(dump)
        return True


def _things(home: Path, *others: Path) -> Iterator[Thing]:
    """Yield what is in folders, of which `home` has the locks."""
    paths = defaultdict[str, list[Path]](list)
    for folder in (home, *others):
        for entry in folder.iterdir() if folder.exists() else ():
            if not entry.name.endswith(_LOCKS):
                paths[entry.name.partition(".")[0]].append(entry)
    for name, found in paths.items():
        yield Thing(name, home, tuple(found))


def _size(thing: Thing) -> int:
    """Return the bytes of a thing's files."""
    return sum(map(_size_of, thing.paths))


def _size_of(path: Path) -> int:
    files = (
        [path] if not path.is_dir() else (Path(at, name) for at, _, names in os.walk(path) for name in names)
    )
    total = 0
    for file in files:
        with suppress(FileNotFoundError):  # it may be dropped, or moved to its place, meanwhile
            total += file.lstat().st_size
    return total
