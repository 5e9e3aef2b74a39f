"""What handlers do to model_dir, on a real node: who sees it, and for how long."""

import os
import subprocess
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.support import READER, eventually
from tests.worker.models import ECHO, start_worker, write_archive
from tests.worker.nodes import Fleet, Loaded, answers, copies, load, order, submit
from torchrelay.shared.archives.model_archive import sha256_of
from torchrelay.shared.wire import messages as m
from torchrelay.worker.node.archive_cache import ArchiveCache
from torchrelay.worker.node.eviction import Eviction
from torchrelay.worker.node.model_dirs import ModelDirs
from torchrelay.worker.node.unpacked_copies import UnpackedCopies

pytestmark = pytest.mark.integration

#: What the authors of handlers are told to do with what they need beside the weights.
UNPACKS = """
import os

class Handler:
    def initialize(self, context):
        folder = context.system_properties["model_dir"]
        os.mkdir(os.path.join(folder, "work"))
        os.remove(os.path.join(folder, "extra.txt"))
        with open(os.path.join(folder, "weights.txt"), "r+") as file:
            assert file.read() == "as made"
            file.seek(0)
            file.write("changed")

    def handle(self, data, context):
        return ["ok"] * len(data)
"""
PACKED = {"extra.txt": "", "weights.txt": "as made"}


def load_again(fleet: Fleet, start: m.StartWorker, **changes: object) -> Loaded:
    """Start another worker of an archive."""
    worker_id = next(fleet.worker_ids)
    fleet.broker.heard.clear()
    fleet.broker.send(fleet.node, msgspec.structs.replace(start, worker_id=worker_id, **changes))
    hello, item = fleet.greeted(worker_id)
    fleet.note_processes()
    return Loaded(fleet.node, item.peer, hello)


def stop(fleet: Fleet, loaded: Loaded, *, is_unregistered: bool = True) -> None:
    fleet.broker.send(
        fleet.node, m.StopWorker(loaded.hello.worker_id, False, "not needed any more", is_unregistered)
    )
    fleet.broker.expect(m.WorkerExited)


def restart(fleet: Fleet, *, keep_models: bool = True) -> subprocess.Popen[bytes]:
    """Start a node in the place of one that has ended."""
    fleet.broker.pump()
    fleet.broker.heard.clear()
    node = fleet.start_node(keep_models=keep_models)
    fleet.join()
    return node


def test_what_a_handler_does_to_its_archive_is_gone_with_its_registration(fleet: Fleet) -> None:
    node = fleet.start_node()
    fleet.join()
    start = order(fleet, UNPACKS, files=PACKED, registration="1-1")
    first = load_again(fleet, start)
    other = load_again(fleet, start, model="of the same content", registration="1-2")
    stop(fleet, first)
    load_again(fleet, start, registration="1-3")
    stop(fleet, other)
    node.terminate()
    assert node.wait(10) == 0
    restart(fleet)
    load_again(fleet, start, registration="1-3")


def test_workers_of_a_registration_share_what_they_write_and_one_that_dies_leaves_it_to_the_next(
    joined: Fleet,
) -> None:
    """The first makes the file, and each adds a letter."""
    code = """
import os

class Handler:
    def initialize(self, context):
        with open(os.path.join(context.system_properties["model_dir"], "starts"), "a+") as file:
            file.write("x")
            file.seek(0)
            self.starts = file.read()

    def handle(self, data, context):
        return [self.starts] * len(data)
"""
    start = order(joined, code, registration="1-1")
    workers = [load_again(joined, start)]

    def starts_of(loaded: Loaded, lease: int) -> bytes | int:
        submit(joined, loaded.worker, b"?", lease=lease)
        return answers(joined, lease)[0].body

    assert starts_of(workers[0], 1) == b"x"
    workers.append(load_again(joined, start))
    assert starts_of(workers[1], 2) == b"xx"
    for worker in workers:
        joined.broker.heard.clear()
        psutil.Process(worker.hello.pid).kill()
        joined.broker.expect(m.WorkerExited)
    last = load_again(joined, start)
    assert starts_of(last, 3) == b"xxx"
    stop(joined, last, is_unregistered=False)
    assert starts_of(load_again(joined, start), 4) == b"x"


def test_a_registration_whose_workers_died_leaves_the_next_of_its_version_nothing(joined: Fleet) -> None:
    start = order(joined, UNPACKS, files=PACKED, registration="1-1")
    psutil.Process(load_again(joined, start).hello.pid).kill()
    joined.broker.expect(m.WorkerExited)
    load_again(joined, start, registration="1-2")
    assert copies(joined)[start.archive] == 1


def test_workers_that_come_back_when_the_archive_is_gone_find_what_the_last_ones_left(fleet: Fleet) -> None:
    """The broker kept no copy, the model was scaled to nothing, and its file is the next build's."""
    code = """
import os

class Handler:
    def initialize(self, context):
        with open(os.path.join(context.system_properties["model_dir"], "weights.txt"), "a+") as file:
            file.write("x")
            file.seek(0)
            self.weights = file.read()

    def handle(self, data, context):
        return [self.weights] * len(data)
"""
    fleet.start_node(keep_models=False)
    fleet.join()
    start = order(fleet, code, files={"weights.txt": ""}, registration="1-1")
    file = fleet.folder / f"model-{start.worker_id}" / "m.mar"
    start = msgspec.structs.replace(start, archive_path=str(file))
    del fleet.broker.archives[start.archive]
    for lease, expected in enumerate([b"x", b"x", b"xx"], start=1):
        if expected == b"xx":
            file.write_bytes(b"the next build")
        loaded = load_again(fleet, start)
        submit(fleet, loaded.worker, b"?", lease=lease)
        assert answers(fleet, lease)[0].body == expected
        stop(fleet, loaded, is_unregistered=False)
        assert copies(fleet) == {start.archive: 1}


def test_a_replica_of_a_model_that_is_there_waits_for_no_disk(joined: Fleet) -> None:
    start = order(joined, ECHO, registration="1-1")
    load_again(joined, start)
    (copy,) = (joined.folder / "cache" / "models").glob(f"{start.archive}.*")
    before = (copy / "model" / "h.py").stat()
    load_again(joined, start)
    assert not joined.broker.all(m.FetchArchive)
    assert not [told for told in joined.broker.all(m.WorkerProgressed) if told.phase != "loading"]
    assert os.path.samestat(before, (copy / "model" / "h.py").stat())


def test_a_node_that_keeps_no_models_removes_each_with_its_last_worker_and_what_a_killed_one_left(
    fleet: Fleet,
) -> None:
    node = fleet.start_node(keep_models=False)
    fleet.join()
    first, second = load(fleet), load(fleet)
    stop(fleet, first)
    eventually(lambda: copies(fleet) == {second.hello.archive: 1})
    node.kill()
    node.wait(5)
    assert copies(fleet) == {second.hello.archive: 1}
    node = restart(fleet, keep_models=False)
    assert copies(fleet) == {}
    third = load(fleet)
    assert copies(fleet) == {third.hello.archive: 1}
    node.terminate()
    assert node.wait(10) == 0
    assert copies(fleet) == {}


def test_an_archive_of_this_host_is_unpacked_from_where_the_broker_has_it(joined: Fleet) -> None:
    start = order(joined, ECHO)
    path = joined.folder / f"model-{start.worker_id}" / "m.mar"
    load_again(joined, start, archive_path=str(path))
    assert not joined.broker.all(m.FetchArchive)
    assert not (joined.folder / "cache" / "archives" / f"{start.archive}.mar").exists()


async def test_where_the_disk_fails_workers_that_come_back_find_what_the_last_ones_left(
    tmp_path: Path,
) -> None:
    archive = write_archive(tmp_path / "made", {"h.py": ECHO})
    start = start_worker(archive=sha256_of(archive), archive_bytes=archive.stat().st_size)
    cached = tmp_path / "archives" / f"{start.archive}.mar"
    made = UnpackedCopies(tmp_path, READER, is_kept=True)
    cache = ArchiveCache(tmp_path, Eviction(tmp_path, 1 << 40), made, lambda _: None, lambda *_: None)
    archive.rename(cached)
    dirs = ModelDirs(cache, made, is_kept=True)
    shared = dirs.share(start)
    folder = await dirs.folder_of(shared, start)
    (folder / "h.py").write_text("changed")
    dirs.leave(shared, was_stopped=True, is_unregistered=False)
    cached.unlink()
    cached.mkdir()  # can't be read
    shared = dirs.share(start)
    assert await dirs.folder_of(shared, start) == folder
    dirs.leave(shared, was_stopped=True, is_unregistered=True)
    assert made.claim(start.archive) is None, "it was changed"
    assert not folder.exists()
    await cache.close()
