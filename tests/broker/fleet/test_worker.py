"""A worker as the broker knows it."""

import pytest

from torchrelay.broker.core.states import WorkerState
from torchrelay.broker.fleet.worker import FleetWorker


def worker(*devices: str) -> FleetWorker:
    device = devices[0] if devices else "cpu"
    return FleetWorker(
        9000, ("m", "1.0"), "sha", device, "n", b"n", WorkerState.STARTING, 5.0, 5.0, devices=devices
    )


def test_a_move_that_the_table_lacks_is_an_assertion_and_changes_nothing() -> None:
    one = worker()
    with pytest.raises(AssertionError, match="illegal move starting -> draining"):
        one.move(WorkerState.DRAINING, 6.0)
    assert (one.state, one.since) == (WorkerState.STARTING, 5.0)
    one.move(WorkerState.READY, 7.0)
    assert (one.state, one.since, one.started_at) == (WorkerState.READY, 7.0, 5.0)


def test_it_is_labelled_as_torchserve_does_and_knows_the_numbers_of_its_gpus() -> None:
    assert worker().metrics_label == "W-9000-m_1.0"
    assert worker().gpu_id is None
    two = worker("cuda:1", "cuda:3")
    assert (two.gpu_id, two.gpu_ids) == (1, (1, 3))
