"""What this host keeps of archives, models and environments: within a limit, and within what the disk has.

What was used least recently goes first. What belongs to one archive or environment begins with its name. Two
files beside it are locks: `NAME.use` is held by every node that uses it, for as long as it does, and its time
is that of the latest such moment; `NAME.lock` by whoever makes it. They go with what they lock. A copy of a
model (see `unpacked_copies`) has its lock inside, and the time on its folder.
"""

import errno
import logging
import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from torchrelay.shared import private_files
from torchrelay.shared.locks import SharedLock, try_lock
from torchrelay.worker.node import unpacked_copies

logger = logging.getLogger(__name__)

_LOCKS = (".use", ".lock")
#: Of the disk, left free as far as that needs only what nobody uses: others fill disks, too.
FREE_SHARE, FREE_LIMIT_BYTES = 0.1, 10 << 30


class Disk(msgspec.Struct, frozen=True):
    """A disk's bytes."""

    total: int
    free: int


def look_at(folder: Path) -> Disk:
    """Measure the disk that a folder lies on."""
    usage = shutil.disk_usage(folder)
    return Disk(usage.total, usage.free)


def excess_bytes(kept_bytes: int, limit_bytes: int, disk: Disk, coming_bytes: int = 0) -> int:
    """Return how much has to go before `coming_bytes` come: above the limit, or of what the disk has free."""
    spare = min(int(disk.total * FREE_SHARE), FREE_LIMIT_BYTES)
    return max(kept_bytes + coming_bytes - limit_bytes, coming_bytes + spare - disk.free)


def is_disk_full(error: BaseException | None) -> bool:
    """Tell whether an error, or what caused it, is that the disk, or the user's share of it, is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


class Thing(msgspec.Struct, frozen=True):
    """An archive, a copy or an environment: all that it has on the disk, and what holds it there."""

    name: str
    paths: tuple[Path, ...]
    locks: tuple[Path, ...]
    #: When it was last begun or ceased to be used; the beginning of time if it never was.
    last_used: float
    #: Nobody will ever use it: locks of nothing, what is half unpacked, what an older version unpacked.
    is_useless: bool = False


class Shelf:
    """What lies under one folder, which several nodes may share."""

    def __init__(self, root: Path, limit_bytes: int, disk: Callable[[Path], Disk] = look_at) -> None:
        self._root = root
        self._limit_bytes = limit_bytes
        self._disk = disk
        self._archives, self._models = root / "archives", root / "models"
        self._environments = root / "environments"
        #: Held by the thread that tidies; one is enough.
        self._tidying = threading.Lock()
        #: Names that the latest tidying found; only others can have brought the rest above the limit.
        self._counted: set[str] = set()
        self._is_tidy = False

    def use_archive(self, name: str) -> SharedLock:
        """Keep an archive, which need not be here yet, until the lock is released."""
        return self._use(self._archives, name)

    def use_environment(self, key: str) -> SharedLock:
        """Keep an environment likewise."""
        return self._use(self._environments, key)

    def note_copy(self) -> None:
        """Count what is here anew next time: there is one more copy."""
        self._is_tidy = False

    def _use(self, home: Path, name: str) -> SharedLock:
        self._is_tidy = self._is_tidy and name in self._counted
        private_files.make_folder(home)  # who tidies a host's /tmp may have removed it
        return SharedLock(home / f"{name}.use")

    def tidy(self) -> None:
        """Drop what nobody uses until the rest is within the limits, if something has come since last time.

        Blocks for as long as the disk likes.
        """
        if not self._tidying.acquire(blocking=False):
            return
        try:
            if self._is_tidy and not self._is_short():
                return
            self._is_tidy = True
            unpacked_copies.remove_dropped(self._root)
            self._shrink(0)
        except OSError as error:
            logger.warning("cache.not_tidied", extra={"reason": str(error)})
        finally:
            self._tidying.release()

    def make_room(self, coming_bytes: int) -> bool:
        """Drop what nobody uses as far as it takes for so much to come; tell whether it can. Blocks."""
        with self._tidying:
            if excess_bytes(0, self._limit_bytes, self._disk(self._root), coming_bytes) > 0:
                unpacked_copies.remove_dropped(self._root)
                self._shrink(coming_bytes)
        return self._disk(self._root).free >= coming_bytes

    def empty(self) -> bool:
        """Drop all that nobody uses; tell whether there was anything. Blocks."""
        with self._tidying:
            dropped = [thing.name for thing in self._things() if self._drop(thing)]
        if dropped:
            logger.info("cache.emptied", extra={"entries": len(dropped)})
        return bool(dropped)

    def _is_short(self) -> bool:
        return excess_bytes(0, self._limit_bytes, self._disk(self._root)) > 0

    def _shrink(self, coming_bytes: int) -> None:
        things = self._things()
        sizes = {thing: _size(thing) for thing in things}
        kept = sum(sizes.values())
        excess = excess_bytes(kept, self._limit_bytes, self._disk(self._root), coming_bytes)
        self._counted = {thing.name for thing in things}
        for thing in sorted(things, key=lambda thing: thing.last_used):
            if (excess > 0 or thing.is_useless) and self._drop(thing):
                self._counted.discard(thing.name)
                excess -= sizes[thing]
                logger.info("cache.dropped", extra={"entry": thing.name, "bytes": sizes[thing]})

    def _things(self) -> list[Thing]:
        copied = _copies(self._archives, self._models)
        return [*_things(self._archives), *_things(self._environments), *copied]

    def _drop(self, thing: Thing) -> bool:
        """Drop a thing, unless it is used or being made."""
        doomed = []
        with ExitStack() as held, suppress(FileNotFoundError):  # another node has dropped it
            if not all(held.enter_context(try_lock(lock)) for lock in thing.locks):
                return False
            # Who wants it now waits for the lock, so it is only moved while that is held.
            doomed = [unpacked_copies.set_aside(path) for path in thing.paths]
            for lock in thing.locks:
                lock.unlink(missing_ok=True)
        for path in doomed:
            unpacked_copies.remove(path)
        return bool(doomed)


def _things(home: Path) -> Iterator[Thing]:
    """Yield what is in a folder that has its locks, too."""
    paths = defaultdict[str, list[Path]](list)
    for entry in home.iterdir() if home.exists() else ():
        found = paths[entry.name.partition(".")[0]]
        if not entry.name.endswith(_LOCKS):
            found.append(entry)
    for name, found in paths.items():
        use, lock = (home / f"{name}{ending}" for ending in _LOCKS)
        last_used = use.stat().st_mtime if use.exists() else 0.0
        yield Thing(name, tuple(found), (use, lock), last_used, is_useless=not found)


def _copies(archives: Path, models: Path) -> Iterator[Thing]:
    for entry in models.iterdir() if models.exists() else ():
        locks: tuple[Path, ...] = (entry / unpacked_copies.LOCK,)
        if "." not in entry.name:  # unpacked by a node of an older version, which may live
            locks = (*locks, archives / f"{entry.name}.use")
        with suppress(FileNotFoundError):
            is_useless = not (entry / unpacked_copies.LISTING).exists()
            yield Thing(entry.name, (entry,), locks, entry.stat().st_mtime, is_useless)


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
