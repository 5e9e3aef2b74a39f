"""Drops archives, models and environments of the cache that are too much for its limit or for the disk.

The least recently used goes first. All files of one archive or environment begin with its name. Two of them
are locks: every node that uses the entry holds `NAME.use`, whose time is that of the latest use; the node
that makes the entry holds `NAME.lock`. They are removed with the entry. A copy of a model (see
`unpacked_copies`) has its lock inside, and its folder has the time of the latest use.
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
from typing import Literal

import msgspec

from torchrelay.shared import private_files
from torchrelay.shared.locks import SharedLock, try_lock
from torchrelay.worker.node import unpacked_copies

logger = logging.getLogger(__name__)

_LOCKS = (".use", ".lock")
#: How much of the disk is left free, as long as dropping unused entries is enough for that.
FREE_SHARE, FREE_LIMIT_BYTES = 0.1, 10 << 30


class Disk(msgspec.Struct, frozen=True):
    """The size of a disk, in bytes."""

    total: int
    free: int


def disk_of(folder: Path) -> Disk:
    """Measure the disk of a folder."""
    usage = shutil.disk_usage(folder)
    return Disk(usage.total, usage.free)


def excess_bytes(kept_bytes: int, limit_bytes: int, disk: Disk, coming_bytes: int = 0) -> int:
    """Return how many bytes must be dropped before `coming_bytes` fit into the limit and onto the disk."""
    spare = min(int(disk.total * FREE_SHARE), FREE_LIMIT_BYTES)
    return max(kept_bytes + coming_bytes - limit_bytes, coming_bytes + spare - disk.free)


def is_disk_full(error: BaseException | None) -> bool:
    """Tell whether an error, or its cause, says that the disk or the user's quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


class Entry(msgspec.Struct, frozen=True):
    """An archive, a copy of a model or an environment: its files, and the locks that keep it."""

    name: str
    paths: tuple[Path, ...]
    locks: tuple[Path, ...]
    #: When its latest use began or ended, in seconds since 1970; 0 for one that was never used.
    last_used: float
    #: No node will ever use it: it is locks alone, half unpacked, or unpacked by an older version.
    is_useless: bool = False


class Eviction:
    """Keeps one cache folder, which several nodes may share, within its limit."""

    def __init__(self, root: Path, limit_bytes: int, disk: Callable[[Path], Disk] = disk_of) -> None:
        self._root = root
        self._limit_bytes = limit_bytes
        self._disk = disk
        #: Held by the thread that drops entries, so that there is one at a time.
        self._tidying = threading.Lock()
        #: Names of the entries that `tidy` counted last; only other entries can exceed the limit since.
        self._counted: set[str] = set()
        self._is_tidy = False

    def note_copy(self) -> None:
        """Have the next `tidy` count again: there is one more copy."""
        self._is_tidy = False

    def use(self, kind: Literal["archives", "environments"], name: str) -> SharedLock:
        """Keep an archive or environment, which need not be in the cache yet, until the lock is released."""
        home = self._root / kind
        self._is_tidy = self._is_tidy and name in self._counted
        private_files.make_folder(home)  # the host may have cleared its /tmp
        return SharedLock(home / f"{name}.use")

    def tidy(self) -> None:
        """Drop unused entries until the rest is within the limits, if entries came since the last call.

        Blocks while it reads and removes files.
        """
        if not self._tidying.acquire(blocking=False):
            return
        try:
            if self._is_tidy and excess_bytes(0, self._limit_bytes, self._disk(self._root)) <= 0:
                return
            self._is_tidy = True
            unpacked_copies.remove_dropped(self._root)
            self._shrink(0)
        except OSError as error:
            logger.warning("cache.not_tidied", extra={"reason": str(error)})
        finally:
            self._tidying.release()

    def make_room(self, coming_bytes: int) -> bool:
        """Drop unused entries until `coming_bytes` fit; return whether the disk has room for them. Blocks."""
        with self._tidying:
            if excess_bytes(0, self._limit_bytes, self._disk(self._root), coming_bytes) > 0:
                unpacked_copies.remove_dropped(self._root)
                self._shrink(coming_bytes)
        return self._disk(self._root).free >= coming_bytes

    def empty(self) -> bool:
        """Drop all unused entries; return whether there were any. Blocks."""
        with self._tidying:
            dropped = [entry.name for entry in self._entries() if self._drop(entry)]
        if dropped:
            logger.info("cache.emptied", extra={"entries": len(dropped)})
        return bool(dropped)

    def _shrink(self, coming_bytes: int) -> None:
        entries = self._entries()
        sizes = {entry: sum(map(_size_of, entry.paths)) for entry in entries}
        kept = sum(sizes.values())
        excess = excess_bytes(kept, self._limit_bytes, self._disk(self._root), coming_bytes)
        self._counted = {entry.name for entry in entries}
        for entry in sorted(entries, key=lambda entry: entry.last_used):
            if (excess > 0 or entry.is_useless) and self._drop(entry):
                self._counted.discard(entry.name)
                excess -= sizes[entry]
                logger.info("cache.dropped", extra={"entry": entry.name, "bytes": sizes[entry]})

    def _entries(self) -> list[Entry]:
        archives = self._root / "archives"
        copied = _copies(archives, self._root / "models")
        return [*_entries(archives), *_entries(self._root / "environments"), *copied]

    def _drop(self, entry: Entry) -> bool:
        """Drop an entry unless it is used or being made; return whether it was dropped."""
        moved = []
        with ExitStack() as held, suppress(FileNotFoundError):  # another node has dropped it
            if not all(held.enter_context(try_lock(lock)) for lock in entry.locks):
                return False
            # Nodes that want it wait for the lock, so it is only renamed while that is held.
            moved = [unpacked_copies.set_aside(path) for path in entry.paths]
            for lock in entry.locks:
                lock.unlink(missing_ok=True)
        for path in moved:
            unpacked_copies.remove(path)
        return bool(moved)


def _entries(home: Path) -> Iterator[Entry]:
    """Yield the entries of a folder that has their locks, too."""
    paths = defaultdict[str, list[Path]](list)
    for entry in home.iterdir() if home.exists() else ():
        found = paths[entry.name.partition(".")[0]]
        if not entry.name.endswith(_LOCKS):
            found.append(entry)
    for name, found in paths.items():
        use, lock = (home / f"{name}{ending}" for ending in _LOCKS)
        last_used = use.stat().st_mtime if use.exists() else 0.0
        yield Entry(name, tuple(found), (use, lock), last_used, is_useless=not found)


def _copies(archives: Path, models: Path) -> Iterator[Entry]:
    for entry in models.iterdir() if models.exists() else ():
        locks: tuple[Path, ...] = (entry / unpacked_copies.LOCK,)
        if "." not in entry.name:  # unpacked by a node of an older version, which may live
            locks = (*locks, archives / f"{entry.name}.use")
        with suppress(FileNotFoundError):
            is_useless = not (entry / unpacked_copies.LISTING).exists()
            yield Entry(entry.name, (entry,), locks, entry.stat().st_mtime, is_useless)


def _size_of(path: Path) -> int:
    files = (
        [path] if not path.is_dir() else (Path(at, name) for at, _, names in os.walk(path) for name in names)
    )
    total = 0
    for file in files:
        with suppress(FileNotFoundError):  # it may be dropped, or moved to its place, meanwhile
            total += file.lstat().st_size
    return total
