"""Streams, cancelled jobs, leases side by side, job tickets and limits of time."""

from dataclasses import replace

import pytest

from tests.broker.rig import GATEWAY, NODE, Rig, settings
from torchrelay.broker.core.states import JobState
from torchrelay.broker.models.records import Prepared
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.settings import LoadAtStart
from torchrelay.shared.wire import messages as m

CONTINUOUS = ModelConfig(continuous_batching=True)
ASYNC = ModelConfig(async_communication=True)


def answers(rig: Rig, gateway: bytes = GATEWAY) -> list[m.AnsweredItem]:
    return [item for message in rig.take(gateway, m.Answered) for item in message.items]


def refusals(rig: Rig, gateway: bytes = GATEWAY) -> list[m.RefusedItem]:
    return [item for message in rig.take(gateway, m.Refused) for item in message.items]


# Streams


def test_parts_reach_the_gateway_in_order_and_before_the_last_one() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    batch = rig.only(worker, m.Assign)
    rig.stream(worker, batch, b"a", 0)
    assert answers(rig) == [m.AnsweredItem(1, b"a", 0, False, 0)]
    rig.stream(worker, batch, b"b", 0)
    rig.complete(worker, batch)
    assert answers(rig) == [m.AnsweredItem(1, b"b", 0, False, 1), m.AnsweredItem(1, b"meta-1", 0, True, 2)]


def test_each_member_of_a_batch_streams_for_itself_with_its_frames() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=2)
    rig.submit(1, 2)
    batch = rig.only(worker, m.Assign)
    items = (m.StreamedItem(1, b"x", 1), m.StreamedItem(0, b"y", 0), m.StreamedItem(1, b"z", 1))
    rig.say(worker, m.Streamed(batch.lease, items), (b"x0", b"z0"))
    message, frames = rig.inbox[GATEWAY].pop()
    assert isinstance(message, m.Answered)
    assert [(item.job, item.meta, item.frames, item.part) for item in message.items] == [
        (2, b"x", 1, 0),
        (1, b"y", 0, 0),
        (2, b"z", 1, 1),
    ]
    assert frames == (b"x0", b"z0")


def test_every_part_gives_the_worker_its_response_timeout_anew() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(response_timeout_s=5)
    rig.submit(1)
    batch = rig.only(worker, m.Assign)
    for _ in range(4):
        rig.pass_time(4)
        rig.stream(worker, batch, b"more", 0)
    assert not refusals(rig)
    rig.pass_time(6)
    (refused,) = refusals(rig)
    assert refused.error == "WorkerDied"
    assert rig.only(NODE, m.StopWorker).kill


def test_a_job_that_has_streamed_is_not_tried_again_but_its_neighbours_are() -> None:
    rig = Rig()
    one, two = rig.ready_rig(workers=2, batch_size=2)
    rig.submit(1, 2)
    holder, batch = next((w, found[0]) for w in (one, two) if (found := rig.take(w, m.Assign)))
    rig.stream(holder, batch, b"part", 0)
    rig.exit_worker(int(holder[2:]))
    (refused,) = refusals(rig)
    assert (refused.job, refused.error, refused.message) == (1, "WorkerDied", "Worker died.")
    (new,) = rig.start_workers()
    (again,) = (assign for peer in (one, two, new) if peer != holder for assign in rig.take(peer, m.Assign))
    assert [item.meta for item in again.items] == [b"meta-2"]


def test_a_part_that_comes_twice_is_passed_on_once() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    batch = rig.only(worker, m.Assign)
    for _ in range(2):
        rig.say(worker, m.Streamed(batch.lease, (m.StreamedItem(0, b"a"),), 0))
    assert [item.meta for item in answers(rig)] == [b"a"]
    assert rig.core.stats.stale_results == 1


@pytest.mark.parametrize("found_by", ["the next part", "the end"])
def test_an_answer_that_has_lost_a_part_is_broken_off(found_by: str) -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    batch = rig.only(worker, m.Assign)
    rig.stream(worker, batch, b"a", 0)
    if found_by == "the next part":
        rig.say(worker, m.Streamed(batch.lease, (m.StreamedItem(0, b"c"),), 2))
        assert rig.only(worker, m.CancelJobs) == m.CancelJobs(batch.lease, (0,))
    else:
        rig.say(worker, m.Completed(batch.lease, 1, (m.CompletedItem(200, b"end"),), 2))
    assert [item.meta for item in answers(rig)] == [b"a"]
    (refused,) = refusals(rig)
    assert "part of its answer was lost" in refused.details


@pytest.mark.parametrize("twist", ["an index outside", "another worker", "frames that do not add up"])
def test_parts_that_make_no_sense_change_nothing_and_are_answered(twist: str) -> None:
    rig = Rig()
    one, two = rig.ready_rig(workers=2)
    rig.submit(1)
    holder, batch = next((w, found[0]) for w in (one, two) if (found := rig.take(w, m.Assign)))
    speaker = holder if twist != "another worker" else two if holder == one else one
    index = 5 if twist == "an index outside" else 0
    frames = 1 if twist == "frames that do not add up" else 0
    rig.say(speaker, m.Streamed(batch.lease, (m.StreamedItem(0, b""), m.StreamedItem(index, b"", frames))))
    rig.only(speaker, m.Misunderstood)
    assert not answers(rig)
    rig.complete(holder, batch)
    assert answers(rig) == [m.AnsweredItem(1, b"meta-1", 0, True, 0)]


def test_parts_after_the_end_are_dropped_and_counted() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    batch = rig.only(worker, m.Assign)
    rig.complete(worker, batch)
    answers(rig)
    rig.stream(worker, batch, b"late", 0)
    assert not answers(rig)
    assert rig.core.stats.stale_results == 1


# Cancelled while running


def test_a_worker_is_told_which_jobs_of_its_batch_nobody_waits_for() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=3)
    rig.submit(1, 2, 3)
    batch = rig.only(worker, m.Assign)
    rig.say(GATEWAY, m.Cancel((3, 1)))
    assert rig.only(worker, m.CancelJobs) == m.CancelJobs(batch.lease, (2, 0))
    rig.stream(worker, batch, b"part", 0, 1)
    rig.complete(worker, batch)
    assert [item.job for item in answers(rig)] == [2, 2]
    assert not rig.core.jobs.leases


def test_a_gateway_that_goes_has_its_running_jobs_cancelled_on_their_workers() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    batch = rig.only(worker, m.Assign)
    rig.say(GATEWAY, m.Bye())
    assert rig.only(worker, m.CancelJobs) == m.CancelJobs(batch.lease, (0,))


# Leases side by side


def test_a_continuous_model_gets_a_lease_for_each_job_up_to_its_batch_size() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=CONTINUOUS, batch_size=3, max_batch_delay_ms=60_000)
    rig.submit(*range(5))
    leases = rig.take(worker, m.Assign)
    metas = [[item.meta for item in lease.items] for lease in leases]
    assert metas == [[b"meta-0"], [b"meta-1"], [b"meta-2"]]
    rig.complete(worker, leases[1])
    assert [item.job for item in answers(rig)] == [1]
    assert [item.meta for item in rig.only(worker, m.Assign).items] == [b"meta-3"]


def test_an_asynchronous_model_is_given_many_jobs_whatever_its_batch_size() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=ASYNC)
    rig.submit(*range(50))
    assert len(rig.take(worker, m.Assign)) == 50


def test_jobs_side_by_side_are_spread_over_the_workers() -> None:
    rig = Rig()
    workers = rig.ready_rig(config=ASYNC, workers=3)
    rig.submit(*range(9))
    assert [len(rig.take(worker, m.Assign)) for worker in workers] == [3, 3, 3]


def test_a_beat_tells_which_of_several_leases_were_lost() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=CONTINUOUS, batch_size=3)
    rig.submit(1, 2, 3)
    _, lost, _ = rig.take(worker, m.Assign)
    rig.lose_lease(worker, lost)
    rig.pass_time(2)
    assert not rig.take(worker, m.Assign)  # it might still be on its way
    rig.pass_time(3)
    (again,) = rig.take(worker, m.Assign)
    assert (again.items[0].meta, rig.attempt(again)) == (b"meta-2", 2)
    assert len(rig.core.jobs.leases) == 3


def test_a_lost_lease_that_had_streamed_ends_its_job() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=CONTINUOUS, batch_size=3)
    rig.submit(1, 2)
    lost, _ = rig.take(worker, m.Assign)
    rig.stream(worker, lost, b"part", 0)
    rig.lose_lease(worker, lost)
    rig.pass_time(5)
    assert [item.job for item in refusals(rig)] == [1]
    assert len(rig.core.jobs.leases) == 1


def test_one_stuck_lease_of_several_costs_the_worker_and_the_others_are_tried_again() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=CONTINUOUS, batch_size=3, response_timeout_s=5)
    rig.submit(1)
    rig.pass_time(4)
    rig.submit(2)
    assert len(rig.take(worker, m.Assign)) == 2
    rig.pass_time(1.5)
    assert [item.job for item in refusals(rig)] == [1]
    assert rig.only(NODE, m.StopWorker).kill
    rig.exit_worker(int(worker[2:]))
    rig.pass_time(1)
    (worker,) = rig.start_workers()
    (again,) = rig.take(worker, m.Assign)
    assert again.items[0].meta == b"meta-2"


def test_an_asynchronous_job_may_take_any_time_while_its_worker_beats_and_not_longer() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=ASYNC, response_timeout_s=5)
    rig.submit(1)
    rig.pass_time(60)
    assert not refusals(rig)
    rig.silent.add(worker)
    rig.pass_time(6)
    assert [item.job for item in refusals(rig)] == [1]
    assert rig.only(NODE, m.StopWorker).kill


def test_a_worker_told_to_drain_ends_once_all_its_leases_have() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=ASYNC)
    rig.submit(1, 2)
    first, second = rig.take(worker, m.Assign)
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 0, 0, synchronous=False))
    rig.complete(worker, second)
    rig.pass_time(1)
    assert not rig.take(NODE, m.StopWorker)
    rig.complete(worker, first)
    rig.only(NODE, m.StopWorker)


def test_a_lease_number_is_not_given_again_after_a_restart() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    before = rig.only(worker, m.Assign).lease
    rig.restart()
    rig.join_gateway()
    rig.join_node()
    rig.pass_time(6)
    (worker,) = rig.start_workers()
    rig.submit(1)
    assert rig.only(worker, m.Assign).lease > before + 1_000_000


def test_a_version_registered_anew_in_another_mode_keeps_what_waits_and_drops_what_is_late() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    batch = rig.only(worker, m.Assign)
    rig.say(GATEWAY, m.UnregisterModel(2, "m", None))
    config = ModelConfig(sequence_batching=True, sequence_max_idle_ms=1000)
    rig.register(config=config, initial_workers=1)
    rig.submit(2, sequence="s")
    rig.complete(worker, batch)
    assert [item.job for item in answers(rig)] == [1]
    rig.exit_worker(int(worker[2:]))
    (worker,) = rig.start_workers()
    (assign,) = rig.take(worker, m.Assign)
    assert assign.items[0].sequence == "s"


# Job tickets


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


# Limits of time


def test_a_client_hears_at_its_timeout_whether_its_job_waits_or_runs() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=ModelConfig(client_timeout_ms=1000))
    rig.submit(1)
    rig.pass_time(0.6)
    rig.submit(2)
    batch = rig.only(worker, m.Assign)
    rig.pass_time(0.3)
    assert not refusals(rig)
    rig.pass_time(0.2)
    (first,) = refusals(rig)
    assert (first.job, first.error) == (1, "PredictionTimeout")
    assert first.message == "No answer within the model's clientTimeoutInMills of 1000"
    assert rig.only(worker, m.CancelJobs) == m.CancelJobs(batch.lease, (0,))
    rig.pass_time(0.6)
    (second,) = refusals(rig)
    assert second.job == 2
    rig.complete(worker, batch)
    rig.pass_time(1)
    assert not answers(rig)
    assert not rig.take(worker, m.Assign)


def test_a_client_with_less_patience_than_those_before_it_does_not_wait_for_them() -> None:
    rig = Rig()
    rig.join_gateway()
    for config in (None, ModelConfig(client_timeout_ms=500)):
        prepared = rig.archives[rig.archive(config=config)]
        assert isinstance(prepared, Prepared)
        rig.archives["m.mar"] = replace(prepared, archive=f"sha-{config}")  # the second replaces the first
        rig.load_at_start(LoadAtStart("m.mar"))
        rig.feed()
        rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 1, 1, synchronous=False))
        rig.submit(2 if config else 1)
    rig.pass_time(0.6)
    assert [item.job for item in refusals(rig)] == [2]
    (job,) = rig.core.gateways[GATEWAY].jobs.values()
    assert job.number == 1


def test_a_job_waits_for_a_worker_no_longer_than_one_may_take_to_answer() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.register(response_timeout_s=30)
    rig.submit(1)
    rig.pass_time(20)
    rig.submit(2)
    assert not refusals(rig)
    rig.pass_time(11)
    assert [item.job for item in refusals(rig)] == [1]
    rig.pass_time(20)
    assert [item.job for item in refusals(rig)] == [2]


def test_a_limit_that_has_passed_says_nothing_to_a_job_of_the_same_number() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=ModelConfig(client_timeout_ms=1000))
    rig.submit(1)
    rig.complete(worker, rig.only(worker, m.Assign))
    rig.pass_time(0.9)
    rig.submit(1)
    rig.pass_time(0.5)
    assert not refusals(rig)
    (job,) = rig.core.gateways[GATEWAY].jobs.values()
    assert job.state is JobState.RUNNING


def test_a_models_own_queue_size_comes_before_the_servers() -> None:
    rig = Rig(settings(job_queue_size=10))
    rig.join_gateway()
    rig.register(config=ModelConfig(job_queue_size=2))
    rig.submit(1, 2, 3)
    assert [item.job for item in refusals(rig)] == [3]
