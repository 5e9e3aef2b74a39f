import os
import subprocess
import sys
from pathlib import Path

from torchrelay.worker.locks import SharedLock, try_lock
from torchrelay.worker.shelf import Shelf

#: Uses a model until it is told to go on; prints a line once it does.
USER = """
import sys
from pathlib import Path
from torchrelay.worker.locks import SharedLock
lock = SharedLock(Path(sys.argv[1]))
print("holds", flush=True)
sys.stdin.read()
"""


def put_model(root: Path, name: str, size: int, used_at: int | None = None) -> None:
    """Keep a model whose archive and unpacked file have `size` bytes each."""
    (root / "archives").mkdir(parents=True, exist_ok=True)
    (root / "models" / name).mkdir(parents=True)
    (root / "archives" / f"{name}.mar").write_bytes(bytes(size))
    (root / "models" / name / "weights").write_bytes(bytes(size))
    _used(root / "archives" / f"{name}.use", used_at)


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
    found = [*(root / "archives").iterdir(), *(root / "models").iterdir()]
    found += (root / "environments").iterdir() if (root / "environments").exists() else []
    assert {entry.name for entry in root.iterdir()} <= {"archives", "models", "environments"}
    return {entry.name.partition(".")[0] for entry in found if entry.suffix not in (".lock", ".use")}


def test_within_the_limit_everything_is_kept(tmp_path: Path) -> None:
    put_model(tmp_path, "a", 50)
    put_environment(tmp_path, "b", 100)
    Shelf(tmp_path, 200).tidy()
    assert kept(tmp_path) == {"a", "b"}


def test_above_it_the_least_recently_used_goes_first_model_or_environment(tmp_path: Path) -> None:
    put_model(tmp_path, "new", 50, used_at=4000)
    put_environment(tmp_path, "oldest", 100, used_at=1000)
    put_model(tmp_path, "old", 50, used_at=2000)
    put_environment(tmp_path, "newer", 100, used_at=3000)
    Shelf(tmp_path, 250).tidy()
    assert kept(tmp_path) == {"new", "newer"}


def test_what_nobody_has_ever_used_goes_before_all_else(tmp_path: Path) -> None:
    put_model(tmp_path, "used", 50, used_at=1)
    put_model(tmp_path, "never", 50)
    Shelf(tmp_path, 100).tidy()
    assert kept(tmp_path) == {"used"}


def test_what_another_process_uses_is_kept_until_that_has_ended(tmp_path: Path) -> None:
    put_model(tmp_path, "a", 50, used_at=1)
    put_model(tmp_path, "b", 50, used_at=2)
    command = [sys.executable, "-c", USER, str(tmp_path / "archives" / "a.use")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == b"holds\n"
        Shelf(tmp_path, 1).tidy()
        assert kept(tmp_path) == {"a"}
        user.kill()
        user.wait(5)
    Shelf(tmp_path, 1).tidy()
    assert kept(tmp_path) == set()


def test_what_several_use_is_kept_until_the_last_lets_go(tmp_path: Path) -> None:
    put_environment(tmp_path, "a", 50, used_at=1)
    put_model(tmp_path, "b", 50)
    shelf = Shelf(tmp_path, 1)
    first, second = shelf.use_environment("a"), shelf.use_environment("a")
    first.release()
    shelf.tidy()
    assert kept(tmp_path) == {"a"}
    second.release()
    Shelf(tmp_path, 1).tidy()
    assert kept(tmp_path) == set()


def test_what_is_being_made_is_kept(tmp_path: Path) -> None:
    put_model(tmp_path, "a", 50, used_at=1)
    with try_lock(tmp_path / "archives" / "a.lock") as is_mine:
        assert is_mine
        Shelf(tmp_path, 1).tidy()
        assert kept(tmp_path) == {"a"}


def test_beginning_and_ceasing_to_use_something_make_it_recent(tmp_path: Path) -> None:
    put_model(tmp_path, "a", 50, used_at=1)
    put_model(tmp_path, "b", 50, used_at=1000)
    file = tmp_path / "archives" / "a.use"
    lock = SharedLock(file)
    assert file.stat().st_mtime > 1000
    _used(file, 1)
    lock.release()
    Shelf(tmp_path, 100).tidy()
    assert kept(tmp_path) == {"a"}


def test_a_model_on_its_way_and_what_a_death_left_behind_count_and_go(tmp_path: Path) -> None:
    put_model(tmp_path, "a", 50, used_at=9)
    (tmp_path / "archives" / "b.part").write_bytes(bytes(60))
    (tmp_path / "models" / "c.half").mkdir()
    (tmp_path / "models" / "c.half" / "weights").write_bytes(bytes(60))
    (tmp_path / "dropped.x").mkdir()
    (tmp_path / "dropped.x" / "0").write_bytes(bytes(60))
    Shelf(tmp_path, 100).tidy()
    assert kept(tmp_path) == {"a"}


def test_it_is_tidied_again_only_when_something_new_is_used(tmp_path: Path) -> None:
    put_model(tmp_path, "a", 50, used_at=1)
    shelf = Shelf(tmp_path, 150)
    shelf.tidy()
    put_model(tmp_path, "b", 50)
    shelf.use_model("a").release()
    shelf.tidy()
    assert kept(tmp_path) == {"a", "b"}
    lock = shelf.use_model("b")
    shelf.tidy()
    assert kept(tmp_path) == {"b"}
    lock.release()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(bytes(500))
    root = tmp_path / "cache"
    put_model(root, "a", 50, used_at=1)
    (root / "models" / "a" / "link").symlink_to(outside)
    Shelf(root, 1).tidy()
    assert kept(root) == set()
    assert (outside / "precious").exists()
