"""Which jobs are taken in: tickets and the limits of queues."""

from typing import Any  # fields of a registration, by name

import pytest

from tests.broker.jobs.test_jobs import refusals
from tests.broker.rig import GATEWAY, Rig, settings
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


# What can't be answered in time, and when to come again


def busy_rig(service_s: float = 1.0, workers: int = 1, **fields: Any) -> tuple[Rig, list[bytes]]:
    """Make a rig whose workers have each shown how long a batch takes, and have just begun another."""
    rig = Rig(settings(job_queue_size=fields.pop("job_queue_size", 1000)))
    peers = rig.ready_rig(workers, **fields)
    places = workers * fields.get("batch_size", 1)
    rig.submit(*range(9000, 9000 + places))
    rig.pass_time(service_s)
    for peer in peers:
        rig.complete(peer, rig.only(peer, m.Assign))
    rig.take(GATEWAY, m.Answered)
    rig.submit(*range(9100, 9100 + places))
    return rig, peers


def test_what_cannot_be_answered_in_time_is_refused_at_once_and_told_when_to_come_again() -> None:
    rig, _ = busy_rig()
    rig.submit(*range(10))  # ten seconds of work
    rig.submit(20, left_ms=12_000)
    assert refusals(rig) == [], "it would be answered after 12 s, with 11 s behind it"
    rig.submit(21, left_ms=5_000)
    (refused,) = refusals(rig)
    assert (refused.job, refused.error, refused.retry_after_s) == (21, "ServiceUnavailable", 11)
    assert refused.message.startswith('Model "m" has no worker to serve inference request.')
    assert refused.details == (
        "its turn would come in about 12.0 s, behind 11 jobs, a batch takes about 1.0 s, "
        "and its client waits 5.0 s"
    )
    assert len(rig.core.jobs.waiting.deadlines) == 1, "what was refused has no deadline"


def test_a_client_that_waits_less_than_a_batch_takes_is_let_in_where_a_worker_is_idle() -> None:
    rig, (worker,) = busy_rig()
    rig.complete(worker, rig.only(worker, m.Assign))
    rig.submit(1, left_ms=200)
    assert refusals(rig) == []
    assert rig.only(worker, m.Assign).items[0].left_ms == 200
    rig.submit(2, left_ms=200)
    assert [item.job for item in refusals(rig)] == [2]


def test_what_could_not_begin_within_response_timeout_is_refused_at_once() -> None:
    rig, _ = busy_rig(service_s=2.0, response_timeout_s=7)
    rig.submit(*range(10))
    first, *others = refusals(rig)
    assert [first.job, *(item.job for item in others)] == [3, 4, 5, 6, 7, 8, 9]
    assert "8.0 s" in first.details
    assert "more than response_timeout (7 s)" in first.details


def test_more_workers_and_larger_batches_let_more_in() -> None:
    rig, _ = busy_rig(workers=2, batch_size=4, max_batch_delay_ms=1)
    rig.submit(*range(40), left_ms=3300)
    # Both begin the next batch in a second: each of them two before 3.3 s less a batch and a quarter.
    assert [item.job for item in refusals(rig)] == list(range(16, 40))


def test_without_a_worker_that_is_ready_nothing_is_known_and_all_is_let_in() -> None:
    rig, (worker,) = busy_rig()
    rig.submit(*range(10))
    rig.exit_worker(int(worker[2:]))
    rig.submit(20, left_ms=900)
    assert refusals(rig) == []
    rig.pass_time(1.0)
    assert [(item.job, item.error) for item in refusals(rig)] == [(20, "PredictionTimeout")]


def test_a_job_that_comes_back_was_accepted_and_is_not_judged_again() -> None:
    rig, _ = busy_rig()
    rig.submit(*range(10))
    rig.say(GATEWAY, m.Submit((m.SubmitItem(20, "m", None, False, b"", left_ms=900),), heard=m.HELD))
    assert refusals(rig) == []


def test_the_place_of_a_client_that_leaves_is_there_for_the_next_at_once() -> None:
    rig, _ = busy_rig(service_s=3.0, job_queue_size=2)
    rig.submit(1, 2, 3)
    assert [item.job for item in refusals(rig)] == [3]
    rig.feed(
        rig.event(GATEWAY, m.Cancel((1,))),
        rig.event(GATEWAY, m.Submit((m.SubmitItem(4, "m", None, False, b""),))),
    )
    assert refusals(rig) == [], "in the very turn in which it is heard"


def test_a_full_queue_says_when_what_waits_will_be_done() -> None:
    rig, _ = busy_rig(service_s=3.0, job_queue_size=5)
    rig.submit(*range(6))
    (refused,) = refusals(rig)
    assert (refused.job, refused.retry_after_s) == (5, 15)
    assert "job_queue_size" in refused.details


@pytest.mark.parametrize(("service_s", "retry_after_s"), [(0.01, 1), (100.0, 60)])
def test_when_to_come_again_is_bounded(service_s: float, retry_after_s: int) -> None:
    rig, _ = busy_rig(service_s=service_s, job_queue_size=5)
    rig.submit(*range(10))
    assert {item.retry_after_s for item in refusals(rig)} == {retry_after_s}


def test_a_job_without_a_limit_of_its_own_gets_no_deadline() -> None:
    rig, (worker,) = busy_rig()
    rig.submit(1)
    assert len(rig.core.jobs.waiting.deadlines) == 0
    assert rig.only(worker, m.Assign).items[0].left_ms == 0


@pytest.mark.parametrize(("own_ms", "of_model_ms", "limit_ms"), [
    (300, 0, 300), (300, 500, 300), (500, 300, 300), (0, 300, 300), (300, 300, 300),
])  # fmt: skip
def test_of_a_clients_limit_and_its_models_the_shorter_counts(
    own_ms: int, of_model_ms: int, limit_ms: int
) -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=ModelConfig(client_timeout_ms=of_model_ms))
    rig.submit(1, left_ms=own_ms)
    assert rig.only(worker, m.Assign).items[0].left_ms == limit_ms
    rig.pass_time(limit_ms / 1000 + 0.001)
    (late,) = refusals(rig)
    is_own = own_ms and own_ms <= (of_model_ms or own_ms)
    named = "request's x-request-timeout-ms" if is_own else f"model's clientTimeoutInMills of {of_model_ms}"
    assert late.message == f"No answer within the {named}"
