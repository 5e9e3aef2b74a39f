"""The durable registry: what it was told is there after the process is gone."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from torchrelay.broker.records import (
    PutVersion,
    RememberNodes,
    RemoveVersion,
    SetDefaultVersion,
    SetTargets,
    Snapshot,
    VersionRecord,
)
from torchrelay.broker.registry import SqlRegistry
from torchrelay.shared.errors import StoreFailed
from torchrelay.shared.model_config import ModelConfig

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


def test_a_registry_of_the_first_layout_is_led_to_this_one(tmp_path: Path) -> None:
    path = tmp_path / "r"
    with closing(sqlite3.connect(path)) as old, old:
        old.executescript("""
            CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
            INSERT INTO facts VALUES ('layout', 1), ('epoch', 4);
            CREATE TABLE models (model TEXT PRIMARY KEY, default_version TEXT NOT NULL);
            INSERT INTO models VALUES ('m', '1.0');
            CREATE TABLE versions (
                number INTEGER PRIMARY KEY, model TEXT NOT NULL REFERENCES models (model),
                version TEXT NOT NULL, url TEXT NOT NULL, archive TEXT NOT NULL,
                archive_bytes BIGINT NOT NULL, handler TEXT NOT NULL, runtime TEXT NOT NULL,
                min_workers INTEGER NOT NULL, max_workers INTEGER NOT NULL, batch_size INTEGER NOT NULL,
                max_batch_delay_ms INTEGER NOT NULL, response_timeout_s INTEGER NOT NULL,
                startup_timeout_s INTEGER NOT NULL, loaded_at_startup BOOLEAN NOT NULL,
                UNIQUE (model, version));
            INSERT INTO versions VALUES
                (1, 'm', '1.0', 'm.mar', 'sha', 10, 'h', 'python', 1, 2, 4, 100, 120, 120, 0);
        """)
    assert reopened(path).versions == (RECORD,)
    registry = SqlRegistry(path)
    changed = replace(RECORD, config=ModelConfig(batch_size=3, device_ids=(1,)), has_requirements=True,
                      archive_path="/m.mar", registration="5-1")  # fmt: skip
    registry.apply(PutVersion(changed))
    assert registry.begin_epoch() == 5
    registry.close()
    assert reopened(path).versions == (changed,)
