"""Models of the start, in their order, and snapshots: restored, and written at every change."""

import logging

import pytest

from tests.broker.core.test_rare_orders import SlowRig
from tests.broker.rig import GATEWAY, NODE, Rig, settings
from torchrelay.broker.core.early_requests import default_versions_first
from torchrelay.broker.core.effects import Prepare
from torchrelay.broker.core.events import ArchivePrepared, Event, Started, Stored
from torchrelay.broker.models.records import Prepared
from torchrelay.broker.models.registering import LOAD_AGAIN_S
from torchrelay.shared import errors
from torchrelay.shared.settings import LoadAtStart, StartupModel
from torchrelay.shared.wire import messages as m


def snapshot_rig() -> Rig:
    rig = Rig(settings(snapshot_dir="/nowhere"))
    rig.join_gateway()
    rig.join_node()
    return rig


def test_the_first_version_named_at_start_is_the_default_whichever_archive_is_read_first() -> None:
    rig = Rig()
    one, two = rig.archive("1.mar", version="1.0"), rig.archive("2.mar", version="2.0")
    effects = rig.core.handle([Started((LoadAtStart(one), LoadAtStart(two)))], now=rig.now)
    tokens = {effect.origin.url: effect.token for effect in effects if isinstance(effect, Prepare)}

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
    started = Started((LoadAtStart("m.mar"), LoadAtStart("nosuch.mar")))
    (first, second) = [e for e in rig.core.handle([started], now=rig.now) if isinstance(e, Prepare)]

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
    rig.load_at_start(LoadAtStart(rig.archive(), "other"))
    rig.feed()
    assert rig.core.catalog.resolve("other", None).loaded_at_startup


def test_a_snapshot_restores_versions_defaults_workers_and_batches() -> None:
    rig = Rig()
    rig.join_node()
    rig.archive("1.mar", version="1.0")
    rig.archive("2.mar", version="2.0")
    for version, is_default, workers in (("1.0", False, 0), ("2.0", True, 2)):
        rig.load_at_start(
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
    rig.load_at_start(restored)
    rig.feed()
    assert rig.core.catalog.resolve("m", None).min_workers == 1


def test_a_snapshot_is_written_when_the_models_of_the_start_are_registered_or_refused() -> None:
    rig = Rig(settings(snapshot_dir="/nowhere"))
    rig.feed()
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
    rig.load_at_start(LoadAtStart(rig.archive()))
    rig.feed()
    assert rig.core.management.loading == []
    assert isinstance(Stored(1, rig.store_error).error, errors.StoreFailed)


def test_a_restored_default_that_cannot_be_stored_is_reported() -> None:
    rig = SlowRig()
    rig.held = []
    rig.archive("m.mar")
    rig.load_at_start(StartupModel("m", "1.0", "m.mar", is_default=True))
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


def starting_rig(*loads: LoadAtStart | StartupModel) -> SlowRig:
    """A broker that has just begun to register what was named at its start, with a gateway."""
    rig = SlowRig()
    rig.held = []
    rig.archive("m.mar")
    rig.archive("n.mar", "n")
    rig.at_start = list(loads or (LoadAtStart("m.mar"), LoadAtStart("n.mar")))
    rig.restart()
    rig.join_gateway()
    return rig


def next_step(rig: SlowRig) -> None:
    """Let the work that was first begun end; what it causes is held again."""
    assert rig.held
    first, *rig.held = rig.held
    rig.feed(first)


#: What can't be answered before the start is over, and what it is answered with then.
EARLY_ASKS: list[tuple[m.Ask, type[m.Message]]] = [
    (m.DescribeModel(9, "m", None), m.ModelDescribed),
    (m.DescribeModel(9, "m", None, every=True), m.ModelDescribed),
    (m.ListModels(9, 100, 0), m.ModelsListed),
    (m.ScaleWorkers(9, "m", None, 2, 2, synchronous=False), m.WorkersScaled),
    (m.SetDefault(9, "m", "1.0"), m.DefaultSet),
    (m.UnregisterModel(9, "m", None), m.ModelUnregistered),
    (m.RegisterModel(9, "m.mar"), m.AskRefused),  # a conflict, as in TorchServe
]


@pytest.mark.parametrize(("ask", "reply"), EARLY_ASKS, ids=lambda value: type(value).__name__)
def test_nothing_is_not_found_while_models_of_the_start_are_being_registered(
    ask: m.Ask, reply: type[m.Message]
) -> None:
    rig = starting_rig()
    if not isinstance(ask, m.UnregisterModel):  # answered when its workers are gone
        rig.join_node()
    rig.say(GATEWAY, ask)
    rig.submit(1)
    rig.pass_time(2.0)
    assert not rig.inbox[GATEWAY] or {type(message) for message, _ in rig.inbox[GATEWAY]} == {m.Beat}
    rig.release()
    (answered,) = rig.take(GATEWAY, reply)
    if isinstance(answered, m.ModelsListed):
        assert [entry.model for entry in answered.models] == ["m", "n"]
    if isinstance(answered, m.AskRefused):
        assert answered.error == "Conflict"
    if not isinstance(ask, m.UnregisterModel):
        (worker, *_) = [rig.worker_ready(o) for o in rig.take(NODE, m.StartWorker) if o.model == "m"]
        rig.complete(worker, rig.only(worker, m.Assign))
        assert [item.job for item in rig.only(GATEWAY, m.Answered).items] == [1]


def test_the_fleet_and_its_health_are_told_while_models_of_the_start_are_being_registered() -> None:
    rig = starting_rig()

    def health() -> m.HealthRead:
        rig.say(GATEWAY, m.ReadHealth(5))
        return rig.only(GATEWAY, m.HealthRead)

    rig.say(GATEWAY, m.ReadFleet(3))
    assert rig.only(GATEWAY, m.FleetRead).loading == ("m.mar", "n.mar")
    rig.say(GATEWAY, m.ReadMetrics(4))
    rig.only(GATEWAY, m.MetricsRead)
    assert health().is_starting
    assert not health().healthy
    rig.release()
    assert health() == m.HealthRead(5, False), "there is no node for their workers"
    rig.join_node()
    assert health() == m.HealthRead(5, True)


def test_a_request_goes_on_as_soon_as_its_own_model_is_registered() -> None:
    rig = starting_rig()
    rig.join_node()
    rig.submit(1, model="m")
    rig.submit(2, model="n")
    next_step(rig)  # m's archive is prepared
    rig.held = rig.held[::-1] if rig.held else rig.held
    next_step(rig)  # m is stored
    (order,) = rig.take(NODE, m.StartWorker)
    worker = rig.worker_ready(order)
    assert len(rig.only(worker, m.Assign).items) == 1
    rig.say(GATEWAY, m.ReadHealth(5))
    assert rig.only(GATEWAY, m.HealthRead).is_starting
    assert (GATEWAY, 2) in rig.core.early.waiting


@pytest.mark.parametrize("name", ["m", None])
def test_a_model_of_the_start_that_can_not_be_registered_is_missing_and_not_unknown(name: str | None) -> None:
    url = "nosuch.mar" if name else "https://x/m.mar?key=secret"
    rig = starting_rig(LoadAtStart(url, name))
    rig.submit(1)
    rig.say(GATEWAY, m.DescribeModel(2, "m", None))
    assert not rig.take(GATEWAY, m.Refused)
    rig.release()
    (item,) = rig.only(GATEWAY, m.Refused).items
    assert (item.error, item.message) == ("ServiceUnavailable", "Model m could not be loaded at start.")
    assert "Model not found at: " in item.details
    assert "secret" not in item.details
    assert rig.only(GATEWAY, m.AskRefused).error == "ServiceUnavailable"
    (report,) = [report for report in rig.reports if report.level == logging.ERROR]
    assert (report.event, report.facts["url"]) == ("model.not_loaded", url.partition("?")[0])
    rig.say(GATEWAY, m.ReadFleet(3))
    assert [one.model for one in rig.only(GATEWAY, m.FleetRead).not_loaded] == ["m"]
    rig.say(GATEWAY, m.ReadReadiness(4))
    read = rig.only(GATEWAY, m.ReadinessRead)
    assert [(one.model, one.is_ready) for one in read.versions] == [("m", False)]
    assert not read.is_starting
    rig.submit(5, model="other")
    assert rig.only(GATEWAY, m.Refused).items[0].error == "ModelNotFound"


def missing_rig() -> Rig:
    rig = Rig()
    rig.join_gateway()
    rig.archives["m.mar"] = errors.DownloadFailed("Failed to download archive", "no answer")
    rig.load_at_start(LoadAtStart("m.mar"))
    rig.feed()
    return rig


def submitted(rig: Rig) -> str:
    """Submit a job; return the error that it is refused with, "" if it is let in."""
    rig.submit(7)
    refused = rig.take(GATEWAY, m.Refused)
    rig.say(GATEWAY, m.Cancel((7,)))
    return refused[0].items[0].error if refused else ""


def test_what_could_not_be_fetched_at_start_is_tried_again_until_it_is_there() -> None:
    rig = missing_rig()
    for _ in range(3):
        assert submitted(rig) == "ServiceUnavailable"
        rig.pass_time(LOAD_AGAIN_S + 1)
    failures = [report for report in rig.reports if report.event == "model.not_loaded"]
    assert 3 <= len(failures) <= 4
    assert all(report.facts["retry_in_s"] == LOAD_AGAIN_S for report in failures)
    assert not rig.core.management.is_starting
    rig.archive("m.mar")
    rig.pass_time(LOAD_AGAIN_S + 1)
    assert submitted(rig) == ""
    assert rig.core.catalog.not_loaded == ()
    assert rig.core.catalog.resolve("m", None).loaded_at_startup


def test_what_is_not_in_the_store_at_start_is_not_looked_for_again() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.load_at_start(LoadAtStart("m.mar"))
    rig.feed()
    rig.archive("m.mar")
    rig.pass_time(3 * LOAD_AGAIN_S)
    assert submitted(rig) == "ServiceUnavailable"


def test_who_registers_the_model_ends_its_being_missing() -> None:
    rig = missing_rig()
    rig.register(initial_workers=0)
    assert rig.core.catalog.not_loaded == ()
    rig.archive("m.mar", version="2.0")
    rig.pass_time(2 * LOAD_AGAIN_S)
    assert [record.version for record in rig.core.catalog] == ["1.0"], "the start came in between"


def test_who_unregisters_a_missing_model_makes_it_unknown() -> None:
    rig = missing_rig()
    rig.say(GATEWAY, m.UnregisterModel(3, "m", None))
    assert rig.only(GATEWAY, m.AskRefused).error == "ModelNotFound"
    assert submitted(rig) == "ModelNotFound"
    rig.archive("m.mar")
    rig.pass_time(2 * LOAD_AGAIN_S)
    assert submitted(rig) == "ModelNotFound"


def test_after_a_restart_what_is_registered_is_served_while_the_start_goes_on() -> None:
    rig = starting_rig()
    rig.release()
    rig.held = []
    rig.restart()
    rig.join_gateway()
    rig.join_node()
    rig.say(GATEWAY, m.DescribeModel(1, "m", None))
    rig.only(GATEWAY, m.ModelDescribed)
    rig.say(GATEWAY, m.ListModels(2, 100, 0))
    assert len(rig.only(GATEWAY, m.ModelsListed).models) == 2
    rig.say(GATEWAY, m.ReadHealth(3))
    assert rig.only(GATEWAY, m.HealthRead) == m.HealthRead(3, True)
    rig.submit(4, version="2.0")  # what lies at the url now may be that
    assert not rig.take(GATEWAY, m.Refused)
    rig.release()
    assert rig.only(GATEWAY, m.Refused).items[0].error == "ModelVersionNotFound"


def test_who_has_waited_too_long_for_the_start_is_told_to_come_again() -> None:
    rig = starting_rig(LoadAtStart("https://example.org/m.mar?signature=secret"))
    rig.submit(1)
    rig.say(GATEWAY, m.DescribeModel(2, "m", None))
    rig.pass_time(29.0)
    assert not rig.take(GATEWAY, m.Refused)
    rig.pass_time(2.0)
    (item,) = rig.only(GATEWAY, m.Refused).items
    refused = rig.only(GATEWAY, m.AskRefused)
    assert item.error == refused.error == "ServiceUnavailable"
    assert item.details == "not yet registered: https://example.org/m.mar; try again later"
    assert not rig.core.early.waiting


def test_who_waits_for_less_is_told_at_its_own_time_though_others_came_before_it() -> None:
    rig = starting_rig()
    rig.submit(1)
    rig.submit(2, left_ms=3000)
    rig.pass_time(2.9)
    assert not rig.take(GATEWAY, m.Refused)
    rig.pass_time(0.4)
    assert [item.job for item in rig.only(GATEWAY, m.Refused).items] == [2]
    assert [number for _, number in rig.core.early.waiting] == [1]


def test_what_a_request_has_waited_for_the_start_is_not_given_to_it_again() -> None:
    rig = starting_rig()
    rig.submit(1, left_ms=3000)
    rig.pass_time(2.0)
    rig.release()
    (job,) = rig.core.gateways[GATEWAY].jobs.values()
    assert job.given_up_at == rig.now + 1.0


def test_what_waits_for_the_start_is_bounded() -> None:
    rig = starting_rig()
    rig.submit(*range(1, 101))
    rig.submit(101)
    (item,) = rig.only(GATEWAY, m.Refused).items
    assert (item.job, item.error) == (101, "ServiceUnavailable")
    rig.release()
    assert not rig.take(GATEWAY, m.Refused)  # a queue has room for as many
    assert len(rig.core.jobs.queues["m", "1.0"]) == 100


def test_bytes_that_wait_for_the_start_are_bounded() -> None:
    rig = SlowRig(settings(queue_limit_bytes=20))
    rig.held = []
    rig.archive("m.mar")
    rig.at_start = [LoadAtStart("m.mar")]
    rig.restart()
    rig.join_gateway()
    for job in (1, 2):
        rig.say(GATEWAY, m.Submit((m.SubmitItem(job, "m", None, False, b"", 1),)), (b"x" * 15,))
    assert [item.job for item in rig.only(GATEWAY, m.Refused).items] == [2]
    rig.say(GATEWAY, m.Cancel((1,)))
    rig.say(GATEWAY, m.Submit((m.SubmitItem(3, "m", None, False, b"", 1),)), (b"x" * 15,))
    assert not rig.take(GATEWAY, m.Refused)


def test_one_large_request_waits_for_the_start_whatever_the_limit() -> None:
    rig = SlowRig(settings(queue_limit_bytes=20))
    rig.held = []
    rig.archive("m.mar")
    rig.at_start = [LoadAtStart("m.mar")]
    rig.restart()
    rig.join_gateway()
    rig.say(GATEWAY, m.Submit((m.SubmitItem(1, "m", None, False, b"", 1),)), (b"x" * 30,))
    assert not rig.take(GATEWAY, m.Refused)  # as a queue lets it in
    rig.release()
    assert len(rig.core.jobs.queues["m", "1.0"]) == 1


def test_what_is_sent_again_in_the_turn_in_which_its_model_is_registered_is_not_taken_twice() -> None:
    rig = starting_rig(LoadAtStart("m.mar"))
    submit = m.Submit((m.SubmitItem(1, "m", None, False, b"meta"),))
    rig.say(GATEWAY, submit)
    ask = m.ScaleWorkers(2, "m", "2.0", 1, 1, synchronous=False)
    rig.say(GATEWAY, ask)
    next_step(rig)
    assert rig.held
    (stored,), rig.held = rig.held, None
    rig.feed(stored, rig.event(GATEWAY, submit), rig.event(GATEWAY, ask))
    assert len(rig.core.jobs.queues["m", "1.0"]) == 1
    rig.only(GATEWAY, m.AskRefused)


def test_what_waits_for_the_start_is_neither_forgotten_nor_taken_twice() -> None:
    rig = starting_rig()
    rig.submit(1)
    rig.submit(1)
    rig.say(GATEWAY, m.DescribeModel(2, "m", None))
    rig.say(GATEWAY, m.DescribeModel(2, "m", None))
    rig.say(GATEWAY, m.GatewayBeat({}, (1,), (2,)))
    assert not rig.take(GATEWAY, m.Forgotten)
    rig.release()
    rig.only(GATEWAY, m.ModelDescribed)
    assert len(rig.core.jobs.queues["m", "1.0"]) == 1


def test_nobody_waits_for_the_start_whose_client_or_gateway_has_gone() -> None:
    rig = starting_rig()
    other = rig.join_gateway(b"g-2")
    rig.submit(1, 2)
    rig.submit(1, gateway=other)
    rig.say(GATEWAY, m.Cancel((1,)))
    rig.say(other, m.Bye())
    rig.release()
    assert [job.number for job in rig.core.jobs.queues["m", "1.0"].jobs] == [2]


def test_no_request_meets_a_version_of_a_snapshot_that_is_not_the_default_in_the_end() -> None:
    one = StartupModel("m", "1.0", "m.mar", is_default=False, min_workers=1, max_workers=1)
    two = StartupModel("m", "2.0", "2.mar", is_default=True, min_workers=1, max_workers=1)
    rig = starting_rig(*default_versions_first([one, two]))
    rig.archive("2.mar", version="2.0")
    rig.held = []
    rig.restart()
    rig.join_gateway()
    rig.submit(1)
    while rig.held:
        next_step(rig)
        assert set(rig.core.jobs.queues) <= {("m", "2.0")}
    assert [job.number for job in rig.core.jobs.queues["m", "2.0"].jobs] == [1]


def test_keys_can_be_renewed_while_models_of_the_start_are_being_registered() -> None:
    rig = starting_rig()
    rig.say(GATEWAY, m.RenewKey(1, "inference"))
    rig.only(GATEWAY, m.AskRefused)  # at once: there are none to be renewed here
