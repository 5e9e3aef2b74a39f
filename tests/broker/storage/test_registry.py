"""The durable registry: what it was told is there after the process is gone."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from torchrelay.broker.models.records import (
    PutVersion,
    PutWorkflow,
    RememberNodes,
    RemoveVersion,
    RemoveWorkflow,
    SetDefaultVersion,
    SetTargets,
    Snapshot,
    VersionRecord,
    WorkflowRecord,
)
from torchrelay.broker.storage.registry import Registry
from torchrelay.shared.archives import workflow_spec
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.errors import StoreFailed

RECORD = VersionRecord("m", "1.0", "m.mar", "sha", 10, "h", "python", 1, 2, 4, 100, 120, 120, False)


def reopened(path: Path) -> Snapshot:
    registry = Registry(path)
    try:
        return registry.load()
    finally:
        registry.close()


def test_every_change_is_there_after_reopening_without_a_close(tmp_path: Path) -> None:
    path = tmp_path / "state" / "registry.sqlite"
    registry = Registry(path)
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
    registry = Registry(tmp_path / "r")
    registry.apply(PutVersion(RECORD))
    registry.apply(PutVersion(replace(RECORD, version="2.0")))
    registry.apply(RemoveVersion("m", "2.0"))
    assert registry.load().defaults == (("m", "1.0"),)
    registry.apply(RemoveVersion("m", "1.0"))
    assert registry.load() == Snapshot()
    registry.close()


def test_a_version_put_twice_is_replaced_and_keeps_its_place(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "r")
    registry.apply(PutVersion(RECORD))
    registry.apply(PutVersion(replace(RECORD, version="2.0")))
    registry.apply(PutVersion(replace(RECORD, archive="new")))
    assert [(r.version, r.archive) for r in registry.load().versions] == [("1.0", "new"), ("2.0", "sha")]
    registry.close()


def test_a_workflow_is_there_with_its_steps_and_goes_with_them(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    spec = workflow_spec.parse(b"models: {m: {url: m.mar, timeout-ms: 7}}\ndag: {m: [f, g], f: [g]}")
    workflow = WorkflowRecord("w", "w.war", spec)
    steps = tuple(
        replace(RECORD, model=f"w__{name}", url=url, workflow="w")
        for name, url in (("m", "m.mar"), ("f", ""), ("g", ""))
    )
    registry = Registry(path)
    registry.apply(PutVersion(RECORD))
    registry.apply(PutWorkflow(workflow, steps))
    found = reopened(path)
    assert (found.workflows, found.versions) == ((workflow,), (RECORD, *steps))
    with pytest.raises(StoreFailed):
        registry.apply(PutWorkflow(workflow, (replace(RECORD, model="w__other", workflow="w"),)))
    assert reopened(path).versions == (RECORD, *steps)  # all of a change, or nothing
    registry.apply(RemoveWorkflow("w"))
    found = reopened(path)
    assert (found.workflows, found.versions, found.defaults) == ((), (RECORD,), (("m", "1.0"),))


def test_a_default_that_does_not_exist_is_not_set(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "r")
    registry.apply(PutVersion(RECORD))
    registry.apply(SetDefaultVersion("m", "9"))
    assert registry.load().defaults == (("m", "1.0"),)
    registry.close()


def test_epochs_only_grow(tmp_path: Path) -> None:
    epochs = []
    for _ in range(3):
        registry = Registry(tmp_path / "r")
        epochs.append(registry.begin_epoch())
        registry.close()
    assert epochs == [1, 2, 3]


def test_commits_are_synced_to_disk(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "r")
    with registry._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    registry.close()


def test_a_file_that_is_no_database_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_bytes(b"not a database, but long enough to look like something" * 100)
    with pytest.raises(StoreFailed, match="move the file away"):
        Registry(path)


def run_sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def spoil_the_page_of_versions(path: Path) -> None:
    content = bytearray(path.read_bytes())
    page = content.index(b"m.mar") // 4096 * 4096
    content[page : page + 8] = b"\xff" * 8
    path.write_bytes(content)


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BREAKERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no_database": (lambda path: path.write_bytes(b"garbage" * 1000), "move the file away"),
    "cut_short": (cut_short, "move the file away"),
    "a_spoiled_page": (spoil_the_page_of_versions, "move the file away"),
    "newer": (lambda path: run_sql(path, "UPDATE facts SET value = 99 WHERE name = 'layout'"), "layout 99"),
    "no_layout": (lambda path: run_sql(path, "DELETE FROM facts"), "doesn't say its layout"),
    "others_tables": (
        lambda path: run_sql(path, "DROP TABLE versions", "CREATE TABLE versions (x)"), "no such column"
    ),
    "no_json": (lambda path: run_sql(path, "UPDATE versions SET config = '{x'"), "malformed"),
    "other_json": (lambda path: run_sql(path, "UPDATE versions SET config = '[1]'"), "Expected `object`"),
    "a_folder": (replace_by_a_folder, "Is a directory.*read and write it"),
    "a_log_that_is_a_folder": (lambda path: Path(f"{path}-wal").mkdir(), "Is a directory.*read and write"),
}  # fmt: skip


@pytest.mark.parametrize("breaker", BREAKERS)
def test_a_registry_that_can_not_be_read_is_refused_with_a_remedy_and_left_as_it_is(
    tmp_path: Path, breaker: str
) -> None:
    path = tmp_path / "registry.sqlite"
    registry = Registry(path)
    registry.apply(PutVersion(RECORD))
    registry.begin_epoch()
    registry.close()
    spoil, expected = BREAKERS[breaker]
    spoil(path)
    before = contents(tmp_path)
    with pytest.raises(StoreFailed, match=expected) as failed:
        reopened(path)
    assert str(path) in str(failed.value)
    assert failed.value.details
    assert {name: content for name, content in contents(tmp_path).items() if name in before} == before


def test_a_damaged_registry_keeps_the_log_of_a_broker_that_was_killed(tmp_path: Path) -> None:
    """What was acknowledged last is in it, for whoever brings the file back."""
    folder, killed = tmp_path / "state", tmp_path / "killed"
    folder.mkdir()
    registry = Registry(folder / "registry.sqlite")
    run_sql(folder / "registry.sqlite", "PRAGMA wal_checkpoint(TRUNCATE)")
    registry.apply(PutVersion(RECORD))
    shutil.copytree(folder, killed)
    registry.close()
    path = killed / "registry.sqlite"
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes(byte ^ 0xA5 for byte in whole[100:]))
    before = contents(killed)
    for _ in range(2):
        with pytest.raises(StoreFailed, match="can't be opened"):
            Registry(path)
    after = contents(killed)
    assert [after[name] == before[name] for name in ("registry.sqlite", "registry.sqlite-wal")] == [
        True,
        True,
    ]
    path.write_bytes(whole)
    assert [one.model for one in reopened(path).versions] == [RECORD.model]


def contents(folder: Path) -> dict[str, bytes | None]:
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def test_a_change_that_cannot_be_written_raises_and_nothing_of_it_happened(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "r")
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
    registry = Registry(path)
    changed = replace(RECORD, config=ModelConfig(batch_size=3, device_ids=(1,)), has_requirements=True,
                      archive_path="/m.mar", registration="5-1")  # fmt: skip
    registry.apply(PutVersion(changed))
    assert registry.begin_epoch() == 5
    registry.close()
    assert reopened(path).versions == (changed,)
