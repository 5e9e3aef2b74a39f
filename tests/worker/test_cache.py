import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import eventually_async
from tests.worker.models import ECHO, write_archive
from torchrelay.shared import archive
from torchrelay.shared import messages as m
from torchrelay.shared.errors import StoreFailed
from torchrelay.worker import cache
from torchrelay.worker.cache import CHUNK_BYTES, CREDIT_CHUNKS, ArchiveCache, Download


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
        self.cache = ArchiveCache(folder, self.asked.append, lambda *_: None)

    def answer(self, content: bytes) -> None:
        for ask in self.asked:
            data = content[ask.offset : ask.offset + ask.length]
            self.cache.arrived(m.ArchiveChunk(ask.archive, ask.offset, len(content)), data)
        self.asked.clear()


def make_archive(folder: Path) -> tuple[str, bytes]:
    file = write_archive(folder / "made", {"h.py": ECHO})
    return archive.sha256_of(file), file.read_bytes()


async def test_an_archive_is_provided_unpacked_and_the_next_time_at_once(tmp_path: Path) -> None:
    name, content = make_archive(tmp_path)
    broker = Broker(tmp_path / "cache")
    providing = [asyncio.create_task(broker.cache.provide(name, len(content))) for _ in range(2)]
    await eventually_async(lambda: broker.asked)
    assert len(broker.asked) == 1
    broker.answer(content)
    folders = await asyncio.gather(*providing)
    assert folders[0] == folders[1]
    assert (folders[0] / "h.py").read_text() == ECHO
    assert await broker.cache.provide(name, len(content)) == folders[0]
    assert broker.asked == []
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
    assert (await providing).is_dir()
    await broker.cache.close()


async def test_answers_that_never_come_are_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "STALL_S", 0.05)
    name, content = make_archive(tmp_path)
    broker = Broker(tmp_path / "cache")
    providing = asyncio.create_task(broker.cache.provide(name, len(content)))
    await eventually_async(lambda: len(broker.asked) >= 2)
    broker.answer(content)
    assert (await providing).is_dir()
    await broker.cache.close()


async def test_a_broken_archive_is_refused_and_fetched_anew_the_next_time(tmp_path: Path) -> None:
    name, content = make_archive(tmp_path)
    broker = Broker(tmp_path / "cache")
    for answered in (content[:-1] + b"?", content):
        providing = asyncio.create_task(broker.cache.provide(name, len(content)))
        await eventually_async(lambda: broker.asked)
        broker.answer(answered)
        if answered is content:
            assert (await providing).is_dir()
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
    assert (await second).is_dir()
    await broker.cache.close()


async def test_leftovers_of_a_node_that_died_while_unpacking_are_removed(tmp_path: Path) -> None:
    name, content = make_archive(tmp_path)
    leftover = tmp_path / "cache" / "models" / f"{name}.half"
    (leftover / "deep").mkdir(parents=True)
    (tmp_path / "cache" / "archives").mkdir()
    (tmp_path / "cache" / "archives" / f"{name}.mar").write_bytes(content)
    broker = Broker(tmp_path / "cache")
    folder = await broker.cache.provide(name, len(content))
    assert [entry.name for entry in folder.parent.iterdir()] == [name]
    await broker.cache.close()
