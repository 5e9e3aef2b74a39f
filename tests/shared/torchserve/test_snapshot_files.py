"""Snapshots as TorchServe writes them."""

import json

import javaproperties

from torchrelay.shared.settings import StartupModel
from torchrelay.shared.torchserve import snapshot_files

MODEL = StartupModel(
    name="m\u00e9", version="1.0", archive_name="m.mar", is_default=True, min_workers=1, max_workers=2,
    batch_size=3, max_batch_delay_ms=4, response_timeout_s=5, startup_timeout_s=6, runtime="python",
)  # fmt: skip


def test_a_snapshot_says_how_every_version_is_served_and_repeats_the_configuration() -> None:
    other = StartupModel(name="m\u00e9", version="2.0", archive_name="n.mar", runtime="python")
    text = snapshot_files.render(
        [MODEL, other], {"model_store": "/a b", "load_models": "x=y.mar"}, name="n.cfg", created_ms=7
    )
    assert text.isascii()
    read = javaproperties.loads(text)
    assert (read["model_store"], read["load_models"]) == ("/a b", "x=y.mar")
    content = json.loads(read["model_snapshot"])
    assert (content["name"], content["modelCount"], content["created"]) == ("n.cfg", 2, 7)
    assert content["models"]["m\u00e9"]["1.0"] == {
        "defaultVersion": True,
        "marName": "m.mar",
        "minWorkers": 1,
        "maxWorkers": 2,
        "batchSize": 3,
        "maxBatchDelay": 4,
        "responseTimeout": 5,
        "startupTimeout": 6,
        "runtimeType": "python",
    }
    assert not content["models"]["m\u00e9"]["2.0"]["defaultVersion"]


def test_a_snapshot_of_nothing_is_one_too() -> None:
    read = javaproperties.loads(snapshot_files.render([], {}, name="n.cfg", created_ms=7))
    assert json.loads(read["model_snapshot"])["models"] == {}


def test_names_of_snapshots_sort_as_their_moments_do_within_a_day() -> None:
    names = [
        snapshot_files.file_name("startup", 999),
        snapshot_files.file_name("snapshot", 1000),
        snapshot_files.file_name("shutdown", 61_007),
    ]
    assert names == sorted(names)
    assert [name.partition("-")[0][-5:] for name in names] == ["00999", "01000", "01007"]
    assert [name.partition("-")[2] for name in names] == ["startup.cfg", "snapshot.cfg", "shutdown.cfg"]
