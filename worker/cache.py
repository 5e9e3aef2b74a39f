"""Archives on this host: fetched once by hash, checked, unpacked once; shared by every node of the host.

`archives/<sha256>.mar` is whole and checked, `<sha256>.part` on its way, `models/<sha256>/` unpacked.
Whoever writes any of them holds the lock on `archives/<sha256>.lock`; `worker.shelf` drops what is too much.
Disk work that takes long runs in a small thread pool; everything else belongs to the node's event loop.
"""

import asyncio
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Literal

from torchrelay.shared import archive
from torchrelay.shared import messages as m
from torchrelay.shared.errors import RelayError, StoreFailed
from torchrelay.worker.locks import try_lock

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
    """Provides unpacked archives; `ask` sends a FetchArchive, `report` hears of progress."""

    def __init__(self, root: Path, ask: Callable[[m.FetchArchive], None], report: Report) -> None:
        self._archives = root / "archives"
        self._models = root / "models"
        self._ask = ask
        self._report = report
        self._pool = ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="disk")
        #: Archive -> what provides it, however many workers wait.
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._downloads: dict[str, tuple[Download, IO[bytes]]] = {}
        for folder in (self._archives, self._models):
            folder.mkdir(parents=True, exist_ok=True)

    async def provide(self, name: str, total_bytes: int, called: str = "") -> Path:
        """Return the folder of an unpacked archive, fetched and unpacked if need be; errors say `called`.

        Raises RelayError for an archive that is missing, broken or unsafe, OSError where the disk fails.
        """
        folder = self._models / name
        if not folder.exists():
            if name not in self._tasks:
                self._tasks[name] = asyncio.create_task(self._bring(name, total_bytes, called))
                self._tasks[name].add_done_callback(lambda task: self._done(name, task))
            # Shielded: a worker that is no longer wanted leaves the others their archive.
            await asyncio.shield(self._tasks[name])
        return folder

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
            self._downloads[name][0].fail(StoreFailed("The broker has no such archive.", name))

    def reconnected(self) -> None:
        """Ask again for what an old connection may have swallowed."""
        for download, _ in self._downloads.values():
            download.ask_again()

    async def close(self) -> None:
        """Stop downloads; what came of them is kept, and taken up next time."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _done(self, name: str, task: asyncio.Task[None]) -> None:
        del self._tasks[name]
        if not task.cancelled() and (failure := task.exception()):
            logger.warning("archive.failed", extra={"archive": name, "reason": str(failure)})

    async def _bring(self, name: str, total_bytes: int, called: str) -> None:
        loop = asyncio.get_running_loop()
        target = self._archives / f"{name}.mar"
        while not target.exists():
            with try_lock(self._archives / f"{name}.lock") as is_mine:
                if is_mine and not target.exists():
                    await self._download(name, total_bytes)
            if not is_mine:
                await asyncio.sleep(LOCK_POLL_S)
        self._report(name, "unpacking", 0, 0)
        await loop.run_in_executor(self._pool, self._unpack, name, called)

    async def _download(self, name: str, total_bytes: int) -> None:
        path = self._archives / f"{name}.part"
        with path.open("ab") as part:
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
        found = await loop.run_in_executor(self._pool, archive.sha256_of, path)
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

    def _unpack(self, name: str, called: str) -> None:
        """Unpack beside its place and move it there, so that a folder that is there is whole."""
        target = self._models / name
        with (self._archives / f"{name}.lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if target.exists():
                return
            for leftover in self._models.glob(f"{name}.*"):
                shutil.rmtree(leftover)
            scratch = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=self._models))
            try:
                archive.extract(self._archives / f"{name}.mar", scratch, called=called)
                os.rename(scratch, target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
