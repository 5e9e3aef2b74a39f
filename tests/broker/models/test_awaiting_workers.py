"""Callers that wait for workers."""

from tests.broker.models.test_changes import joined, refusal
from tests.broker.rig import GATEWAY, NODE, Rig
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.wire import messages as m


def test_synchronous_registration_waits_for_all_workers() -> None:
    rig = joined()
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive(), initial_workers=2))
    one, two = rig.take(NODE, m.StartWorker)
    rig.worker_ready(one)
    assert not rig.take(GATEWAY, m.ModelRegistered)
    rig.worker_ready(two)
    assert rig.only(GATEWAY, m.ModelRegistered) == m.ModelRegistered(5, "m", "1.0", 2, True)


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


def test_waiting_ends_when_the_fleet_has_no_room() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive(), initial_workers=1, startup_timeout_s=10))
    rig.pass_time(16)
    refused = rig.only(GATEWAY, m.AskRefused)
    assert "no node has joined" in refused.details


def test_failing_to_scale_keeps_the_model_and_names_no_version_as_torchserve_does() -> None:
    rig = joined()
    rig.register(initial_workers=0)
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 1, 1, synchronous=True))
    rig.exit_worker(rig.only(NODE, m.StartWorker).worker_id)
    assert refusal(rig)[1] == "Failed to start workers for model m version: null"
    assert rig.core.catalog.resolve("m", None).min_workers == 1


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
