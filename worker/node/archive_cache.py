"""Fetches archives from the broker, checks their hash, and has them unpacked.

`archives/<sha256>.mar` is complete and checked, `<sha256>.part` is being fetched; all nodes of the host share
them, and the node that writes holds the lock on `archives/<sha256>.lock`. An archive that the broker has on
this host is used in its place. `unpacked_copies` unpacks; `eviction` drops what is too much. Disk work that
takes long runs in a small thread pool; everything else runs on the node's event loop.
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
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m
from torchrelay.worker.node.eviction import Eviction, is_disk_full
from torchrelay.worker.node.unpacked_copies import UnpackedCopies, UnpackedCopy

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
#: Chunks asked for and not yet here: enough to fill a fast link, little to lose with a connection.
CREDIT_CHUNKS = 8
#: After so long without a chunk, the missing chunks are asked for again.
STALL_S = 10.0
#: How often it is looked whether another node has fetched the same archive.
LOCK_POLL_S = 0.5
DISK_THREADS = 2

Phase = Literal["fetching", "unpacking"]
#: Called with an archive's progress: name, phase, bytes received, bytes in all.
Report = Callable[[str, Phase, int, int], None]

ResultT = TypeVar("ResultT")
PartsP = ParamSpec("PartsP")


class NoSuchArchive(StoreFailed):
    """The broker doesn't have the archive, or no longer."""


class Download:
    """The state of one download: which bytes came, and which to ask for; chunks may come in any order."""

    def __init__(self, name: str, here_bytes: int, total_bytes: int) -> None:
        self.name = name
        self.here_bytes = here_bytes
        self.total_bytes = total_bytes
        self.failure: RelayError | OSError | None = None
        self.changed = asyncio.Event()
        #: Offsets asked for; a chunk with another offset is a repetition, and dropped.
        self._asked: set[int] = set()
        self._next_offset = here_bytes
        #: Chunks by offset that can't be written before an earlier one came, at most CREDIT_CHUNKS.
        self._early: dict[int, bytes] = {}
        #: Whether a chunk has told the size; an empty archive, too, must be asked for once.
        self._is_confirmed = 0 < total_bytes == here_bytes

    @property
    def is_complete(self) -> bool:
        """Whether every byte came."""
        return self._is_confirmed and self.here_bytes >= self.total_bytes

    def requests(self) -> Iterator[m.FetchArchive]:
        """Yield the requests that are to be sent now."""
        end = self.total_bytes if self._is_confirmed else max(1, self.total_bytes)
        while len(self._asked) + len(self._early) < CREDIT_CHUNKS and self._next_offset < end:
            yield m.FetchArchive(self.name, self._next_offset, CHUNK_BYTES)
            self._asked.add(self._next_offset)
            self._next_offset += CHUNK_BYTES

    def arrived(self, offset: int, data: bytes, total_bytes: int) -> Iterator[bytes]:
        """Take a chunk; yield the data that can be written next, in order."""
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
        """Forget the requests, whose answers were lost."""
        self._asked.clear()
        self._early.clear()
        self._next_offset = self.here_bytes
        self.changed.set()

    def fail(self, failure: RelayError | OSError) -> None:
        """Give up."""
        self.failure = failure
        self.changed.set()


class ArchiveCache:
    """Provides copies of archives; `ask` sends a FetchArchive, `report` is called with progress."""

    def __init__(
        self,
        root: Path,
        eviction: Eviction,
        copies: UnpackedCopies,
        ask: Callable[[m.FetchArchive], None],
        report: Report,
    ) -> None:
        self._root = root
        self._archives = root / "archives"
        self._eviction = eviction
        self._copies = copies
        self._ask = ask
        self._report = report
        self._pool = ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="disk")
        #: Archive -> the one task that fetches it, for all that wait for it.
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._downloads: dict[str, tuple[Download, IO[bytes]]] = {}
        private_files.make_folder(self._archives)

    async def provide(self, name: str, total_bytes: int, called: str = "", path: str = "") -> UnpackedCopy:
        """Return an unused copy of an archive, as it was made; errors name it `called`.

        `path` is where the broker has the archive, if that is on this host. Raises RelayError for an archive
        that is missing, broken or unsafe, OSError where the disk fails.
        """
        if found := await self.in_thread(self._copies.claim, name):
            return found
        lock = self._eviction.use("archives", name)
        try:
            source = await self._source(name, total_bytes, called, path)
            self._report(name, "unpacking", 0, 0)
            copy = await self._with_room(
                lambda: self.in_thread(self._copies.make, name, source.path, called),
                await self.in_thread(self._copies.reader.unpacked_bytes, source.path),
                called,
            )
            self._eviction.note_copy()
            if await self.in_thread(_facts, source.path) != source.facts:
                await self.in_thread(copy.drop)
                raise StoreFailed(f"Failed to save model: {called}", f"{source.path} was changed meanwhile")
            return copy
        finally:
            lock.release()

    async def in_thread(
        self, work: Callable[PartsP, ResultT], *arguments: PartsP.args, **_: PartsP.kwargs
    ) -> ResultT:
        """Run `work` in a thread for disk work."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def arrived(self, chunk: m.ArchiveChunk, data: codec.Payload) -> None:
        """Write a chunk that the broker has sent."""
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
        """Ask again for chunks that the old connection may have lost."""
        for download, _ in self._downloads.values():
            download.ask_again()

    async def stop_fetching(self) -> None:
        """Stop downloads; the bytes that came are kept, and the next download goes on behind them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Stop downloads and the threads."""
        await self.stop_fetching()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _fetched(self, name: str, task: asyncio.Task[None]) -> None:
        del self._tasks[name]
        if not task.cancelled():
            task.exception()  # those that wait for it report it

    async def _source(self, name: str, total_bytes: int, called: str, path: str) -> "_Source":
        """Return a complete and checked archive: the broker's file on this host, or a fetched one."""
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
                # Shielded: a worker that is stopped leaves the download to the others.
                await asyncio.shield(self._tasks[name])
            except NoSuchArchive as error:
                if not path:
                    raise
                reason = f"{path} is not what was registered, or is not on this host: register it again"
                raise StoreFailed(f"Failed to save model: {called}", reason) from error
        return _Source(target, await self.in_thread(_facts, target))

    async def _fetch(self, name: str, total_bytes: int, called: str) -> None:
        target = self._archives / f"{name}.mar"
        lock = self._eviction.use("archives", name)
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
        """Do `work`, which writes `coming_bytes`; drop unused entries to make room. Raises StoreFailed."""
        try:
            if await self.in_thread(self._eviction.make_room, coming_bytes):
                return await work()
            reason: Exception | None = None
        except (OSError, RelayError) as error:
            if not is_disk_full(error):
                raise
            reason = error
            # Bytes that the disk counts as free may be reserved for root, or above this user's quota.
            if await self.in_thread(self._eviction.empty):
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
        found = await self.in_thread(model_archive.sha256_of, path)
        if found != name:
            path.unlink()
            raise StoreFailed("The archive came broken.", f"its sha256 is {found}, not {name}")
        path.rename(self._archives / f"{name}.mar")
        logger.info("archive.fetched", extra={"archive": name, "bytes": download.here_bytes})

    async def _complete(self, download: Download) -> None:
        """Send requests until every byte came."""
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
    """A checked archive, and the facts by which a change of the file shows."""

    path: Path
    facts: tuple[int, ...]


def _facts(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _facts_of_archive(path: Path, name: str, size: int) -> tuple[int, ...] | None:
    """Return the facts of a file of this host that is the archive, by its hash; None if it isn't."""
    try:
        facts = _facts(path)
        is_it = path.is_file() and path.stat().st_size == size and model_archive.sha256_of(path) == name
    except OSError:
        return None
    return facts if is_it else None
