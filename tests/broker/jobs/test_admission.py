"""Which jobs are taken in: tickets and the limits of queues."""

import pytest

from tests.broker.jobs.test_jobs import refusals
from tests.broker.rig import Rig, settings
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.wire import messages as m


@pytest.mark.parametrize(("config", "batch_size", "taken"), [
    (ModelConfig(use_job_ticket=True), 1, 1),
    (ModelConfig(use_job_ticket=True), 3, 3),
    (ModelConfig(use_job_ticket=True, continuous_batching=True), 2, 2),
])  # fmt: skip
def test_with_job_tickets_only_what_can_run_at_once_is_taken(
    config: ModelConfig, batch_size: int, taken: int
) -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=config, batch_size=batch_size)
    rig.submit(*range(5))
    assert [item.job for item in refusals(rig)] == list(range(taken, 5))
    for lease in rig.take(worker, m.Assign):
        rig.complete(worker, lease)
    rig.submit(10)
    assert not refusals(rig)


def test_without_a_worker_there_is_no_ticket() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.register(config=ModelConfig(use_job_ticket=True))
    rig.submit(1)
    (refused,) = refusals(rig)
    assert (refused.error, refused.message[:47]) == (
        "ServiceUnavailable", 'Model "m" has no worker to serve inference requ',
    )  # fmt: skip
    assert "useJobTicket" in refused.details


def test_a_models_own_queue_size_comes_before_the_servers() -> None:
    rig = Rig(settings(job_queue_size=10))
    rig.join_gateway()
    rig.register(config=ModelConfig(job_queue_size=2))
    rig.submit(1, 2, 3)
    assert [item.job for item in refusals(rig)] == [3]
