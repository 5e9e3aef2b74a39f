"""The handlers' model_dir: a folder that the workers of a registration share on their node.

As in TorchServe the folder begins as the archive was made, and is removed with the registration. A worker
that replaces one that died finds the changed folder; after all workers were told to stop, the next one finds
the archive as it was made, if it can still be fetched. A model that is a folder of this host is used in its
place. Runs on the node's event loop.
"""

import asyncio
import logging
from pathlib import Path

import msgspec

from torchrelay.shared.errors import RelayError
from torchrelay.shared.wire import messages as m
from torchrelay.worker.node.archive_cache import ArchiveCache
from torchrelay.worker.node.unpacked_copies import UnpackedCopies, UnpackedCopy

logger = logging.getLogger(__name__)

#: Model, version, registration, archive.
Key = tuple[str, str, str, str]


class SharedDir(msgspec.Struct, eq=False):
    """A folder, and the workers of one registration that share it."""

    key: Key
    users: int = 0
    #: Provides the copy; if it fails, it fails for all workers that wait for it.
    opening: asyncio.Task[None] | None = None
    copy: UnpackedCopy | None = None
    #: Whether another node may take the copy, or drop it.
    is_free: bool = False
    #: Whether its workers were told to stop, so that their changes are undone.
    is_spent: bool = False
    #: The folder of the copy, or the model itself.
    folder: Path | None = None


class ModelDirs:
    """The folders of a node, by registration."""

    def __init__(self, cache: ArchiveCache, copies: UnpackedCopies, *, is_kept: bool) -> None:
        self._cache = cache
        self._copies = copies
        self._is_kept = is_kept
        self._shared: dict[Key, SharedDir] = {}
        #: Tasks that provide or drop copies; `close` waits for them.
        self._openings: set[asyncio.Task[None]] = set()
        self._drops: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Remove the copies of killed nodes that kept none."""
        if not self._is_kept:
            await self._cache.in_thread(self._copies.drop_left)

    def share(self, start: m.StartWorker) -> SharedDir:
        """Count a worker among those that share the folder of its registration."""
        key = (start.model, start.version, start.registration, start.archive)
        if key not in self._shared:
            self._forget_older(key)
            self._shared[key] = SharedDir(key)
        self._shared[key].users += 1
        return self._shared[key]

    async def close(self) -> None:
        """Release all folders without users, and wait until dropped ones are removed."""
        for shared in list(self._shared.values()):
            if shared.users == 0:
                self._end(shared)
        # A copy that is still being unpacked is dropped or released as soon as it is complete.
        await asyncio.gather(*self._openings, return_exceptions=True)
        await asyncio.gather(*self._drops, return_exceptions=True)

    async def folder_of(self, shared: SharedDir, start: m.StartWorker) -> Path:
        """Return the folder, made for its first worker; raises as ArchiveCache.provide does."""
        if shared.opening is None or (shared.opening.done() and (shared.folder is None or shared.is_free)):
            shared.opening = asyncio.create_task(self._open(shared, start))
            self._openings.add(shared.opening)
            shared.opening.add_done_callback(lambda task: self._opened(task, start.archive))
        # Shielded: a worker that is no longer wanted leaves the others their folder.
        await asyncio.shield(shared.opening)
        assert shared.folder is not None
        return shared.folder

    def leave(self, shared: SharedDir, *, was_stopped: bool, is_unregistered: bool) -> None:
        """Count a worker out; after the last one the folder is released or dropped."""
        shared.users -= 1
        if shared.users > 0:
            return
        shared.is_spent = was_stopped
        if is_unregistered or shared.copy is None:
            self._end(shared)
        elif not shared.is_free:
            shared.copy.release()
            shared.is_free = True

    async def _open(self, shared: SharedDir, start: m.StartWorker) -> None:
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
            self._end(shared)

    async def _as_made(self, copy: UnpackedCopy, start: m.StartWorker) -> UnpackedCopy:
        """Return a copy as the archive was made; the changed one if the archive can't be fetched any more."""
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

    async def _provide(self, start: m.StartWorker) -> UnpackedCopy:
        return await self._cache.provide(start.archive, start.archive_bytes, start.url, start.archive_path)

    def _opened(self, task: asyncio.Task[None], archive: str) -> None:
        self._openings.discard(task)
        if not task.cancelled() and (failure := task.exception()):
            logger.warning("archive.failed", extra={"archive": archive, "reason": str(failure)})

    def _forget_older(self, key: Key) -> None:
        """Release the folders that earlier registrations of the same version left when their workers died."""
        for shared in list(self._shared.values()):
            if shared.key[:2] == key[:2] and shared.users == 0:
                self._end(shared)

    def _end(self, shared: SharedDir) -> None:
        if self._shared.get(shared.key) is shared:
            del self._shared[shared.key]
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

    async def _drop(self, shared: SharedDir) -> None:
        assert shared.copy is not None
        if not shared.is_free or await self._cache.in_thread(shared.copy.take_again):
            await self._cache.in_thread(shared.copy.drop)
