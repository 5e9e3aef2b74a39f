"""What handlers know as model_dir: a folder that the workers of a registration share on their node.

As in TorchServe it begins as the archive was made, and goes with the registration. A worker that dies leaves
its successor what it has changed; when all were told to stop, the next finds the archive as it was made, if
it can still be had. A model that is a folder of this host is used where it is. Runs on the node's event loop.
"""

import asyncio
import logging
from pathlib import Path

import msgspec

from torchrelay.shared.errors import RelayError
from torchrelay.shared.wire import messages as m
from torchrelay.worker.node.archive_cache import ArchiveCache
from torchrelay.worker.node.unpacked_copies import Copies, Copy

logger = logging.getLogger(__name__)

#: Model, version, registration, archive.
Key = tuple[str, str, str, str]


class _Shared(msgspec.Struct, eq=False):
    """What the workers of one registration share."""

    users: int = 0
    #: Provides the copy; it fails for all that wait.
    opening: asyncio.Task[None] | None = None
    copy: Copy | None = None
    #: Another node may take the copy, or drop it.
    is_free: bool = False
    #: Its workers were told to stop: what they left is of no use.
    is_spent: bool = False
    #: Where the copy is, or the model itself.
    folder: Path | None = None


class ModelDirs:
    """The folders of a node, by registration."""

    def __init__(self, cache: ArchiveCache, copies: Copies, *, is_kept: bool) -> None:
        self._cache = cache
        self._copies = copies
        self._is_kept = is_kept
        self._shared: dict[Key, _Shared] = {}
        #: What is on its way, to be waited for at the end.
        self._openings: set[asyncio.Task[None]] = set()
        self._drops: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Remove what nodes that kept nothing, either, left behind when they were killed."""
        if not self._is_kept:
            await self._cache.in_thread(self._copies.drop_left)

    def enter(self, start: m.StartWorker) -> "Use":
        """Count a worker among those that share a folder."""
        key = (start.model, start.version, start.registration, start.archive)
        if key not in self._shared:
            self._forget_older(key)
            self._shared[key] = _Shared()
        self._shared[key].users += 1
        return Use(self, start, self._shared[key], key)

    async def close(self) -> None:
        """Let go of all that has no users any more, and finish what is being removed."""
        for key, shared in list(self._shared.items()):
            if shared.users == 0:
                self._end(key, shared)
        # What is still being unpacked goes, or is let go of, as soon as it is there.
        await asyncio.gather(*self._openings, return_exceptions=True)
        await asyncio.gather(*self._drops, return_exceptions=True)

    async def folder_of(self, key: Key, shared: _Shared, start: m.StartWorker) -> Path:
        """Return the folder of one of those that share it; raises as ArchiveCache.provide does."""
        if shared.opening is None or (shared.opening.done() and (shared.folder is None or shared.is_free)):
            shared.opening = asyncio.create_task(self._open(key, shared, start))
            self._openings.add(shared.opening)
            shared.opening.add_done_callback(lambda task: self._opened(task, start.archive))
        # Shielded: a worker that is no longer wanted leaves the others their folder.
        await asyncio.shield(shared.opening)
        assert shared.folder is not None
        return shared.folder

    def leave(self, key: Key, shared: _Shared, *, was_stopped: bool, is_unregistered: bool) -> None:
        """Count a worker out; see above for what becomes of the folder after the last."""
        shared.users -= 1
        if shared.users > 0:
            return
        shared.is_spent = was_stopped
        if is_unregistered or shared.copy is None:
            self._end(key, shared)
        elif not shared.is_free:
            shared.copy.release()
            shared.is_free = True

    async def _open(self, key: Key, shared: _Shared, start: m.StartWorker) -> None:
        if start.archive_path:
            is_model = await self._cache.in_thread(Path(start.archive_path).is_dir)
            if is_model:
                shared.folder = Path(start.archive_path)
                return
        is_ours = False
        if shared.copy is not None:
            is_ours = await self._cache.in_thread(shared.copy.take_again)
        if shared.copy is None or not is_ours:
            shared.copy = await self._provide(start)
        elif shared.is_spent:
            shared.copy = await self._as_made(shared.copy, start)
        shared.folder, shared.is_free = shared.copy.folder, False
        if shared.users == 0:  # all have gone meanwhile
            self._end(key, shared)

    async def _as_made(self, copy: Copy, start: m.StartWorker) -> Copy:
        """Return a copy as it was made; one that was changed, if another can't be had any more."""
        is_restored = await self._cache.in_thread(copy.restore)
        if is_restored:
            return copy
        try:
            made = await self._provide(start)
        except (RelayError, OSError) as error:
            logger.warning("archive.gone", extra={"archive": start.archive, "reason": str(error)})
            return copy
        await self._cache.in_thread(copy.drop)
        return made

    async def _provide(self, start: m.StartWorker) -> Copy:
        return await self._cache.provide(start.archive, start.archive_bytes, start.url, start.archive_path)

    def _opened(self, task: asyncio.Task[None], archive: str) -> None:
        self._openings.discard(task)
        if not task.cancelled() and (failure := task.exception()):
            logger.warning("archive.failed", extra={"archive": archive, "reason": str(failure)})

    def _forget_older(self, key: Key) -> None:
        """Let go of what earlier registrations of the same version left when their workers died."""
        for other, shared in list(self._shared.items()):
            if other[:2] == key[:2] and shared.users == 0:
                self._end(other, shared)

    def _end(self, key: Key, shared: _Shared) -> None:
        if self._shared.get(key) is shared:
            del self._shared[key]
        if shared.copy is None:
            return
        if self._is_kept:
            if not shared.is_free:
                shared.copy.release()
                shared.is_free = True
            return
        task = asyncio.create_task(self._drop(shared))
        self._drops.add(task)
        task.add_done_callback(self._drops.discard)

    async def _drop(self, shared: _Shared) -> None:
        assert shared.copy is not None
        if not shared.is_free or await self._cache.in_thread(shared.copy.take_again):
            await self._cache.in_thread(shared.copy.drop)


class Use:
    """A worker's share in a folder, from the order to start it until its process is gone."""

    def __init__(self, dirs: ModelDirs, start: m.StartWorker, shared: _Shared, key: Key) -> None:
        self._dirs = dirs
        self._start = start
        self._shared = shared
        self._key = key

    async def folder(self) -> Path:
        """Provide the folder, as it was made for the first."""
        return await self._dirs.folder_of(self._key, self._shared, self._start)

    def leave(self, *, was_stopped: bool, is_unregistered: bool) -> None:
        """Have no share in it any more."""
        self._dirs.leave(self._key, self._shared, was_stopped=was_stopped, is_unregistered=is_unregistered)
