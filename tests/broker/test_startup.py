"""Models of the start, in their order, and snapshots: restored, and written at every change."""

import logging

import pytest

from tests.broker.rig import GATEWAY, NODE, Rig, settings
from tests.broker.test_rare_orders import SlowRig
from torchrelay.broker.effects import Prepare
from torchrelay.broker.events import ArchivePrepared, Event, Stored
from torchrelay.broker.records import Prepared
from torchrelay.shared import errors
from torchrelay.shared import messages as m
from torchrelay.shared.settings import LoadAtStart, StartupModel


def snapshot_rig() -> Rig:
    rig = Rig(settings(snapshot_dir="/nowhere"))
    rig.join_gateway()
    rig.join_node()
    return rig


def test_the_first_version_named_at_start_is_the_default_whichever_archive_is_read_first() -> None:
    rig = Rig()
    one, two = rig.archive("1.mar", version="1.0"), rig.archive("2.mar", version="2.0")
    rig.core.management.load_at_start(LoadAtStart(one))
    rig.core.management.load_at_start(LoadAtStart(two))
    effects = rig.core.handle([], now=rig.now)
    tokens = {effect.url: effect.token for effect in effects if isinstance(effect, Prepare)}

    def prepared(url: str) -> Event:
        outcome = rig.archives[url]
        assert isinstance(outcome, Prepared)
        return ArchivePrepared(tokens[url], outcome)

    rig.feed(prepared(two))
    assert not list(rig.core.catalog)
    rig.feed(prepared(one))
    assert rig.core.catalog.resolve("m", None).version == "1.0"
    assert [record.version for record in rig.core.catalog] == ["1.0", "2.0"]


def test_what_is_still_on_its_way_at_start_is_shown() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.archive("m.mar")
    rig.core.management.load_at_start(LoadAtStart("m.mar"))
    rig.core.management.load_at_start(LoadAtStart("nosuch.mar"))
    (first, second) = [e for e in rig.core.handle([], now=rig.now) if isinstance(e, Prepare)]

    def loading() -> tuple[str, ...]:
        rig.say(GATEWAY, m.ReadFleet(1))
        return rig.only(GATEWAY, m.FleetRead).loading

    assert loading() == ("m.mar", "nosuch.mar")
    rig.feed(ArchivePrepared(second.token, errors.ModelNotFound("Model not found at: nosuch.mar")))
    assert loading() == ("m.mar", "nosuch.mar")  # its turn comes after the first one's
    outcome = rig.archives["m.mar"]
    rig.feed(ArchivePrepared(first.token, outcome))
    assert loading() == ()


def test_a_named_model_of_the_start_has_that_name() -> None:
    rig = Rig()
    rig.core.management.load_at_start(LoadAtStart(rig.archive(), "other"))
    rig.feed()
    assert rig.core.catalog.resolve("other", None).loaded_at_startup


def test_a_snapshot_restores_versions_defaults_workers_and_batches() -> None:
    rig = Rig()
    rig.join_node()
    rig.archive("1.mar", version="1.0")
    rig.archive("2.mar", version="2.0")
    for version, is_default, workers in (("1.0", False, 0), ("2.0", True, 2)):
        rig.core.management.load_at_start(
            StartupModel(
                name="m",
                version=version,
                archive_name=f"{version[0]}.mar",
                is_default=is_default,
                min_workers=workers,
                max_workers=workers + 1,
                batch_size=4,
                max_batch_delay_ms=5,
                response_timeout_s=6,
                startup_timeout_s=7,
            )
        )
    rig.feed()
    record = rig.core.catalog.resolve("m", None)
    assert (record.version, record.min_workers, record.max_workers) == ("2.0", 2, 3)
    assert (record.batch_size, record.max_batch_delay_ms) == (4, 5)
    assert (record.response_timeout_s, record.startup_timeout_s) == (6, 7)
    assert not record.loaded_at_startup
    assert rig.core.catalog.resolve("m", "1.0").max_workers == 1
    assert len(rig.take(NODE, m.StartWorker)) == 2


def test_a_snapshot_restores_what_was_changed_since_though_the_registry_knows_the_model() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.register(initial_workers=3)
    restored = StartupModel(
        name="m", version="1.0", archive_name="m-1.0.mar", is_default=True, min_workers=1, max_workers=1
    )
    rig.core.management.load_at_start(restored)
    rig.feed()
    assert rig.core.catalog.resolve("m", None).min_workers == 1


def test_a_snapshot_is_written_when_the_models_of_the_start_are_registered_or_refused() -> None:
    rig = Rig(settings(snapshot_dir="/nowhere"))
    assert [snapshot.kind for snapshot in rig.snapshots] == ["startup"]  # there were none

    rig.snapshots.clear()
    rig.archive("m.mar")
    rig.at_start = [LoadAtStart("m.mar"), LoadAtStart("nosuch.mar")]
    rig.restart()
    (snapshot,) = rig.snapshots
    assert snapshot.kind == "startup"
    assert [model.name for model in snapshot.models] == ["m"]


def test_a_snapshot_is_written_once_for_each_change_that_came_about() -> None:
    rig = snapshot_rig()
    rig.snapshots.clear()
    rig.register(version="1.0", initial_workers=0)
    rig.register(version="2.0", initial_workers=0)
    assert len(rig.snapshots) == 2
    rig.say(GATEWAY, m.ScaleWorkers(3, "m", "2.0", 1, 2, synchronous=False))
    rig.say(GATEWAY, m.SetDefault(4, "m", "2.0"))
    assert len(rig.snapshots) == 4
    assert {snapshot.kind for snapshot in rig.snapshots} == {"snapshot"}
    one, two = rig.snapshots[-1].models
    assert (one.version, one.is_default, one.archive_name, one.min_workers) == ("1.0", False, "m-1.0.mar", 0)
    assert (two.version, two.is_default, two.min_workers, two.max_workers) == ("2.0", True, 1, 2)
    rig.say(GATEWAY, m.UnregisterModel(5, "m", "1.0"))
    assert [model.version for model in rig.snapshots[-1].models] == ["2.0"]


def test_a_caller_finds_the_snapshot_of_its_change_when_it_hears_of_it() -> None:
    rig = SlowRig(settings(snapshot_dir="/nowhere"))
    rig.join_gateway()
    rig.register(initial_workers=0)
    rig.held = []
    rig.say(GATEWAY, m.ScaleWorkers(5, "m", None, 0, 1, synchronous=False))
    (stored,) = rig.held
    rig.held = []
    rig.feed(stored)  # on disk, but not in a snapshot yet
    assert not rig.take(GATEWAY, m.WorkersScaled)
    rig.release()
    rig.only(GATEWAY, m.WorkersScaled)


def test_what_did_not_come_about_leaves_no_snapshot() -> None:
    rig = snapshot_rig()
    rig.snapshots.clear()
    rig.say(GATEWAY, m.RegisterModel(5, "nosuch.mar"))
    rig.say(GATEWAY, m.ScaleWorkers(6, "nobody", None, 1, 1, synchronous=False))
    rig.say(GATEWAY, m.RegisterModel(7, rig.archive(), initial_workers=1))
    rig.exit_worker(rig.only(NODE, m.StartWorker).worker_id)
    assert len(rig.take(GATEWAY, m.AskRefused)) == 3
    assert not rig.snapshots


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("m.mar", "m.mar"),
        ("some/where/m.mar", "m.mar"),
        ("folder/", "folder"),
        ("https://example.org/models/m%20n.mar?X-Signature=secret", "m n.mar"),
        ("s3://bucket/models/m.mar", "m.mar"),
        ("https://example.org", ""),
        ("s3://[no-host/m.mar", "m.mar"),
    ],
)
def test_a_snapshot_names_an_archive_by_its_file(url: str, name: str) -> None:
    rig = snapshot_rig()
    rig.archive(url)
    rig.say(GATEWAY, m.RegisterModel(5, url))
    assert rig.snapshots[-1].models[0].archive_name == name


def test_a_model_of_the_start_that_cannot_be_stored_ends_the_wait_for_it() -> None:
    rig = Rig()
    rig.store_error = errors.StoreFailed("The registry could not be written", "disk full")
    rig.core.management.load_at_start(LoadAtStart(rig.archive()))
    rig.feed()
    assert rig.core.management.loading == []
    assert isinstance(Stored(1, rig.store_error).error, errors.StoreFailed)


def test_a_restored_default_that_cannot_be_stored_is_reported() -> None:
    rig = SlowRig()
    rig.held = []
    rig.archive("m.mar")
    rig.core.management.load_at_start(StartupModel("m", "1.0", "m.mar", is_default=True))
    rig.feed()
    (prepared,), rig.held = rig.held, []
    rig.feed(prepared)
    rig.store_error = errors.StoreFailed("The registry could not be written", "disk full")
    (stored,), rig.held = rig.held, None
    rig.feed(stored)
    (report,) = [report for report in rig.reports if report.level == logging.ERROR]
    assert (report.event, report.facts["model"]) == ("model.default_not_set", "m")
    assert "disk full" in str(report.facts["reason"])
    assert rig.core.management.loading == []
