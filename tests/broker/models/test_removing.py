"""Unregistering: what waits is answered, and workers stop."""

from tests.broker.models.test_changes import joined, refusal
from tests.broker.rig import GATEWAY, NODE, Rig, settings
from torchrelay.shared.wire import messages as m


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
