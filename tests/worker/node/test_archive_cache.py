import asyncio
import errno
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import READER, eventually_async
from tests.worker.models import ECHO, write_archive
from torchrelay.shared.archives import model_archive
from torchrelay.shared.errors import StoreFailed
from torchrelay.shared.wire import messages as m
from torchrelay.worker.node import archive_cache
from torchrelay.worker.node.archive_cache import CHUNK_BYTES, CREDIT_CHUNKS, ArchiveCache, Download
from torchrelay.worker.node.eviction import Disk, Eviction
from torchrelay.worker.node.unpacked_copies import UnpackedCopies


def content_of(chunks: int) -> bytes:
    return bytes(chunks * CHUNK_BYTES - 5)


def chunk(content: bytes, offset: int) -> bytes:
    return content[offset : offset + CHUNK_BYTES]


async def test_no_more_is_asked_for_than_the_credit() -> None:
    download = Download("a", 0, 100 * CHUNK_BYTES)
    assert [ask.offset for ask in download.requests()] == [n * CHUNK_BYTES for n in range(CREDIT_CHUNKS)]
    assert list(download.requests()) == []
    list(download.arrived(0, b"x" * CHUNK_BYTES, 100 * CHUNK_BYTES))
    assert [ask.offset for ask in download.requests()] == [CREDIT_CHUNKS * CHUNK_BYTES]


async def test_a_download_goes_on_where_it_was() -> None:
    download = Download("a", 3 * CHUNK_BYTES + 7, 5 * CHUNK_BYTES)
    assert [ask.offset for ask in download.requests()] == [3 * CHUNK_BYTES + 7, 4 * CHUNK_BYTES + 7]


async def test_an_empty_archive_is_asked_for_once() -> None:
    download = Download("a", 0, 0)
    assert [ask.offset for ask in download.requests()] == [0]
    assert not download.is_complete
    assert list(download.arrived(0, b"", 0)) == [b""]
    assert download.is_complete
    assert list(download.requests()) == []


@settings(max_examples=30)
@given(order=st.permutations(range(5)), twice=st.integers(0, 4))
async def test_chunks_in_any_order_and_repeated_become_the_archive(order: list[int], twice: int) -> None:
    content = os.urandom(16) * (5 * CHUNK_BYTES // 16 - 1)
    download = Download("a", 0, len(content))
    list(download.requests())
    written = b""
    for number in [*order, twice]:
        offset = number * CHUNK_BYTES
        written += b"".join(download.arrived(offset, chunk(content, offset), len(content)))
    assert written == content
    assert download.is_complete


async def test_what_was_lost_is_asked_for_again_from_the_first_gap() -> None:
    content = content_of(3)
    download = Download("a", 0, len(content))
    list(download.requests())
    list(download.arrived(0, chunk(content, 0), len(content)))
    list(download.arrived(2 * CHUNK_BYTES, chunk(content, 2 * CHUNK_BYTES), len(content)))
    download.ask_again()
    assert [ask.offset for ask in download.requests()] == [CHUNK_BYTES, 2 * CHUNK_BYTES]


class Broker:
    """Answers what a cache asks for, when told to."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[m.FetchArchive] = []
        self.disk = Disk(total=1 << 40, free=1 << 40)
        eviction = Eviction(folder, 1 << 40, lambda _: self.disk)
        copies = UnpackedCopies(folder, READER, is_kept=True)
        self.cache = ArchiveCache(folder, eviction, copies, self.asked.append, lambda *_: None)

    def answer(self, content: bytes) -> None:
        for ask in self.asked:
            data = content[ask.offset : ask.offset + ask.length]
            self.cache.arrived(m.ArchiveChunk(ask.archive, ask.offset, len(content)), data)
        self.asked.clear()


def make_archive(folder: Path) -> tuple[str, bytes]:
    file = write_archive(folder / "made", {"h.py": ECHO})
    return model_archive.sha256_of(file), file.read_bytes()


async def test_an_archive_is_fetched_once_and_everybody_who_asks_gets_a_copy(tmp_path: Path) -> None:
    name, content = make_archive(tmp_path)
    broker = Broker(tmp_path / "cache")
    providing = [asyncio.create_task(broker.cache.provide(name, len(content))) for _ in range(2)]
    await eventually_async(lambda: broker.asked)
    assert len(broker.asked) == 1
    broker.answer(content)
    first, second = await asyncio.gather(*providing)
    assert first.folder != second.folder
    assert (first.folder / "h.py").read_text() == (second.folder / "h.py").read_text() == ECHO
    first.release()
    third = await broker.cache.provide(name, len(content))
    assert (third.folder / "h.py").read_text() == ECHO
    assert broker.asked == []
    assert len(list((tmp_path / "cache" / "models").iterdir())) == 2
    await broker.cache.close()


async def test_answers_lost_with_a_connection_are_asked_for_again(tmp_path: Path) -> None:
    name, content = make_archive(tmp_path)
    broker = Broker(tmp_path / "cache")
    providing = asyncio.create_task(broker.cache.provide(name, len(content)))
    await eventually_async(lambda: broker.asked)
    broker.asked.clear()
    broker.cache.reconnected()
    await eventually_async(lambda: broker.asked)
    broker.answer(content)
    assert (await providing).folder.is_dir()
    await broker.cache.close()


async def test_answers_that_never_come_are_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_cache, "STALL_S", 0.05)
    name, content = make_archive(tmp_path)
    broker = Broker(tmp_path / "cache")
    providing = asyncio.create_task(broker.cache.provide(name, len(content)))
    await eventually_async(lambda: len(broker.asked) >= 2)
    broker.answer(content)
    assert (await providing).folder.is_dir()
    await broker.cache.close()


async def test_a_broken_archive_is_refused_and_fetched_anew_the_next_time(tmp_path: Path) -> None:
    name, content = make_archive(tmp_path)
    broker = Broker(tmp_path / "cache")
    for answered in (content[:-1] + b"?", content):
        providing = asyncio.create_task(broker.cache.provide(name, len(content)))
        await eventually_async(lambda: broker.asked)
        broker.answer(answered)
        if answered is content:
            assert (await providing).folder.is_dir()
        else:
            with pytest.raises(StoreFailed, match="came broken"):
                await providing
    await broker.cache.close()


async def test_a_worker_that_no_longer_waits_leaves_the_others_their_archive(tmp_path: Path) -> None:
    name, content = make_archive(tmp_path)
    broker = Broker(tmp_path / "cache")
    first, second = (asyncio.create_task(broker.cache.provide(name, len(content))) for _ in range(2))
    await eventually_async(lambda: broker.asked)
    first.cancel()
    await asyncio.wait([first])
    broker.answer(content)
    assert (await second).folder.is_dir()
    await broker.cache.close()


async def test_an_archive_that_lies_on_this_host_is_taken_from_there(tmp_path: Path) -> None:
    name, content = make_archive(tmp_path)
    broker = Broker(tmp_path / "cache")
    copy = await broker.cache.provide(name, len(content), "m.mar", str(tmp_path / "made" / "m.mar"))
    assert (copy.folder / "h.py").read_text() == ECHO
    assert broker.asked == []
    assert not list((tmp_path / "cache" / "archives").glob("*.mar"))
    await broker.cache.close()


async def test_a_cache_that_was_removed_while_its_node_runs_is_made_again(tmp_path: Path) -> None:
    """As by who tidies /tmp."""
    name, content = make_archive(tmp_path)
    place = str(tmp_path / "made" / "m.mar")
    broker = Broker(tmp_path / "cache")
    (await broker.cache.provide(name, len(content), "m.mar", place)).release()
    shutil.rmtree(tmp_path / "cache")
    copy = await broker.cache.provide(name, len(content), "m.mar", place)
    assert (copy.folder / "h.py").read_text() == ECHO
    await broker.cache.close()


@pytest.mark.parametrize("there", [b"another archive", None])
async def test_what_is_not_the_archive_at_its_place_is_left_alone(
    tmp_path: Path, there: bytes | None
) -> None:
    """The file was replaced, or the broker's path means something else on this host."""
    name, content = make_archive(tmp_path)
    file = tmp_path / "made" / "m.mar"
    file.unlink()
    if there is not None:
        file.write_bytes(there.ljust(len(content)))
    broker = Broker(tmp_path / "cache")
    providing = asyncio.create_task(broker.cache.provide(name, len(content), "m.mar", str(file)))
    await eventually_async(lambda: broker.asked)
    broker.answer(content)
    assert ((await providing).folder / "h.py").read_text() == ECHO
    await broker.cache.close()


def put_unused(root: Path, size: int) -> Path:
    """Put a copy that nobody uses into the cache."""
    holder = root / "models" / f"{'a' * 64}.old"
    (holder / "model").mkdir(parents=True)
    (holder / "model" / "weights").write_bytes(bytes(size))
    return holder


async def test_room_is_made_before_an_archive_comes(tmp_path: Path) -> None:
    name, content = make_archive(tmp_path)
    unused = put_unused(tmp_path / "cache", 1 << 20)
    broker = Broker(tmp_path / "cache")
    broker.disk = Disk(total=10 << 20, free=2 << 20)
    copy = await broker.cache.provide(name, len(content), "", str(tmp_path / "made" / "m.mar"))
    assert unused.exists()
    copy.release()
    broker.disk = Disk(total=10 << 20, free=1 << 20)
    copy = await broker.cache.provide(name, len(content), "", str(tmp_path / "made" / "m.mar"))
    assert unused.exists()
    file = write_archive(tmp_path / "larger", {"h.py": ECHO, "weights": "x" * 100_000})
    larger = model_archive.sha256_of(file)
    await broker.cache.provide(larger, file.stat().st_size, "", str(file))
    assert not unused.exists()
    assert copy.folder.exists()
    await broker.cache.close()


async def test_on_a_disk_that_turns_out_to_be_full_all_that_nobody_uses_goes_and_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Free space may be root's alone, or beyond a quota: then only writing tells."""
    name, content = make_archive(tmp_path)
    unused = put_unused(tmp_path / "cache", 10)
    broker = Broker(tmp_path / "cache")
    really_extract = READER.extract

    def extract(path: Path, into: Path, *, called: str = "") -> None:
        if unused.exists():
            raise StoreFailed("Failed to save model") from OSError(errno.EDQUOT, "Disk quota exceeded")
        really_extract(path, into, called=called)

    monkeypatch.setattr(READER, "extract", extract)
    copy = await broker.cache.provide(name, len(content), "", str(tmp_path / "made" / "m.mar"))
    assert (copy.folder / "h.py").read_text() == ECHO
    await broker.cache.close()


async def test_an_archive_that_cannot_fit_is_refused_with_what_it_needs_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    name, content = make_archive(tmp_path)
    broker = Broker(tmp_path / "cache")
    broker.disk = Disk(total=10, free=9)
    providing = broker.cache.provide(name, len(content), "m.mar", str(tmp_path / "made" / "m.mar"))
    with pytest.raises(StoreFailed, match=r"Failed to save model: m.mar") as caught:
        await providing
    assert "No space left on the disk" in caught.value.details
    assert not list((tmp_path / "cache" / "models").iterdir())
    await broker.cache.close()
