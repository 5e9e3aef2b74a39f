"""Locks: who holds one keeps others off, and a file that was removed locks nothing."""

import fcntl
from pathlib import Path

import pytest

from torchrelay.shared import locks
from torchrelay.shared.locks import SharedLock, hold


def test_a_lock_has_one_holder_until_its_file_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with file.open("wb") as first, file.open("rb") as second:
        assert locks.try_flock(first)
        assert not locks.try_flock(second)
        assert not locks.try_flock(second, is_shared=True)
        assert hold(file) is None
        first.close()
        assert locks.try_flock(second)


def test_a_shared_lock_has_many_holders_and_none_beside_them_that_holds_it_alone(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    one, two = SharedLock(file), SharedLock(file)
    with locks.try_lock(file) as is_mine:
        assert not is_mine
    one.release()
    two.release()
    with locks.try_lock(file) as is_mine:
        assert is_mine


def test_a_lock_that_is_held_in_a_block_is_free_after_it(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("wb") as first, (tmp_path / "lock").open("rb") as second:
        with locks.flocked(first):
            assert not locks.try_flock(second)
        assert locks.try_flock(second)


def test_a_file_that_was_removed_or_replaced_is_no_longer_at_its_path(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as opened:
        assert locks.is_at(path, opened)
        assert locks.is_at(path, opened.fileno())
        (tmp_path / "link").symlink_to(path)
        assert locks.is_at(tmp_path / "link", opened)
        assert not locks.is_at(tmp_path / "link", opened, follow_symlinks=False)
        path.unlink()
        assert not locks.is_at(path, opened)
        path.touch()
        assert not locks.is_at(path, opened)


def test_who_waits_for_a_lock_that_is_removed_holds_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.use"
    really_lock = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if not removals:
            removals.append(file)
            file.unlink()
        really_lock(descriptor, operation)

    removals: list[Path] = []
    monkeypatch.setattr(fcntl, "flock", flock)
    lock = SharedLock(file)
    assert hold(file) is None
    lock.release()
    again = hold(file)
    assert again is not None
    again.close()
