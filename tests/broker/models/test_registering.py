"""Registering: conflicts, what is said of the archive, and the models of the start."""

from dataclasses import replace
from typing import cast

import pytest

from tests.broker.models.test_changes import joined, refusal
from tests.broker.rig import GATEWAY, NODE, Rig, settings
from torchrelay.broker.core.effects import Prepare
from torchrelay.broker.models.precedence import starts_workers
from torchrelay.broker.models.records import Prepared
from torchrelay.broker.models.registering import LOAD_AGAIN_S
from torchrelay.shared import errors
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.settings import LoadAtStart, StartupModel
from torchrelay.shared.wire import messages as m


def test_registration_without_workers_is_answered_at_once() -> None:
    rig = joined()
    url = rig.archive()
    rig.say(GATEWAY, m.RegisterModel(5, url))
    assert rig.only(GATEWAY, m.ModelRegistered) == m.ModelRegistered(5, "m", "1.0", 0, True)


def test_asynchronous_registration_says_that_it_is_not_done() -> None:
    rig = joined()
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive(), initial_workers=2, synchronous=False))
    assert not rig.only(GATEWAY, m.ModelRegistered).done


def test_a_failed_start_leaves_an_asynchronous_registration_with_its_reason() -> None:
    rig = joined()
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive(), initial_workers=1, synchronous=False))
    rig.exit_worker(rig.only(NODE, m.StartWorker).worker_id, reason="ValueError: no weights")
    rig.say(GATEWAY, m.DescribeModel(6, "m", None))
    (facts,) = rig.only(GATEWAY, m.ModelDescribed).versions
    assert facts.last_error == "ValueError: no weights"
    assert "wants 1, has 0" in facts.explanation


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
            "retry_in_s": LOAD_AGAIN_S,
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
