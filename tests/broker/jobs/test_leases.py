"""Leases: their answers and parts of answers, and what becomes of those that were lost."""

import pytest

from tests.broker.jobs.test_jobs import ASYNC, CONTINUOUS, answers, refusals
from tests.broker.rig import GATEWAY, NODE, Rig
from torchrelay.broker.jobs.queues import MISSES_LIMIT
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.serials import ROW_BITS


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


def worker_that_numbers_answers(rig: Rig) -> bytes:
    """Start one of which the broker knows what it has not heard."""
    rig.join_gateway()
    rig.join_node()
    rig.register()
    return rig.worker_ready(rig.only(NODE, m.StartWorker), next_serial=1)


def lose_on_the_way(rig: Rig, worker: bytes) -> m.Assign:
    """Have a worker that beats know nothing of the batch that it was given."""
    batch = rig.only(worker, m.Assign)
    rig.lose_lease(worker, batch)
    rig.pass_time(5)
    return batch


def test_a_batch_that_never_reached_its_worker_has_used_up_no_try_however_often_that_happens() -> None:
    rig = Rig()
    worker = worker_that_numbers_answers(rig)
    rig.submit(1)
    for _ in range(MISSES_LIMIT - 1):
        lose_on_the_way(rig, worker)
    again = rig.only(worker, m.Assign)
    assert rig.attempt(again) == 1
    rig.complete(worker, again)
    assert [item.job for item in answers(rig)] == [1]


def test_a_batch_that_no_worker_can_read_is_refused_in_the_end() -> None:
    rig = Rig()
    worker = worker_that_numbers_answers(rig)
    rig.submit(1)
    for _ in range(MISSES_LIMIT):
        lose_on_the_way(rig, worker)
    (refused,) = refusals(rig)
    assert refused.details == f"the batch was lost on its way (in {MISSES_LIMIT} tries)"
    assert not rig.take(worker, m.Assign)


@pytest.mark.parametrize("twist", ["it doesn't number its answers", "it has let answers go"])
def test_a_batch_may_have_run_where_its_answer_may_be_lost(twist: str) -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.register()
    worker = rig.worker_ready(rig.only(NODE, m.StartWorker), next_serial=int("let go" in twist))
    if "let" in twist:
        row = 1 << ROW_BITS
        rig.say(worker, m.WorkerBeat(serial=row))
    rig.submit(1)
    lose_on_the_way(rig, worker)
    lose_on_the_way(rig, worker)
    assert [item.job for item in refusals(rig)] == [1]


def test_what_ran_on_a_worker_that_was_scaled_away_at_once_has_used_up_a_try() -> None:
    rig = Rig()
    one, two = rig.ready_rig(workers=2)
    rig.submit(1)
    (holder,) = [peer for peer in (one, two) if rig.take(peer, m.Assign)]
    # The one that runs nothing would go first.
    other = two if holder == one else one
    rig.submit(2)
    rig.only(other, m.Assign)
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 1, 1, False, 0))
    (stop,) = rig.take(NODE, m.StopWorker)
    left = next(peer for peer in (one, two) if peer != b"w-%d" % stop.worker_id)
    (lease,) = rig.core.jobs.leases.values()
    rig.say(left, m.Completed(lease.number, 1, (m.CompletedItem(200, b""),)))
    assert rig.attempt(rig.only(left, m.Assign)) == 2


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


def test_an_asynchronous_job_that_nobody_waits_for_must_end_within_response_timeout() -> None:
    rig = Rig()
    rig.ready_rig(config=ASYNC, response_timeout_s=5)
    rig.submit(1)
    rig.pass_time(60)
    rig.say(GATEWAY, m.Cancel((1,)))
    rig.pass_time(4)
    rig.submit(2)
    assert not rig.take(NODE, m.StopWorker)
    rig.pass_time(2)
    assert rig.only(NODE, m.StopWorker).kill
    (again,) = rig.start_workers()
    assert [item.meta for item in rig.only(again, m.Assign).items] == [b"meta-2"], (
        "it had not run into anything"
    )


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


def test_the_time_of_a_batch_is_learnt_in_every_mode_and_not_from_what_was_given_up() -> None:
    for config in (None, ASYNC):
        rig = Rig()
        (worker,) = rig.ready_rig(config=config)
        rig.submit(1)
        rig.pass_time(2.0)
        rig.complete(worker, rig.only(worker, m.Assign))
        assert rig.core.jobs.queues["m", "1.0"].service_s == 2.0
        rig.submit(2)
        rig.say(GATEWAY, m.Cancel((2,)))
        rig.complete(worker, rig.only(worker, m.Assign))
        assert rig.core.jobs.queues["m", "1.0"].service_s == 2.0, (
            "a handler that saw that its client had left tells nothing"
        )
        rig.submit(3, is_describe=True)
        rig.complete(worker, rig.only(worker, m.Assign))
        assert rig.core.jobs.queues["m", "1.0"].service_s == 2.0, "a description takes no time"
