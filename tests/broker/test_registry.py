"""The durable registry: what it was told is there after the process is gone."""

from dataclasses import replace
from pathlib import Path

import pytest

from broker.records import (
    PutVersion,
    RememberNodes,
    RemoveVersion,
    SetDefaultVersion,
    SetTargets,
    Snapshot,
    VersionRecord,
)
from broker.registry import SqlRegistry
from shared.errors import StoreFailed

RECORD = VersionRecord("m", "1.0", "m.mar", "sha", 10, "h", "python", 1, 2, 4, 100, 120, 120, False)


def reopened(path: Path) -> Snapshot:
    registry = SqlRegistry(path)
    try:
        return registry.load()
    finally:
        registry.close()


def test_every_change_is_there_after_reopening_without_a_close(tmp_path: Path) -> None:
    path = tmp_path / "state" / "registry.sqlite"
    registry = SqlRegistry(path)
    second = replace(RECORD, version="2.0", url="m2.mar")
    for change in (
        PutVersion(RECORD),
        PutVersion(second),
        SetDefaultVersion("m", "2.0"),
        SetTargets("m", "1.0", 3, 5),
        RememberNodes(("a", "b")),
    ):
        registry.apply(change)
    expected = (replace(RECORD, min_workers=3, max_workers=5), second)
    assert reopened(path) == Snapshot(expected, (("m", "2.0"),), ("a", "b"))
    registry.close()


def test_the_last_version_takes_its_model_along(tmp_path: Path) -> None:
    registry = SqlRegistry(tmp_path / "r")
    registry.apply(PutVersion(RECORD))
    registry.apply(PutVersion(replace(RECORD, version="2.0")))
    registry.apply(RemoveVersion("m", "2.0"))
    assert registry.load().defaults == (("m", "1.0"),)
    registry.apply(RemoveVersion("m", "1.0"))
    assert registry.load() == Snapshot()
    registry.close()


def test_a_version_put_twice_is_replaced_and_keeps_its_place(tmp_path: Path) -> None:
    registry = SqlRegistry(tmp_path / "r")
    registry.apply(PutVersion(RECORD))
    registry.apply(PutVersion(replace(RECORD, version="2.0")))
    registry.apply(PutVersion(replace(RECORD, archive="new")))
    assert [(r.version, r.archive) for r in registry.load().versions] == [("1.0", "new"), ("2.0", "sha")]
    registry.close()


def test_a_default_that_does_not_exist_is_not_set(tmp_path: Path) -> None:
    registry = SqlRegistry(tmp_path / "r")
    registry.apply(PutVersion(RECORD))
    registry.apply(SetDefaultVersion("m", "9"))
    assert registry.load().defaults == (("m", "1.0"),)
    registry.close()


def test_epochs_only_grow(tmp_path: Path) -> None:
    epochs = []
    for _ in range(3):
        registry = SqlRegistry(tmp_path / "r")
        epochs.append(registry.begin_epoch())
        registry.close()
    assert epochs == [1, 2, 3]


def test_commits_are_synced_to_disk(tmp_path: Path) -> None:
    registry = SqlRegistry(tmp_path / "r")
    with registry._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    registry.close()


def test_a_file_that_is_no_database_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_bytes(b"not a database, but long enough to look like something" * 100)
    with pytest.raises(StoreFailed, match="move the file away"):
        SqlRegistry(path)


def test_a_change_that_cannot_be_written_raises_and_nothing_of_it_happened(tmp_path: Path) -> None:
    registry = SqlRegistry(tmp_path / "r")
    with registry._engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER no BEFORE INSERT ON versions BEGIN SELECT RAISE(FAIL, 'full'); END"
        )
    with pytest.raises(StoreFailed, match="full"):
        registry.apply(PutVersion(RECORD))
    assert registry.load() == Snapshot()
    registry.close()
