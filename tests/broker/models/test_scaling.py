"""Scaling: workers started, retired, and revived."""

import pytest

from tests.broker.models.test_changes import joined
from tests.broker.rig import CLAIMS, CPU, GATEWAY, NODE, Rig
from torchrelay.shared.archives.model_config import ModelConfig
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
