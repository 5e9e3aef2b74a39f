"""Snapshot files: what is missing stops a start, and what can't be written stops nothing."""

import logging
import stat
from pathlib import Path

import javaproperties
import msgspec
import pytest

from tests.broker.rig import settings
from torchrelay.broker import server
from torchrelay.broker.storage import snapshots
from torchrelay.shared.errors import StoreFailed
from torchrelay.shared.settings import BrokerSettings, StartupModel
from torchrelay.shared.torchserve import config_properties

MODEL = StartupModel(name="m", version="1.0", archive_name="m.mar")


@pytest.mark.parametrize("name", ["gone.mar", None, ""])
def test_a_start_from_a_snapshot_needs_its_archives(tmp_path: Path, name: str | None) -> None:
    (tmp_path / "m.mar").write_text("junk is an archive too, until it is read")
    lost = StartupModel(name="l", version="2", archive_name=name)
    with pytest.raises(
        StoreFailed, match="Model archive file for model :l, version :2 not found in model store"
    ):
        snapshots.check(settings(model_store=str(tmp_path), snapshot=(MODEL, lost)))
    snapshots.check(settings(model_store=str(tmp_path), snapshot=(MODEL,)))
    snapshots.check(settings())


def test_a_broker_does_not_start_from_a_snapshot_without_its_archives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = settings(state_dir=str(tmp_path / "state"), model_store=str(tmp_path), snapshot=(MODEL,))
    assert server.run(broker) == 1
    assert "not found in model store" in getattr(caplog.records[-1], "reason", "")


def test_snapshots_of_one_moment_have_names_of_their_own(tmp_path: Path) -> None:
    broker = settings(snapshot_dir=str(tmp_path / "logs" / "config"), snapshot_config=(("a", "b:c"),))
    for _ in range(20):
        snapshots.write(broker, "snapshot", [MODEL])
    files = sorted((tmp_path / "logs" / "config").iterdir())
    assert len(files) == 20
    assert all(path.name.endswith("-snapshot.cfg") for path in files)
    assert javaproperties.loads(files[0].read_text())["a"] == "b:c"
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_folder_of_snapshots_that_all_may_read_is_closed_unless_it_holds_other_things(
    tmp_path: Path,
) -> None:
    """TorchServe's have keystore_pass in them."""
    old = tmp_path / "20240131120000000-startup.cfg"
    old.write_text("keystore_pass=changeit")
    for others, mode in (("notes", 0o755), ("", 0o700)):
        tmp_path.chmod(0o755)
        if others:
            (tmp_path / others).write_text("")
        snapshots.write(settings(snapshot_dir=str(tmp_path)), "startup", [MODEL])
        assert stat.S_IMODE(tmp_path.stat().st_mode) == mode
        (tmp_path / "notes").unlink(missing_ok=True)


def test_a_snapshot_that_cannot_be_written_is_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.ERROR):
        snapshots.write(settings(snapshot_dir=str(tmp_path / "file")), "startup", [])
    assert [record.message for record in caplog.records] == ["snapshot.not_written"]


def test_without_a_folder_none_is_written() -> None:
    snapshots.write(settings(), "startup", [MODEL])
    assert settings().snapshot_dir is None


def test_what_lies_outside_of_the_store_keeps_its_path_and_is_restored_from_there(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "in.mar").touch()
    (tmp_path / "model").mkdir()
    paths = ("in.mar", f"{tmp_path}/store/in.mar", f"{tmp_path}/model", "gone.mar")
    models = [StartupModel(name=f"m{n}", version="1", archive_name=path) for n, path in enumerate(paths)]
    own = BrokerSettings(
        state_dir=str(tmp_path), model_store=str(tmp_path / "store"), snapshot_dir=str(tmp_path / "config")
    )
    snapshots.write(own, "snapshot", models)
    (written,) = (tmp_path / "config").iterdir()
    found = config_properties.read(written.read_bytes(), {}).file.model_snapshot or ()
    assert [model.archive_name for model in found] == ["in.mar", "in.mar", f"{tmp_path}/model", "gone.mar"]
    snapshots.check(msgspec.structs.replace(own, snapshot=found[:3]))
    (tmp_path / "model").rmdir()
    with pytest.raises(StoreFailed, match="m2"):
        snapshots.check(msgspec.structs.replace(own, snapshot=found[:3]))
