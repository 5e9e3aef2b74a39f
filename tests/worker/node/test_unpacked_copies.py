"""Copies of archives: whatever was done to one, the next who takes it sees the archive as it was made."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import READER
from tests.worker.models import ECHO, write_archive
from torchrelay.shared import ids
from torchrelay.shared.errors import StoreFailed
from torchrelay.worker.node import unpacked_copies
from torchrelay.worker.node.unpacked_copies import UnpackedCopies

FILES = {"h.py": ECHO, "weights.bin": "w" * 5000, "lib/inner.py": "VALUE = 41"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "made", FILES)


def content(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): file.read_text() if file.is_file() else "a folder"
        for file in folder.rglob("*")
    }


def rewrite(folder: Path) -> None:
    (folder / "h.py").write_text("another")


def rewrite_in_place_with_its_old_times(folder: Path) -> None:
    before = (folder / "weights.bin").stat()
    with (folder / "weights.bin").open("r+b") as file:
        file.write(b"W")
    os.utime(folder / "weights.bin", ns=(before.st_atime_ns, before.st_mtime_ns))


def append(folder: Path) -> None:
    with (folder / "h.py").open("a") as file:
        file.write("x")


def move(folder: Path) -> None:
    (folder / "weights.bin").rename(folder / "moved.bin")


def replace_by_a_link(folder: Path) -> None:
    (folder / "weights.bin").rename(folder / "moved.bin")
    (folder / "weights.bin").symlink_to("moved.bin")


def link_from_elsewhere(folder: Path) -> None:
    """Whoever has the link may write through it, later."""
    (folder.parent.parent.parent.parent / "link").hardlink_to(folder / "weights.bin")


CHANGES: dict[str, Callable[[Path], object]] = {
    "rewritten": rewrite,
    "rewritten in place": rewrite_in_place_with_its_old_times,
    "appended to": append,
    "deleted": lambda folder: (folder / "weights.bin").unlink(),
    "moved": move,
    "replaced by a link": replace_by_a_link,
    "linked from elsewhere": link_from_elsewhere,
    "with another mode": lambda folder: (folder / "h.py").chmod(0o600),
    "a folder with another mode": lambda folder: (folder / "lib").chmod(0o500),
    "a folder that can't be read": lambda folder: (folder / "lib").chmod(0),
    "a folder deleted": lambda folder: shutil.rmtree(folder / "lib"),
    "all gone": shutil.rmtree,
    "a list that was written over": lambda folder: (folder.parent / unpacked_copies.LISTING).write_text("{"),
}
ADDITIONS: dict[str, Callable[[Path], object]] = {
    "a file": lambda folder: (folder / "state.txt").open("x").write("1"),
    "a file in a folder": lambda folder: (folder / "lib" / "inner.pyc").write_text("poison"),
    "folders": lambda folder: (folder / "work" / "deep").mkdir(parents=True),
    "a full folder": lambda folder: shutil.copytree(folder / "lib", folder / "lib2"),
    "a link": lambda folder: (folder / "link").symlink_to("/"),
}


@pytest.mark.parametrize("change", [*CHANGES.values(), *ADDITIONS.values()], ids=[*CHANGES, *ADDITIONS])
def test_what_is_done_to_a_copy_does_not_stay(
    tmp_path: Path, source: Path, change: Callable[[Path], object]
) -> None:
    made = UnpackedCopies(tmp_path / "cache", READER, is_kept=True)
    copy = made.make("a", source, "")
    before = content(copy.folder)
    change(copy.folder)
    copy.release()
    again = made.claim("a") or made.make("a", source, "")
    assert content(again.folder) == before
    assert not (again.folder / "weights.bin").is_symlink()
    assert len(list((tmp_path / "cache" / "models").iterdir())) == 1
    assert not list((tmp_path / "cache").glob(f"{unpacked_copies.DROPPED}*"))


@pytest.mark.parametrize("change", [lambda _: None, *ADDITIONS.values()], ids=["nothing", *ADDITIONS])
def test_a_copy_that_was_only_added_to_need_not_be_unpacked_again(
    tmp_path: Path, source: Path, change: Callable[[Path], object]
) -> None:
    made = UnpackedCopies(tmp_path / "cache", READER, is_kept=True)
    copy = made.make("a", source, "")
    weights = (copy.folder / "weights.bin").stat()
    change(copy.folder)
    copy.release()
    again = made.claim("a")
    assert again is not None
    assert os.path.samestat(weights, (again.folder / "weights.bin").stat())


def test_a_copy_in_use_is_nobody_elses(tmp_path: Path, source: Path) -> None:
    made = UnpackedCopies(tmp_path / "cache", READER, is_kept=True)
    copy = made.make("a", source, "")
    assert made.claim("a") is None
    assert made.claim("b") is None
    copy.release()
    claim = "import sys; from pathlib import Path; "
    claim += "from torchrelay.worker.node.unpacked_copies import UnpackedCopies; "
    claim += "from torchrelay.shared.archives.reader import ArchiveReader; "
    claim += "print(UnpackedCopies(Path(sys.argv[1]), ArchiveReader(), is_kept=True).claim('a').folder)"
    command = [sys.executable, "-c", claim, str(tmp_path / "cache")]
    subprocess.run(command, check=True)
    assert made.claim("a") is not None  # a process that ends lets go


def test_what_was_left_is_found_again_as_it_was_left_unless_somebody_took_it(
    tmp_path: Path, source: Path
) -> None:
    made = UnpackedCopies(tmp_path / "cache", READER, is_kept=True)
    copy = made.make("a", source, "")
    (copy.folder / "state").write_text("1")
    copy.release()
    assert copy.take_again()
    assert (copy.folder / "state").read_text() == "1"
    copy.release()
    other = made.claim("a")
    assert other is not None
    other.release()
    assert not copy.take_again()


def test_what_can_not_be_unpacked_leaves_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(b"PK and no more")
    with pytest.raises(StoreFailed):
        UnpackedCopies(tmp_path / "cache", READER, is_kept=True).make("a", broken, "")
    assert not list((tmp_path / "cache" / "models").iterdir())


def test_copies_that_are_not_kept_are_new_and_what_a_killed_node_left_of_them_goes(
    tmp_path: Path, source: Path
) -> None:
    kept, passing = (UnpackedCopies(tmp_path / "cache", READER, is_kept=is_kept) for is_kept in (True, False))
    kept.make("a", source, "").release()
    assert passing.claim("a") is None
    left, used = passing.make("a", source, ""), passing.make("a", source, "")
    left.release()
    passing.drop_left()
    assert not left.folder.exists()
    assert used.folder.exists()
    assert kept.claim("a") is not None


def test_names_that_are_no_text_are_listed_too(tmp_path: Path, source: Path) -> None:
    made = UnpackedCopies(tmp_path / "cache", READER, is_kept=True)
    copy = made.make("a", source, "")
    listed = json.loads((copy.folder.parent / unpacked_copies.LISTING).read_text())
    assert set(listed) == set(content(copy.folder))
    os.close(os.open(bytes(copy.folder) + b"/\xff", os.O_CREAT))
    copy.release()
    assert made.claim("a") is not None


@pytest.mark.parametrize("is_file_there", [False, True])
def test_a_copy_whose_place_is_gone_is_let_go_of_all_the_same(
    tmp_path: Path, source: Path, *, is_file_there: bool
) -> None:
    models = tmp_path / "cache" / "models"
    made = UnpackedCopies(tmp_path / "cache", READER, is_kept=True)
    released, dropped = made.make("a", source, ""), made.make("b", source, "")
    shutil.rmtree(models)
    if is_file_there:
        models.write_text("")
    released.release()
    assert not released.take_again()
    if not is_file_there:
        dropped.drop()
        assert made.make("a", source, "").folder.is_dir()


def test_a_copy_is_made_whatever_ids_other_threads_draw(tmp_path: Path, source: Path) -> None:
    made, is_over = UnpackedCopies(tmp_path / "cache", READER, is_kept=False), threading.Event()

    def draw() -> None:
        while not is_over.is_set():
            ids.request_id()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with ThreadPoolExecutor(1) as threads:
        drawing = threads.submit(draw)
        try:
            found = [made.make("a", source, "m") for _ in range(100)]
        finally:
            is_over.set()
            sys.setswitchinterval(interval)
        drawing.result()
    assert len({copy.folder for copy in found}) == 100
    for copy in found:
        copy.release()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """A folder that is removed whatever is in it, which pytest may not be able to."""
    yield tmp_path / "cache"
    subprocess.run(["rm", "-rf", tmp_path / "cache"], check=True)


#: Folders in folders that no path leads to, whatever depth of calls some other test has allowed Python.
ENDLESS = 2200


def nest(folder: Path, depth: int) -> None:
    """Make folders in folders; their path is longer than any that the system takes."""
    at = os.open(folder, os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)


def test_folders_that_a_handler_has_nested_without_end_are_removed_and_hold_up_nobody(
    cache: Path, source: Path
) -> None:
    made = UnpackedCopies(cache, READER, is_kept=True)
    copy = made.make("a", source, "")
    nest(copy.folder, ENDLESS)
    copy.release()
    assert made.claim("a") is None
    assert not list((cache / "models").iterdir())
    assert not list(cache.glob(f"{unpacked_copies.DROPPED}*"))
    copy = made.make("a", source, "")
    nest(copy.folder, ENDLESS)
    copy.drop()
    assert not list((cache / "models").iterdir())
