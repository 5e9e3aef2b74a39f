"""Archives on this host: checked by their hash, fetched where they aren't here, and unpacked.

`archives/<sha256>.mar` is whole and checked, `<sha256>.part` on its way; every node of the host shares them,
and whoever writes holds the lock on `archives/<sha256>.lock`. An archive that the broker has on this host is
taken from there. `unpacked_copies` has what is unpacked; `eviction` drops what is too much.
Disk work that takes long runs in a small thread pool; everything else belongs to the node's event loop.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Literal, NamedTuple, ParamSpec, TypeVar

from torchrelay.shared import private_files
from torchrelay.shared.archives import model_archive
from torchrelay.shared.errors import RelayError, StoreFailed
from torchrelay.shared.locks import try_lock
from torchrelay.shared.wire import messages as m
from torchrelay.worker.node.eviction import Shelf, is_disk_full
from torchrelay.worker.node.unpacked_copies import Copies, Copy

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
#: Chunks asked for and not yet here: enough to fill a fast link, little to lose with a connection.
CREDIT_CHUNKS = 8
#: Without a chunk for this long, what was asked for is asked for again.
STALL_S = 10.0
#: How often another node's download of the same archive is looked after.
LOCK_POLL_S = 0.5
DISK_THREADS = 2

Phase = Literal["fetching", "unpacking"]
#: Told of an archive's progress: phase, bytes that are here, bytes in all.
Report = Callable[[str, Phase, int, int], None]

ResultT = TypeVar("ResultT")
PartsP = ParamSpec("PartsP")


class NoSuchArchive(StoreFailed):
    """The broker has it not, or not any more."""


class Download:
    """One archive on its way: what came, and what is to be asked for; chunks may come in any order."""

    def __init__(self, name: str, here_bytes: int, total_bytes: int) -> None:
        self.name = name
        self.here_bytes = here_bytes
        self.total_bytes = total_bytes
        self.failure: RelayError | OSError | None = None
        self.changed = asyncio.Event()
        #: Offsets asked for; a chunk that is not among them is a repetition, and dropped.
        self._asked: set[int] = set()
        self._next_offset = here_bytes
        #: Chunks that came before their turn, at most CREDIT_CHUNKS.
        self._early: dict[int, bytes] = {}
        #: An empty archive, too, must be asked for once.
        self._is_confirmed = 0 < total_bytes == here_bytes

    @property
    def is_complete(self) -> bool:
        """Whether every byte is here."""
        return self._is_confirmed and self.here_bytes >= self.total_bytes

    def requests(self) -> Iterator[m.FetchArchive]:
        """Yield what to ask for now."""
        end = self.total_bytes if self._is_confirmed else max(1, self.total_bytes)
        while len(self._asked) + len(self._early) < CREDIT_CHUNKS and self._next_offset < end:
            yield m.FetchArchive(self.name, self._next_offset, CHUNK_BYTES)
            self._asked.add(self._next_offset)
            self._next_offset += CHUNK_BYTES

    def arrived(self, offset: int, data: bytes, total_bytes: int) -> Iterator[bytes]:
        """Take a chunk; yield what may be written next, in order."""
        if offset not in self._asked:
            return
        self._asked.discard(offset)
        self._early[offset] = data
        self.total_bytes = total_bytes
        self._is_confirmed = True
        while self._early and (ready := self._early.pop(self.here_bytes, None)) is not None:
            self.here_bytes += len(ready)
            yield ready
        self.changed.set()

    def ask_again(self) -> None:
        """Forget what was asked for: the answers were lost."""
        self._asked.clear()
        self._early.clear()
        self._next_offset = self.here_bytes
        self.changed.set()

    def fail(self, failure: RelayError | OSError) -> None:
        """Give up."""
        self.failure = failure
        self.changed.set()


class ArchiveCache:
    """Provides copies of archives; `ask` sends a FetchArchive, `report` hears of progress."""

    def __init__(
        self, root: Path, shelf: Shelf, copies: Copies, ask: Callable[[m.FetchArchive], None], report: Report
    ) -> None:
        self._root = root
        self._archives = root / "archives"
        self._shelf = shelf
        self._copies = copies
        self._ask = ask
        self._report = report
        self._pool = ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="disk")
        #: Archive -> what fetches it, however many wait.
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._downloads: dict[str, tuple[Download, IO[bytes]]] = {}
        private_files.make_folder(self._archives)

    async def provide(self, name: str, total_bytes: int, called: str = "", path: str = "") -> Copy:
        """Return a copy of an archive as it was made, which nobody else uses; errors say `called`.

        `path` is where the broker has the archive, if that is on this host. Raises RelayError for an archive
        that is missing, broken or unsafe, OSError where the disk fails.
        """
        if found := await self.in_thread(self._copies.claim, name):
            return found
        lock = self._shelf.use_archive(name)
        try:
            source = await self._source(name, total_bytes, called, path)
            self._report(name, "unpacking", 0, 0)
            copy = await self._with_room(
                lambda: self.in_thread(self._copies.make, name, source.path, called),
                await self.in_thread(self._copies.bytes_of, source.path),
                called,
            )
            self._shelf.note_copy()
            if await self.in_thread(_facts, source.path) != source.facts:
                await self.in_thread(copy.drop)
                raise StoreFailed(f"Failed to save model: {called}", f"{source.path} was changed meanwhile")
            return copy
        finally:
            lock.release()

    async def in_thread(
        self, work: Callable[PartsP, ResultT], *arguments: PartsP.args, **_: PartsP.kwargs
    ) -> ResultT:
        """Have a thread for disk work do something."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def arrived(self, chunk: m.ArchiveChunk, data: bytes | memoryview) -> None:
        """Write a chunk that came."""
        if chunk.archive not in self._downloads:
            return
        download, part = self._downloads[chunk.archive]
        try:
            for ready in download.arrived(chunk.offset, bytes(data), chunk.total_bytes):
                part.write(ready)
        except OSError as error:
            download.fail(error)

    def missing(self, name: str) -> None:
        """Give up a download: the broker has no such archive."""
        if name in self._downloads:
            self._downloads[name][0].fail(NoSuchArchive("The broker has no such archive.", name))

    def reconnected(self) -> None:
        """Ask again for what an old connection may have swallowed."""
        for download, _ in self._downloads.values():
            download.ask_again()

    async def stop_fetching(self) -> None:
        """Stop downloads; what came of them is kept, and taken up next time."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Stop downloads, and let go of the threads."""
        await self.stop_fetching()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _fetched(self, name: str, task: asyncio.Task[None]) -> None:
        del self._tasks[name]
        if not task.cancelled():
            task.exception()  # those who wait for it tell; if nobody does any more, it matters no more

    async def _source(self, name: str, total_bytes: int, called: str, path: str) -> "_Source":
        """Return a whole and checked archive: where the broker has it, or fetched from there."""
        if path:
            facts = await self.in_thread(_facts_of_archive, Path(path), name, total_bytes)
            if facts is not None:
                return _Source(Path(path), facts)
        target = self._archives / f"{name}.mar"
        if not target.exists():
            if name not in self._tasks:
                self._tasks[name] = asyncio.create_task(self._fetch(name, total_bytes, called))
                self._tasks[name].add_done_callback(lambda task: self._fetched(name, task))
            try:
                # Shielded: a worker that is no longer wanted leaves the others their archive.
                await asyncio.shield(self._tasks[name])
            except NoSuchArchive as error:
                if not path:
                    raise
                reason = f"{path} is not what was registered, or is not on this host: register it again"
                raise StoreFailed(f"Failed to save model: {called}", reason) from error
        return _Source(target, await self.in_thread(_facts, target))

    async def _fetch(self, name: str, total_bytes: int, called: str) -> None:
        target = self._archives / f"{name}.mar"
        lock = self._shelf.use_archive(name)
        try:
            while not target.exists():
                with try_lock(self._archives / f"{name}.lock") as is_mine:
                    if is_mine and not target.exists():
                        part = self._archives / f"{name}.part"
                        here_bytes = part.stat().st_size if part.exists() else 0
                        work = partial(self._download, name, total_bytes)
                        await self._with_room(work, max(0, total_bytes - here_bytes), called)
                if not is_mine:
                    await asyncio.sleep(LOCK_POLL_S)
        finally:
            lock.release()

    async def _with_room(
        self, work: Callable[[], Awaitable[ResultT]], coming_bytes: int, called: str
    ) -> ResultT:
        """Do what writes so many bytes; where they don't fit, drop what nobody uses. Raises StoreFailed."""
        try:
            if await self.in_thread(self._shelf.make_room, coming_bytes):
                return await work()
            reason: Exception | None = None
        except (OSError, RelayError) as error:
            if not is_disk_full(error):
                raise
            reason = error
            # What the disk says that it has free may be another's: root's, or over this user's quota.
            if await self.in_thread(self._shelf.empty):
                return await work()
        raise StoreFailed(
            f"Failed to save model: {called}",
            f"No space left on the disk of {self._root}: {coming_bytes} bytes are needed, and nothing that"
            " is left in it is unused; free the disk, or name a folder on another with --cache-dir",
        ) from reason

    async def _download(self, name: str, total_bytes: int) -> None:
        path = self._archives / f"{name}.part"
        with private_files.append_to(path) as part:
            if part.tell() > total_bytes:
                part.truncate(0)
                part.seek(0)
            download = Download(name, part.tell(), total_bytes)
            logger.info(
                "archive.fetching", extra={"archive": name, "bytes": total_bytes, "here": download.here_bytes}
            )
            self._downloads[name] = (download, part)
            try:
                await self._complete(download)
            finally:
                del self._downloads[name]
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._pool, model_archive.sha256_of, path)
        if found != name:
            path.unlink()
            raise StoreFailed("The archive came broken.", f"its sha256 is {found}, not {name}")
        path.rename(self._archives / f"{name}.mar")
        logger.info("archive.fetched", extra={"archive": name, "bytes": download.here_bytes})

    async def _complete(self, download: Download) -> None:
        """Ask until everything is here."""
        while not download.is_complete:
            for request in download.requests():
                self._ask(request)
            try:
                await asyncio.wait_for(download.changed.wait(), STALL_S)
            except TimeoutError:
                download.ask_again()
            if download.failure is not None:
                raise download.failure
            download.changed.clear()
            self._report(download.name, "fetching", download.here_bytes, download.total_bytes)


class _Source(NamedTuple):
    """A checked archive, and what tells that it is still the same file."""

    path: Path
    facts: tuple[int, ...]


def _facts(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _facts_of_archive(path: Path, name: str, size: int) -> tuple[int, ...] | None:
    """Tell what file of this host an archive is, by its hash; None if it isn't."""
    try:
        facts = _facts(path)
        is_it = path.is_file() and path.stat().st_size == size and model_archive.sha256_of(path) == name
    except OSError:
        return None
    return facts if is_it else None
