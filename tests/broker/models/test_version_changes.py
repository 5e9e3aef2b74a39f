"""Scaling, the default version, unregistering, and callers that wait for workers."""

import pytest

from tests.broker.models.test_changes import joined, refusal
from tests.broker.rig import CLAIMS, CPU, GATEWAY, NODE, Rig, settings
from torchrelay.shared.archives.model_config import ModelConfig, PlacementWish
from torchrelay.shared.wire import messages as m


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


def test_a_caller_who_asks_for_what_no_node_could_hold_is_told_why_soon() -> None:
    rig = joined()
    wish = PlacementWish(memory_bytes=9 << 30, labels=(("zone", "a"),))
    rig.archive("u", config=ModelConfig(placement=wish))
    rig.say(GATEWAY, m.RegisterModel(5, "u", initial_workers=1, synchronous=True))
    rig.pass_time(14)
    assert not rig.take(GATEWAY, m.AskRefused), "a node that can may be on its way"
    rig.pass_time(2)
    refused = rig.only(GATEWAY, m.AskRefused)
    assert refused.error == "WorkerStartFailed"
    assert "needs 9 GiB and the label zone=a; n-1 lacks the label zone=a; add a node" in refused.details
    assert not list(rig.core.catalog), "it is rolled back as any other registration whose workers fail"


def test_a_caller_waits_for_memory_that_others_may_free_as_for_anything_else() -> None:
    rig = joined()
    rig.join_node(b"n-2", devices=(m.Device("cuda:0", "gpu", "", 24 << 30),))
    rig.register(config=ModelConfig(placement=PlacementWish(memory_bytes=20 << 30)))
    order = rig.only(b"n-2", m.StartWorker)
    rig.worker_ready(order, b"n-2")
    rig.say(GATEWAY, m.ScaleWorkers(6, "m", None, 2, 2, synchronous=True))
    rig.pass_time(60)
    assert not rig.take(GATEWAY, m.AskRefused)
    rig.pass_time(70)
    assert "cuda:0 of n-2 has 4 GiB free of 24" in rig.only(GATEWAY, m.AskRefused).details


def test_a_caller_waits_for_the_first_node_of_all_whatever_it_asks_for() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.archive("u", config=ModelConfig(placement=PlacementWish(labels=(("zone", "a"),))))
    rig.say(GATEWAY, m.RegisterModel(5, "u", initial_workers=1, synchronous=True))
    rig.pass_time(60)
    rig.join_node(labels={"zone": "a"})
    rig.start_workers()
    rig.only(GATEWAY, m.ModelRegistered)


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


def test_the_default_version_can_only_go_last() -> None:
    rig = joined()
    rig.register(version="1.0", initial_workers=0)
    rig.register(version="2.0", initial_workers=0)
    rig.say(GATEWAY, m.UnregisterModel(2, "m", "1.0"))
    assert refusal(rig) == ("InvalidModelVersion", "Cannot remove default version for model m")
    rig.say(GATEWAY, m.UnregisterModel(3, "m", "2.0"))
    rig.say(GATEWAY, m.UnregisterModel(4, "m", None))
    assert len(rig.take(GATEWAY, m.ModelUnregistered)) == 2


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
