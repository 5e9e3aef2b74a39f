"""When workers that failed are started again, and when no more."""

import itertools

from tests.broker.rig import GATEWAY, NODE, Rig, settings
from torchrelay.shared.wire import messages as m


def test_a_failing_model_is_started_again_ever_more_rarely_and_then_not_at_all() -> None:
    rig = Rig(settings(restart_window_s=60))
    rig.join_gateway()
    rig.join_node()
    rig.register()
    starts = []
    for _ in range(120):
        for order in rig.take(NODE, m.StartWorker):
            starts.append(rig.now)
            rig.exit_worker(order.worker_id, reason="ValueError: no weights")
        rig.pass_time(1)
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert gaps == sorted(gaps)
    assert starts[-1] - starts[0] <= 90
    rig.submit(1)
    assert "ValueError: no weights" in rig.only(GATEWAY, m.Refused).items[0].details
    rig.say(GATEWAY, m.ReadHealth(5))
    assert not rig.only(GATEWAY, m.HealthRead).healthy
    # Scaling tries again.
    rig.say(GATEWAY, m.ScaleWorkers(6, "m", None, 1, 1, synchronous=False))
    assert len(rig.take(NODE, m.StartWorker)) == 1


def test_an_old_failure_does_not_keep_a_model_from_being_started_again() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.exit_worker(9000)
    rig.pass_time(1)
    rig.start_workers()
    rig.pass_time(400)
    rig.silent |= {NODE, b"w-9001"}
    other = rig.join_node(b"n-2")
    rig.pass_time(10)
    assert len(rig.take(other, m.StartWorker)) == 1


def test_a_crash_loop_beside_a_good_worker_becomes_rare_too() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.register(initial_workers=2)
    first, second = rig.take(NODE, m.StartWorker)
    good = rig.worker_ready(first)
    rig.exit_worker(second.worker_id)
    starts = 0
    for job in range(200):
        rig.submit(job)
        rig.complete(good, rig.only(good, m.Assign))
        rig.pass_time(1)
        for order in rig.take(NODE, m.StartWorker):
            starts += 1
            rig.exit_worker(order.worker_id)
    assert starts < 15
