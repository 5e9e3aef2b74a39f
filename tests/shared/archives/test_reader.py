"""Archives are read by processes that may take so much, and whatever becomes of those is told in a line."""

import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.support import READER, eventually
from torchrelay.shared.archives import model_archive, reader_protocol
from torchrelay.shared.archives.reader import ArchiveReader
from torchrelay.shared.errors import InvalidModel, ServiceUnavailable, StoreFailed

MANIFEST = {"model": {"modelName": "m", "handler": "h.py", "configFile": "c.yaml"}}


@pytest.fixture
def reader() -> Iterator[ArchiveReader]:
    made = ArchiveReader()
    yield made
    made.close()


def write_mar(path: Path, config: str = "batchSize: 3", *names: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(model_archive.MANIFEST_NAME, json.dumps(MANIFEST))
        file.writestr("h.py", "x = 1")
        file.writestr("c.yaml", config)
        for name in names:
            file.writestr(name, "")
    return path


def slow_mar(path: Path, names: int = 80_000) -> Path:
    """Write an archive whose config takes seconds to read, as each of its lines is built and thrown away."""
    return write_mar(path, "a: {" + "b, " * names + "}")


def large_in_memory(path: Path) -> Path:
    """Write a tar of 60 MB whose reader holds all of it in memory, as each entry's headers are kept."""
    comment = "x" * 60_000
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT, compresslevel=1) as file:
        for number in range(1000):
            entry = tarfile.TarInfo(f"m/{number}")
            entry.pax_headers = {"comment": comment}
            file.addfile(entry)
    return path


def forked(reader: ArchiveReader) -> list[psutil.Process]:
    assert reader.process_id
    return psutil.Process(reader.process_id).children()


def test_what_it_reads_is_what_archive_reads(tmp_path: Path) -> None:
    path = write_mar(tmp_path / "m.mar")
    assert READER.inspect(path) == model_archive.inspect(path)
    assert READER.inspect(path).server_config == model_archive.inspect(path).server_config
    assert READER.unpacked_bytes(path) == model_archive.unpacked_bytes(path)
    READER.extract(path, tmp_path / "out")
    assert (tmp_path / "out" / "h.py").read_text() == "x = 1"
    assert READER.inspect_folder(tmp_path / "out") == model_archive.inspect_folder(tmp_path / "out")
    READER.pack_folder(tmp_path / "out", tmp_path / "packed.mar")
    model_archive.pack_folder(tmp_path / "out", tmp_path / "again.mar")
    assert (tmp_path / "packed.mar").read_bytes() == (tmp_path / "again.mar").read_bytes()


def test_names_that_are_no_text_and_relative_ones_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    READER.inspect(write_mar(tmp_path / "first.mar"))  # the process is there, in another folder
    monkeypatch.chdir(tmp_path)
    assert READER.inspect(write_mar(Path(os.fsdecode(b"\xff.mar")))).entries == 3


def test_errors_are_those_of_archive(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="points outside"):
        READER.inspect(write_mar(tmp_path / "m.mar", "", "../x"))
    (tmp_path / "n.tar.gz").write_bytes(b"no archive")
    with pytest.raises(StoreFailed, match=r"^Failed to save model: the one \(BadZipFile"):
        READER.extract(tmp_path / "n.tar.gz", tmp_path / "out", called="the one")
    (tmp_path / "file").touch()
    with pytest.raises(StoreFailed) as caught:
        READER.extract(write_mar(tmp_path / "m.mar"), tmp_path / "file" / "out")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOTDIR


def test_an_archive_that_takes_too_long_is_refused_and_its_process_gone(tmp_path: Path) -> None:
    reader = ArchiveReader(time_limit_s=0)
    with pytest.raises(InvalidModel, match=r"inspecting it took more than (1 s of cpu time|5 s)"):
        reader.inspect(slow_mar(tmp_path / "m.mar"))
    eventually(lambda: not forked(reader))
    assert reader.inspect(write_mar(tmp_path / "n.mar")).entries == 3
    reader.close()


def test_an_archive_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    reader = ArchiveReader(memory_limit_bytes=64 << 20)
    with pytest.raises(InvalidModel, match="inspecting it took more than 64 MiB of memory"):
        reader.inspect(large_in_memory(tmp_path / "m.tar.gz"))
    assert reader.inspect(write_mar(tmp_path / "n.mar")).entries == 3
    reader.close()


def test_a_process_that_is_killed_costs_its_own_archive_alone(tmp_path: Path, reader: ArchiveReader) -> None:
    reader.inspect(write_mar(tmp_path / "n.mar"))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(reader.inspect, slow_mar(tmp_path / "m.mar"))
        eventually(lambda: forked(reader))
        for process in forked(reader):
            process.send_signal(signal.SIGSEGV)
        with pytest.raises(InvalidModel, match="inspecting it ended with -11"):
            slow.result()
        assert reader.inspect(tmp_path / "n.mar").entries == 3
        first = reader.process_id
        assert first
        slow = pool.submit(reader.inspect, tmp_path / "m.mar")
        eventually(lambda: forked(reader))
        os.kill(first, signal.SIGKILL)
        with pytest.raises(StoreFailed, match="what reads it was killed"):
            slow.result()
        eventually(lambda: reader.inspect(tmp_path / "n.mar").entries == 3)
        assert reader.process_id != first


def test_whoever_waits_is_answered_when_the_reader_is_closed(tmp_path: Path, reader: ArchiveReader) -> None:
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(reader.inspect, slow_mar(tmp_path / "m.mar"))
        eventually(lambda: reader.process_id and forked(reader))
        left = [psutil.Process(reader.process_id or 0), *forked(reader)]
        reader.close()
        with pytest.raises(ServiceUnavailable):
            slow.result(5)
    eventually(lambda: not any(process.is_running() for process in left))
    with pytest.raises(ServiceUnavailable):
        reader.inspect(tmp_path / "m.mar")


def test_nothing_is_left_of_a_server_that_is_killed(tmp_path: Path) -> None:
    code = "import sys, pathlib, torchrelay.shared.archives.reader as r; "
    code += "r.ArchiveReader().inspect(pathlib.Path(sys.argv[1]))"
    with subprocess.Popen([sys.executable, "-c", code, slow_mar(tmp_path / "m.mar")]) as server:
        eventually(lambda: len(psutil.Process(server.pid).children(recursive=True)) == 2)
        left = psutil.Process(server.pid).children(recursive=True)
        server.kill()
    eventually(lambda: not any(process.is_running() for process in left))


def test_many_threads_may_ask_at_once(tmp_path: Path, reader: ArchiveReader) -> None:
    path = write_mar(tmp_path / "m.mar")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: reader.inspect(path).entries, range(32)))
    assert found == [3] * 32
    eventually(lambda: not forked(reader))
    assert not reader.waiting


def test_other_threads_run_while_an_archive_is_read(tmp_path: Path) -> None:
    turns, is_over = 0, threading.Event()

    def read() -> None:
        READER.inspect(slow_mar(tmp_path / "m.mar", 20_000))
        is_over.set()

    thread = threading.Thread(target=read)
    thread.start()
    while not is_over.wait(0.001):
        turns += 1
    thread.join()
    assert turns > 50


def test_the_process_has_nothing_of_the_environment_but_what_python_needs(
    tmp_path: Path, reader: ArchiveReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    reader.inspect(write_mar(tmp_path / "m.mar"))
    assert "AWS_SECRET_ACCESS_KEY" not in psutil.Process(reader.process_id).environ()


def test_the_longest_order_fits_a_packet() -> None:
    longest = b"x" * 4096
    order = reader_protocol.Order(reader_protocol.Extract(longest, longest), 1, 1, 1)
    assert len(msgspec.json.encode(order)) < reader_protocol.PACKET_LIMIT_BYTES


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[Path]:
    """Folders in folders, deeper than Python's functions go: nor could pytest remove them."""
    for depth in range(1100):
        os.mkdir(f"{tmp_path}/m{'/d' * depth}")
    yield tmp_path / "m"
    subprocess.run(["rm", "-rf", tmp_path / "m"], check=True)


def test_what_nobody_foresaw_is_a_line_and_the_callers_fault(tmp_path: Path, nested: Path) -> None:
    with pytest.raises(InvalidModel, match=r"^The archive can't be read: RecursionError: [^\n]*$"):
        READER.pack_folder(nested, tmp_path / "m.mar")
    assert not (tmp_path / "m.mar").exists()
