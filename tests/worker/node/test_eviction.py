import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from torchrelay.shared.locks import SharedLock, try_lock
from torchrelay.worker.node.eviction import Disk, Eviction, excess_bytes
from torchrelay.worker.node.unpacked_copies import LISTING, LOCK

#: Uses a model until it is told to go on; prints a line once it does.
USER = """
import sys
from pathlib import Path
from torchrelay.shared.locks import SharedLock
lock = SharedLock(Path(sys.argv[1]))
print("holds", flush=True)
sys.stdin.read()
"""


def put_archive(root: Path, name: str, size: int, used_at: int | None = None) -> None:
    (root / "archives").mkdir(parents=True, exist_ok=True)
    (root / "archives" / f"{name}.mar").write_bytes(bytes(size))
    _used(root / "archives" / f"{name}.use", used_at)


def put_copy(root: Path, name: str, size: int, used_at: int | None = None) -> Path:
    holder = root / "models" / f"{name}.copy"
    (holder / "model").mkdir(parents=True)
    (holder / "model" / "weights").write_bytes(bytes(size))
    (holder / LISTING).touch()
    os.utime(holder, (used_at or 0, used_at or 0))
    return holder


def put_environment(root: Path, name: str, size: int, used_at: int | None = None) -> None:
    folder = root / "environments" / name / "packages" / "deep"
    folder.mkdir(parents=True)
    (folder / "module.py").write_bytes(bytes(size))
    _used(root / "environments" / f"{name}.use", used_at)


def _used(file: Path, at: int | None) -> None:
    if at is not None:
        file.touch()
        os.utime(file, (at, at))


def kept(root: Path) -> set[str]:
    """Return what is there, whole or in part, and nothing else may be."""
    parts = [root / part for part in ("archives", "models", "environments")]
    found = [entry for part in parts if part.exists() for entry in part.iterdir()]
    assert {entry.name for entry in root.iterdir()} <= {"archives", "models", "environments"}
    return {entry.name.partition(".")[0] for entry in found if entry.suffix not in (".lock", ".use")}


ROOMY = Disk(total=1 << 40, free=1 << 40)


def eviction(root: Path, limit_bytes: int, disk: Disk = ROOMY) -> Eviction:
    return Eviction(root, limit_bytes, lambda _: disk)


@pytest.mark.parametrize(
    ("kept", "limit", "disk", "coming", "excess"),
    [
        (100, 100, ROOMY, 0, 0),
        (100, 90, ROOMY, 0, 10),
        (100, 100, ROOMY, 5, 5),
        # A tenth of the disk stays free, whatever the limit.
        (100, 10_000, Disk(1000, 100), 0, 0),
        (100, 10_000, Disk(1000, 70), 0, 30),
        (100, 10_000, Disk(1000, 130), 50, 20),
        # Of a large disk that would be much.
        (100, 1 << 60, Disk(1 << 50, 10 << 30), 0, 0),
        (100, 1 << 60, Disk(1 << 50, 9 << 30), 0, 1 << 30),
        (100, 60, Disk(1000, 95), 0, 40),
    ],
)
def test_what_is_kept_is_bounded_by_the_limit_and_by_what_the_disk_has(
    kept: int, limit: int, disk: Disk, coming: int, excess: int
) -> None:
    assert max(0, excess_bytes(kept, limit, disk, coming)) == excess


def test_within_the_limit_everything_is_kept(tmp_path: Path) -> None:
    put_copy(tmp_path, "a", 100)
    put_archive(tmp_path, "b", 100)
    put_environment(tmp_path, "c", 100)
    eviction(tmp_path, 300).tidy()
    assert kept(tmp_path) == {"a", "b", "c"}


def test_above_it_the_least_recently_used_goes_first_whatever_it_is(tmp_path: Path) -> None:
    put_copy(tmp_path, "new", 100, used_at=5000)
    put_environment(tmp_path, "oldest", 100, used_at=1000)
    put_copy(tmp_path, "old", 50, used_at=2000)
    put_archive(tmp_path, "older", 50, used_at=1500)
    put_environment(tmp_path, "newer", 100, used_at=3000)
    eviction(tmp_path, 250).tidy()
    assert kept(tmp_path) == {"new", "newer", "old"}


def test_an_archive_goes_before_the_copy_that_was_made_of_it(tmp_path: Path) -> None:
    put_archive(tmp_path, "a", 100, used_at=1)
    put_copy(tmp_path, "a", 100, used_at=2)
    eviction(tmp_path, 150).tidy()
    assert not (tmp_path / "archives" / "a.mar").exists()
    assert (tmp_path / "models" / "a.copy").exists()


def test_what_nobody_has_ever_used_goes_before_all_else(tmp_path: Path) -> None:
    put_copy(tmp_path, "used", 100, used_at=1)
    put_archive(tmp_path, "never", 100)
    eviction(tmp_path, 100).tidy()
    assert kept(tmp_path) == {"used"}


def test_what_another_process_uses_is_kept_until_that_has_ended(tmp_path: Path) -> None:
    put_archive(tmp_path, "a", 100, used_at=1)
    put_archive(tmp_path, "b", 100, used_at=2)
    command = [sys.executable, "-c", USER, str(tmp_path / "archives" / "a.use")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == b"holds\n"
        eviction(tmp_path, 1).tidy()
        assert kept(tmp_path) == {"a"}
        assert not eviction(tmp_path, 1).empty()
        user.kill()
        user.wait(5)
    eviction(tmp_path, 1).tidy()
    assert kept(tmp_path) == set()


def test_what_several_use_is_kept_until_the_last_lets_go(tmp_path: Path) -> None:
    put_environment(tmp_path, "a", 50, used_at=1)
    put_copy(tmp_path, "b", 50)
    used = eviction(tmp_path, 1)
    first, second = used.use("environments", "a"), used.use("environments", "a")
    first.release()
    used.tidy()
    assert kept(tmp_path) == {"a"}
    second.release()
    eviction(tmp_path, 1).tidy()
    assert kept(tmp_path) == set()


def test_what_is_being_made_is_kept_and_a_copy_while_it_is_used(tmp_path: Path) -> None:
    put_archive(tmp_path, "a", 100, used_at=1)
    copy = put_copy(tmp_path, "b", 100, used_at=1)
    with try_lock(tmp_path / "archives" / "a.lock") as is_mine, try_lock(copy / LOCK) as is_used:
        assert is_mine
        assert is_used
        eviction(tmp_path, 1).tidy()
        assert kept(tmp_path) == {"a", "b"}
    eviction(tmp_path, 1).tidy()
    assert kept(tmp_path) == set()


def test_beginning_and_ceasing_to_use_something_make_it_recent(tmp_path: Path) -> None:
    put_archive(tmp_path, "a", 100, used_at=1)
    put_copy(tmp_path, "b", 100, used_at=1000)
    file = tmp_path / "archives" / "a.use"
    lock = SharedLock(file)
    assert file.stat().st_mtime > 1000
    _used(file, 1)
    lock.release()
    eviction(tmp_path, 100).tidy()
    assert kept(tmp_path) == {"a"}


def test_what_is_on_its_way_and_what_a_death_left_behind_count_and_go(tmp_path: Path) -> None:
    put_copy(tmp_path, "a", 100, used_at=9)
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "b.part").write_bytes(bytes(60))
    (tmp_path / "models" / "making.c").mkdir()
    (tmp_path / "models" / "making.c" / "weights").write_bytes(bytes(60))
    os.utime(tmp_path / "models" / "making.c", (1, 1))
    (tmp_path / "dropped.x").mkdir()
    (tmp_path / "dropped.x" / "0").write_bytes(bytes(60))
    eviction(tmp_path, 100).tidy()
    assert kept(tmp_path) == {"a"}


def test_what_an_earlier_version_unpacked_or_nobody_finished_goes_even_if_there_is_room(
    tmp_path: Path,
) -> None:
    put_copy(tmp_path, "a", 100, used_at=9)
    for name in ("b", "making.c"):
        (tmp_path / "models" / name / "MAR-INF").mkdir(parents=True)
    put_archive(tmp_path, "b", 10)
    used_by_an_old_node = SharedLock(tmp_path / "archives" / "b.use")
    eviction(tmp_path, 1000).tidy()
    assert {entry.name for entry in (tmp_path / "models").iterdir()} == {"a.copy", "b"}
    used_by_an_old_node.release()
    eviction(tmp_path, 1000).tidy()
    assert {entry.name for entry in (tmp_path / "models").iterdir()} == {"a.copy"}


def test_locks_of_what_is_gone_do_not_pile_up(tmp_path: Path) -> None:
    """Each build of a model has a name of its own."""
    put_archive(tmp_path, "kept", 100, used_at=1)
    tidied = eviction(tmp_path, 1000)
    for number in range(3):
        tidied.use("archives", f"build{number}").release()
    held = tidied.use("archives", "being fetched")
    tidied.tidy()
    assert {entry.name for entry in (tmp_path / "archives").iterdir()} == {
        "kept.mar", "kept.use", "being fetched.use"
    }  # fmt: skip
    held.release()


def test_it_is_tidied_again_only_when_something_new_is_used(tmp_path: Path) -> None:
    put_archive(tmp_path, "a", 100, used_at=1)
    tidied = eviction(tmp_path, 150)
    tidied.tidy()
    put_archive(tmp_path, "b", 100)
    tidied.use("archives", "a").release()
    tidied.tidy()
    assert kept(tmp_path) == {"a", "b"}
    lock = tidied.use("archives", "b")
    tidied.tidy()
    assert kept(tmp_path) == {"b"}
    lock.release()


def test_it_is_tidied_again_when_others_have_filled_the_disk(tmp_path: Path) -> None:
    put_archive(tmp_path, "a", 100, used_at=1)
    disk = ROOMY
    tidied = Eviction(tmp_path, 150, lambda _: disk)
    tidied.tidy()
    assert kept(tmp_path) == {"a"}
    disk = Disk(total=1000, free=99)
    tidied.tidy()
    assert kept(tmp_path) == set()


def test_as_much_goes_as_what_comes_needs_and_no_more(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        put_copy(tmp_path, name, 100, used_at=number)
    assert eviction(tmp_path, 1000, Disk(total=1000, free=250)).make_room(150)
    assert kept(tmp_path) == {"a", "b", "c"}
    assert eviction(tmp_path, 1000, Disk(total=1000, free=250)).make_room(200)
    assert kept(tmp_path) == {"b", "c"}
    assert not eviction(tmp_path, 1000, Disk(total=1000, free=250)).make_room(251)
    assert kept(tmp_path) == set()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(bytes(500))
    root = tmp_path / "cache"
    copy = put_copy(root, "a", 50, used_at=1)
    (copy / "model" / "link").symlink_to(outside)
    eviction(root, 1).tidy()
    assert kept(root) == set()
    assert (outside / "precious").exists()


def test_a_folder_that_somebody_has_removed_ends_nothing_and_is_made_again(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    put_archive(root, "a", 100)
    tidied = Eviction(root, 1000)
    tidied.tidy()
    shutil.rmtree(root)
    tidied.tidy()
    tidied.use("environments", "e").release()
    assert tidied.make_room(1)
