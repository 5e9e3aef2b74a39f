"""Registering, scaling, defaults and unregistering, in TorchServe's words."""

from dataclasses import replace
from typing import cast

import pytest

from tests.broker.rig import CLAIMS, CPU, GATEWAY, NODE, Rig, settings
from torchrelay.broker.core.effects import Prepare
from torchrelay.broker.models.precedence import starts_workers
from torchrelay.broker.models.records import Prepared
from torchrelay.shared import errors
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.settings import LoadAtStart, StartupModel
from torchrelay.shared.wire import messages as m


def joined() -> Rig:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    return rig


def refusal(rig: Rig) -> tuple[str, str]:
    refused = rig.only(GATEWAY, m.AskRefused)
    return refused.error, refused.message


def test_registration_without_workers_is_answered_at_once() -> None:
    rig = joined()
    url = rig.archive()
    rig.say(GATEWAY, m.RegisterModel(5, url))
    assert rig.only(GATEWAY, m.ModelRegistered) == m.ModelRegistered(5, "m", "1.0", 0, True)


def test_a_broker_that_was_not_told_enable_model_api_registers_and_unregisters_for_no_gateway() -> None:
    rig = Rig(settings(enable_model_api=False, load_models=()))
    rig.at_start = [LoadAtStart(rig.archive())]
    rig.restart()
    rig.join_gateway()
    rig.join_node()
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive("2.mar", version="2.0")))
    assert refusal(rig)[0] == "MethodNotAllowed"
    rig.say(GATEWAY, m.UnregisterModel(6, "m", None))
    assert refusal(rig)[0] == "MethodNotAllowed"
    assert [record.version for record in rig.core.catalog] == ["1.0"]
    rig.say(GATEWAY, m.ScaleWorkers(7, "m", None, 0, 0, False))  # as in TorchServe
    rig.only(GATEWAY, m.WorkersScaled)


def test_a_caller_hears_nothing_before_the_registry_has_it_on_disk() -> None:
    rig = joined()
    rig.store_error = errors.StoreFailed("The registry could not be written", "disk full")
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive()))
    assert refusal(rig) == ("StoreFailed", "The registry could not be written")
    assert not list(rig.core.catalog)
    rig.store_error = None
    rig.say(GATEWAY, m.RegisterModel(6, rig.archive()))
    rig.only(GATEWAY, m.ModelRegistered)


def test_synchronous_registration_waits_for_all_workers() -> None:
    rig = joined()
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive(), initial_workers=2))
    one, two = rig.take(NODE, m.StartWorker)
    rig.worker_ready(one)
    assert not rig.take(GATEWAY, m.ModelRegistered)
    rig.worker_ready(two)
    assert rig.only(GATEWAY, m.ModelRegistered) == m.ModelRegistered(5, "m", "1.0", 2, True)


def test_asynchronous_registration_says_that_it_is_not_done() -> None:
    rig = joined()
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive(), initial_workers=2, synchronous=False))
    assert not rig.only(GATEWAY, m.ModelRegistered).done


def test_a_failed_start_takes_a_synchronous_registration_back_and_gives_the_reason() -> None:
    rig = joined()
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive(), initial_workers=1))
    rig.exit_worker(
        rig.only(NODE, m.StartWorker).worker_id, reason="ModuleNotFoundError: No module named 'x'"
    )
    refused = rig.only(GATEWAY, m.AskRefused)
    assert refused.error == "WorkerStartFailed"
    assert refused.message == "Failed to start workers for model m version: 1.0"
    assert "ModuleNotFoundError" in refused.details
    assert not list(rig.core.catalog)
    assert not list(rig.registry.catalog)


def test_a_failed_start_leaves_an_asynchronous_registration_with_its_reason() -> None:
    rig = joined()
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive(), initial_workers=1, synchronous=False))
    rig.exit_worker(rig.only(NODE, m.StartWorker).worker_id, reason="ValueError: no weights")
    rig.say(GATEWAY, m.DescribeModel(6, "m", None))
    (facts,) = rig.only(GATEWAY, m.ModelDescribed).versions
    assert facts.last_error == "ValueError: no weights"
    assert "wants 1, has 0" in facts.explanation


def test_waiting_ends_when_the_fleet_has_no_room() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive(), initial_workers=1, startup_timeout_s=10))
    rig.pass_time(16)
    refused = rig.only(GATEWAY, m.AskRefused)
    assert "no node has joined" in refused.details


def test_a_taken_name_and_version_is_a_conflict_even_while_the_first_is_on_its_way() -> None:
    rig = joined()
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive()))
    rig.only(GATEWAY, m.ModelRegistered)
    rig.say(GATEWAY, m.RegisterModel(6, rig.archive()))
    assert refusal(rig) == ("Conflict", "Model version 1.0 is already registered for model m")


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (errors.DownloadFailed("Failed to download archive from: u"), "DownloadFailed"),
        (Prepared("sha", 1, "", "1.0", "h", "python", "f"), "InvalidModel"),
    ],
)
def test_archives_that_do_not_serve_are_refused(outcome: Prepared | errors.RelayError, expected: str) -> None:
    rig = joined()
    rig.archives["u"] = outcome
    rig.say(GATEWAY, m.RegisterModel(5, "u"))
    assert refusal(rig)[0] == expected


def test_what_the_request_says_beats_the_manifest_and_the_defaults() -> None:
    rig = joined()
    ask = m.RegisterModel(5, rig.archive(), model_name="other", handler="mine:run", batch_size=8,
                          max_batch_delay_ms=0, response_timeout_s=7, startup_timeout_s=9)  # fmt: skip
    rig.say(GATEWAY, ask)
    record = rig.core.catalog.resolve("other", None)
    assert (record.handler, record.batch_size, record.max_batch_delay_ms) == ("mine:run", 8, 0)
    assert (record.response_timeout_s, record.startup_timeout_s) == (7, 9)


def test_the_first_version_stays_the_default_until_it_is_set() -> None:
    rig = joined()
    rig.register(version="1.0", initial_workers=0)
    rig.register(version="2.0", initial_workers=0)
    assert rig.core.catalog.resolve("m", None).version == "1.0"
    rig.say(GATEWAY, m.SetDefault(3, "m", "2.0"))
    rig.only(GATEWAY, m.DefaultSet)
    assert rig.core.catalog.resolve("m", None).version == "2.0"
    rig.say(GATEWAY, m.SetDefault(4, "m", "9"))
    assert refusal(rig) == ("ModelVersionNotFound", "Model version 9 does not exist for model m")
    rig.say(GATEWAY, m.SetDefault(4, "no", "9"))
    assert refusal(rig) == ("ModelNotFound", "Model not found: no")


def test_scaling_up_and_down_starts_and_stops_workers() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 3, 3, synchronous=True))
    assert not rig.take(GATEWAY, m.WorkersScaled)
    rig.start_workers()
    assert rig.only(GATEWAY, m.WorkersScaled) == m.WorkersScaled(2, True)
    rig.say(GATEWAY, m.ScaleWorkers(3, "m", None, 1, 1, synchronous=True))
    stopped = [order.worker_id for order in rig.take(NODE, m.StopWorker)]
    assert stopped == [9002, 9001]  # the newest go first
    for worker_id in stopped:
        rig.exit_worker(worker_id)
    assert rig.only(GATEWAY, m.WorkersScaled) == m.WorkersScaled(3, True)


@pytest.mark.parametrize(("patience_s", "is_killed_after"), [(0, 0.0), (2, 2.5)])
def test_a_worker_scaled_away_has_the_time_the_caller_gave(patience_s: int, is_killed_after: float) -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    rig.take(worker, m.Assign)
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 0, 0, synchronous=False, drain_timeout_s=patience_s))
    if patience_s:
        assert not rig.take(NODE, m.StopWorker)
    rig.pass_time(is_killed_after)
    assert rig.only(NODE, m.StopWorker).kill


def test_a_worker_that_is_scaled_away_finishes_its_batch_by_default() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    batch = rig.only(worker, m.Assign)
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 0, 0, synchronous=False))
    rig.pass_time(10)
    assert not rig.take(NODE, m.StopWorker)
    rig.complete(worker, batch)
    assert rig.only(GATEWAY, m.Answered).items[0].job == 1
    assert not rig.only(NODE, m.StopWorker).kill


def test_jobs_that_wait_for_a_model_scaled_to_zero_are_answered() -> None:
    rig = joined()
    rig.register()
    rig.submit(1)
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 0, 0, synchronous=False))
    assert rig.only(GATEWAY, m.Refused).items[0].error == "ServiceUnavailable"


def test_failing_to_scale_keeps_the_model_and_names_no_version_as_torchserve_does() -> None:
    rig = joined()
    rig.register(initial_workers=0)
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 1, 1, synchronous=True))
    rig.exit_worker(rig.only(NODE, m.StartWorker).worker_id)
    assert refusal(rig)[1] == "Failed to start workers for model m version: null"
    assert rig.core.catalog.resolve("m", None).min_workers == 1


def test_unregistering_answers_what_waits_and_stops_the_workers() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1, 2)
    batch = rig.only(worker, m.Assign)
    rig.say(GATEWAY, m.UnregisterModel(2, "m", None))
    assert [item.job for item in rig.only(GATEWAY, m.Refused).items] == [2]
    rig.complete(worker, batch)
    assert [item.job for item in rig.only(GATEWAY, m.Answered).items] == [1]
    stop = rig.only(NODE, m.StopWorker)
    assert not rig.take(GATEWAY, m.ModelUnregistered)  # its memory is not free yet
    rig.exit_worker(stop.worker_id)
    assert rig.only(GATEWAY, m.ModelUnregistered) == m.ModelUnregistered(2, "m")
    rig.say(GATEWAY, m.DescribeModel(3, "m", None))
    assert refusal(rig) == ("ModelNotFound", "Model not found: m")


def test_unregistering_a_model_whose_worker_loads_waits_for_that_worker_to_go() -> None:
    rig = joined()
    rig.register()
    order = rig.only(NODE, m.StartWorker)
    rig.say(GATEWAY, m.UnregisterModel(2, "m", None))
    assert rig.only(NODE, m.StopWorker).kill
    rig.exit_worker(order.worker_id)
    rig.only(GATEWAY, m.ModelUnregistered)
    assert not rig.core.fleet.conditions


def test_a_worker_that_does_not_go_ends_the_wait_of_its_unregistration_only() -> None:
    rig = Rig(settings(unregister_timeout_s=20))
    rig.ready_rig()
    rig.say(GATEWAY, m.UnregisterModel(2, "m", None))
    rig.pass_time(19)
    assert not rig.take(GATEWAY, m.AskRefused)
    rig.pass_time(2)
    assert refusal(rig) == ("RequestTimeout", "Timed out while cleaning resources: m")
    assert not list(rig.core.catalog)


def test_a_model_registered_anew_is_not_waited_for_by_the_unregistration_before() -> None:
    rig = joined()
    rig.register(initial_workers=1)
    old = rig.start_workers()
    rig.say(GATEWAY, m.UnregisterModel(2, "m", None))
    rig.register(initial_workers=1)
    rig.start_workers()
    rig.exit_worker(int(old[0].removeprefix(b"w-")))
    rig.only(GATEWAY, m.ModelUnregistered)


def test_scaling_to_the_same_number_revives_workers_that_were_given_up() -> None:
    rig = joined()
    rig.archive("u", config=ModelConfig(restart_window_s=0))
    rig.say(GATEWAY, m.RegisterModel(5, "u", initial_workers=1, synchronous=False))
    rig.exit_worker(rig.only(NODE, m.StartWorker).worker_id)
    rig.pass_time(100)
    assert not rig.take(NODE, m.StartWorker)
    rig.say(GATEWAY, m.ScaleWorkers(6, "m", None, 1, 1, synchronous=True))
    rig.start_workers()
    rig.only(GATEWAY, m.WorkersScaled)


def test_a_worker_that_failed_is_described_until_another_takes_its_place() -> None:
    rig = joined()
    rig.archive("u", config=ModelConfig(restart_window_s=2))
    rig.say(GATEWAY, m.RegisterModel(5, "u", initial_workers=2, synchronous=False))

    def described() -> list[tuple[int, str]]:
        rig.say(GATEWAY, m.DescribeModel(6, "m", None))
        (version,) = rig.only(GATEWAY, m.ModelDescribed).versions
        return [(worker.worker_id, worker.state) for worker in version.workers]

    one, two = rig.take(NODE, m.StartWorker)
    rig.worker_ready(two)
    rig.exit_worker(one.worker_id)
    assert described() == [(9000, "gone"), (9001, "ready")]
    rig.pass_time(1.5)
    rig.exit_worker(rig.only(NODE, m.StartWorker).worker_id)
    rig.pass_time(1.5)
    assert described() == [(9001, "ready"), (9003, "starting")]
    rig.exit_worker(rig.only(NODE, m.StartWorker).worker_id)
    rig.pass_time(60)  # it has been given up
    assert described() == [(9003, "gone"), (9001, "ready")]
    rig.say(GATEWAY, m.ScaleWorkers(7, "m", None, 1, 1, synchronous=False))
    assert described() == [(9001, "ready")]


def test_a_worker_that_comes_up_too_late_is_not_taken() -> None:
    rig = joined()
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive(), initial_workers=1, startup_timeout_s=0))
    order = rig.only(NODE, m.StartWorker)
    rig.now += 0.01
    worker = rig.worker_ready(order)
    assert rig.take(worker, m.Leave)
    assert refusal(rig) == ("WorkerStartFailed", "Failed to start workers for model m version: 1.0")


def test_how_long_a_scaling_lets_workers_finish_is_forgotten_after_it() -> None:
    rig = Rig()
    rig.ready_rig(workers=2)
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 2, 2, synchronous=False, drain_timeout_s=0))
    # A third one of before turns up, and is one too many.
    archive = "sha-m-1.0.mar"
    claim = CLAIMS.make(9100, ("m", "1.0"), archive)
    worker = m.HelloWorker(m.PROTOCOL_VERSION, 9100, "n-2", "m", "1.0", archive, "cpu", 1, claim)
    held = (m.HeldWorker(9100, "m", "1.0", archive, "cpu", 1, claim),)
    node = m.HelloNode(m.PROTOCOL_VERSION, "n-2", (CPU,), 8, held)
    rig.feed(rig.event(b"w-9100", worker, epoch=0), rig.event(b"n-2", node, epoch=0))
    assert not rig.only(b"n-2", m.StopWorker).kill


@pytest.mark.parametrize("window_s", [3, 30])
def test_a_model_is_healthy_while_it_may_still_recover(window_s: int) -> None:
    rig = joined()
    rig.archive("u", config=ModelConfig(restart_window_s=window_s))
    rig.say(GATEWAY, m.RegisterModel(5, "u", initial_workers=1, synchronous=False))

    def is_healthy() -> bool:
        rig.say(GATEWAY, m.ReadHealth(6))
        return rig.only(GATEWAY, m.HealthRead).healthy

    rig.exit_worker(rig.only(NODE, m.StartWorker).worker_id)
    rig.pass_time(window_s - 0.5)
    assert is_healthy()
    rig.pass_time(1)
    assert not is_healthy()  # whether or not a worker is just loading
    rig.say(GATEWAY, m.UnregisterModel(7, "m", None))
    assert is_healthy()


def test_a_model_has_the_queue_that_its_archive_asks_for() -> None:
    rig = joined()
    rig.archive("u", config=ModelConfig(job_queue_size=2))
    rig.say(GATEWAY, m.RegisterModel(5, "u", initial_workers=1, synchronous=False))
    rig.submit(1, 2, 3)
    assert [item.job for item in rig.only(GATEWAY, m.Refused).items] == [3]
    rig.say(GATEWAY, m.DescribeModel(6, "m", None))
    assert rig.only(GATEWAY, m.ModelDescribed).versions[0].queue_limit == 2


def test_what_a_model_config_got_wrong_is_said_in_the_log() -> None:
    rig = joined()
    rig.archives["u"] = Prepared("sha", 1, "m", "1.0", "h", "python", "f", ModelConfig(), ("batchSize: no",))
    rig.say(GATEWAY, m.RegisterModel(5, "u"))
    (report,) = [report for report in rig.reports if report.event == "model.config_ignored"]
    assert report.facts == {"model": "m", "version": "1.0", "reason": "batchSize: no"}


def test_the_default_version_can_only_go_last() -> None:
    rig = joined()
    rig.register(version="1.0", initial_workers=0)
    rig.register(version="2.0", initial_workers=0)
    rig.say(GATEWAY, m.UnregisterModel(2, "m", "1.0"))
    assert refusal(rig) == ("InvalidModelVersion", "Cannot remove default version for model m")
    rig.say(GATEWAY, m.UnregisterModel(3, "m", "2.0"))
    rig.say(GATEWAY, m.UnregisterModel(4, "m", None))
    assert len(rig.take(GATEWAY, m.ModelUnregistered)) == 2


def test_pages_of_the_list_are_torchserves() -> None:
    rig = joined()
    for name in ("m1", "M4", "m3"):
        rig.register(model=name, initial_workers=0)
    rig.say(GATEWAY, m.ListModels(9, 2, 0))
    page = rig.only(GATEWAY, m.ModelsListed)
    assert [entry.model for entry in page.models] == ["M4", "m1"]
    assert page.next_offset == 2
    rig.say(GATEWAY, m.ListModels(9, 1, 2))
    assert rig.only(GATEWAY, m.ModelsListed).next_offset == 3  # at the exact end there is another page
    rig.say(GATEWAY, m.ListModels(9, 100, 3))
    assert rig.only(GATEWAY, m.ModelsListed) == m.ModelsListed(9, (), None)


def test_models_of_the_command_line_are_loaded_once_and_replaced_when_their_archive_changes() -> None:
    rig = Rig(settings(startup_workers_per_model=2))
    rig.join_gateway()
    rig.join_node()
    url = rig.archive()
    rig.load_at_start(LoadAtStart(url))
    rig.feed()
    assert len(rig.take(NODE, m.StartWorker)) == 2
    rig.load_at_start(LoadAtStart(url))
    rig.feed()
    assert not rig.take(NODE, m.StartWorker)
    rig.archives[url] = Prepared("other", 1, "m", "1.0", "h", "python", "f")
    rig.load_at_start(LoadAtStart(url))
    rig.feed()
    assert len(rig.take(NODE, m.StopWorker)) == 2
    assert {order.archive for order in rig.take(NODE, m.StartWorker)} == {"other"}


def test_a_model_of_the_command_line_that_cannot_be_loaded_is_reported() -> None:
    rig = Rig()
    rig.load_at_start(LoadAtStart("nosuch.mar"))
    rig.feed()
    assert [report.event for report in rig.reports] == ["model.not_loaded"]


def test_a_secret_in_the_url_of_a_model_that_cannot_be_loaded_stays_out_of_the_log() -> None:
    rig = Rig()
    url = "https://x/m.mar?X-Signature=secret"
    rig.archives[url] = errors.DownloadFailed(f"Failed to download archive from: {url}", "no route")
    rig.load_at_start(LoadAtStart(url))
    rig.feed()
    assert [report.facts for report in rig.reports] == [
        {
            "url": "https://x/m.mar",
            "reason": "Failed to download archive from: https://x/m.mar (no route)",
        }
    ]


def test_everything_registered_survives_a_restart() -> None:
    rig = joined()
    rig.register(version="1.0", initial_workers=2)
    rig.register(version="2.0", initial_workers=0)
    rig.say(GATEWAY, m.SetDefault(3, "m", "2.0"))
    rig.say(GATEWAY, m.ScaleWorkers(4, "m", "1.0", 3, 4, synchronous=False))
    before = list(rig.core.catalog)
    rig.restart()
    assert list(rig.core.catalog) == before
    assert rig.core.catalog.resolve("m", None).version == "2.0"
    assert rig.core.catalog.resolve("m", "1.0").min_workers == 3


def test_metrics_count_every_outcome() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1, 2)
    rig.complete(worker, rig.only(worker, m.Assign))
    rig.say(GATEWAY, m.ReadMetrics(8))
    families = {family.name: family for family in rig.only(GATEWAY, m.MetricsRead).families}
    outcomes = {dict(s.labels)["outcome"]: s.value for s in families["torchrelay_requests_total"].samples}
    assert outcomes == {"answered": 1.0}
    buckets = [s for s in families["torchrelay_batch_jobs"].samples if dict(s.labels).get("le") == "+Inf"]
    assert [s.value for s in buckets] == [2.0]
    (running,) = families["torchrelay_jobs_running"].samples
    assert running.value == 1.0


def test_the_fleet_is_shown_whole() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.say(GATEWAY, m.ReadFleet(8))
    fleet = rig.only(GATEWAY, m.FleetRead)
    assert (fleet.epoch, fleet.gateways, len(fleet.nodes)) == (1, 1, 1)
    assert fleet.nodes[0].slots_used == 1
    assert fleet.versions[0].workers[0].state == "ready"


def test_whether_kms_encrypted_an_archive_reaches_the_thread_that_fetches_it() -> None:
    rig = Rig()
    rig.join_gateway()
    ask = m.RegisterModel(1, "https://b.s3.amazonaws.com/m.mar", s3_sse_kms=True)
    effects = rig.core.handle([rig.event(GATEWAY, ask)], now=rig.now)
    assert [effect.s3_sse_kms for effect in effects if isinstance(effect, Prepare)] == [True]


def test_no_two_registrations_of_a_version_are_the_same_to_a_node() -> None:
    rig = joined()
    seen = []
    for _ in range(2):
        rig.say(GATEWAY, m.RegisterModel(5, rig.archive(), initial_workers=1, synchronous=False))
        start = rig.only(NODE, m.StartWorker)
        seen.append(start.registration)
        rig.say(GATEWAY, m.UnregisterModel(6, "m", None))
        rig.exit_worker(start.worker_id)
        rig.take(NODE, m.StopWorker)
    assert len({*seen, ""}) == 3


def test_all_workers_of_a_registration_are_of_the_same_one() -> None:
    rig = joined()
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive(), initial_workers=2, synchronous=False))
    first, second = rig.take(NODE, m.StartWorker)
    rig.exit_worker(first.worker_id)
    rig.say(GATEWAY, m.ScaleWorkers(6, "m", None, 3, 3, False, -1))
    later = rig.take(NODE, m.StartWorker)
    assert later
    assert {start.registration for start in (first, second, *later)} == {first.registration}


@pytest.mark.parametrize(
    ("ask", "default", "at_start", "is_wanted_now"),
    [
        (m.RegisterModel(5, "m.mar"), 0, False, False),
        (m.RegisterModel(5, "m.mar"), 2, False, True),
        (m.RegisterModel(5, "m.mar", initial_workers=0), 2, False, False),
        (m.RegisterModel(5, "m.mar", initial_workers=1), 0, False, True),
        (m.RegisterModel(5, "m.mar"), 0, True, True),
    ],
)
def test_it_is_known_beforehand_whether_workers_start_at_once(
    ask: m.RegisterModel, default: int, at_start: bool, is_wanted_now: bool
) -> None:
    configured = settings(default_workers_per_model=default)
    assert starts_workers(ask, None, configured, at_start) is is_wanted_now


@pytest.mark.parametrize("min_workers", [0, 1])
def test_a_restored_models_workers_are_its_snapshots(min_workers: int) -> None:
    restored = StartupModel(name="m", version="1.0", min_workers=min_workers)
    assert starts_workers(m.RegisterModel(0, "m.mar"), restored, settings(), True) is bool(min_workers)


def test_a_folder_that_was_packed_is_told_to_show_no_edits() -> None:
    rig = joined()
    url = rig.archive()
    rig.archives[url] = replace(cast("Prepared", rig.archives[url]), is_packed=True)
    rig.say(GATEWAY, m.RegisterModel(5, url))
    assert "model.folder_packed" in [report.event for report in rig.reports]


def test_a_node_is_told_whether_a_worker_stops_for_good() -> None:
    rig = joined()
    rig.register(initial_workers=2)
    rig.start_workers()
    rig.say(GATEWAY, m.ScaleWorkers(6, "m", None, 1, 1, False, 0))
    assert not rig.only(NODE, m.StopWorker).is_unregistered
    rig.say(GATEWAY, m.UnregisterModel(7, "m", None))
    rig.pass_time(rig.settings.stop_grace_s + 1)
    assert all(stop.is_unregistered for stop in rig.take(NODE, m.StopWorker))
    assert not rig.core.catalog.get(("m", "1.0"))
