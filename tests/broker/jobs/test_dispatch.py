"""Which worker gets a job, by mode of batching; for sequences see test_sequences."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.broker.jobs.test_jobs import ASYNC, CONTINUOUS, answers, refusals
from tests.broker.rig import GATEWAY, NODE, Rig
from torchrelay.broker.core.events import Unreachable
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.processes.shared_memory import LentMemory, Piece
from torchrelay.shared.wire import messages as m


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


def test_jobs_that_run_concurrently_are_spread_over_the_workers() -> None:
    rig = Rig()
    workers = rig.ready_rig(config=ASYNC, workers=3)
    rig.submit(*range(9))
    assert [len(rig.take(worker, m.Assign)) for worker in workers] == [3, 3, 3]


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


@pytest.mark.parametrize("config", [ModelConfig(), ASYNC])
def test_what_was_on_a_node_that_is_lost_is_not_given_to_one_that_is_as_silent(config: ModelConfig) -> None:
    """The network is cut: the two are found to be silent one after the other, and one loss is all it has."""
    rig = Rig()
    rig.ready_rig(config=config)
    other = rig.join_node(b"n-2")
    rig.submit(1)
    assert [item.meta for item in rig.only(b"w-9000", m.Assign).items] == [b"meta-1"]
    rig.say(GATEWAY, m.ScaleWorkers(9, "m", None, 2, 2, synchronous=False))
    (second,) = rig.start_workers(other)
    rig.silent.add(NODE)
    rig.pass_time(0.4)
    rig.silent.add(other)
    while NODE in rig.core.fleet.nodes:
        rig.pass_time(0.1)
    assert other in rig.core.fleet.nodes
    assert rig.take(second, m.Assign) == []
    rig.silent.discard(other)
    rig.pass_time(1)
    assert [item.meta for item in rig.only(second, m.Assign).items] == [b"meta-1"]
    assert not refusals(rig)


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


def test_a_job_whose_turn_comes_too_late_leaves_the_worker_to_one_that_can_be_answered() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    rig.pass_time(1.0)
    rig.complete(worker, rig.only(worker, m.Assign))  # a batch takes a second
    rig.submit(2)
    rig.submit(3, left_ms=2400)
    rig.submit(4, left_ms=5000)
    rig.pass_time(2.0)  # this one took two
    rig.complete(worker, rig.only(worker, m.Assign))
    assert rig.only(worker, m.Assign).items[0].meta == b"meta-4"
    (refused,) = refusals(rig)
    assert (refused.job, refused.error) == (3, "ServiceUnavailable")
    assert refused.details == "its client waits 0.4 s more, and a batch takes about 1.2 s"


def test_the_only_job_that_waits_is_tried_though_there_may_be_too_little_time() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    rig.pass_time(1.0)
    rig.complete(worker, rig.only(worker, m.Assign))
    rig.submit(2)
    rig.submit(3, left_ms=2400)
    rig.pass_time(2.0)
    rig.complete(worker, rig.only(worker, m.Assign))
    assert rig.only(worker, m.Assign).items[0].meta == b"meta-3"


def test_what_waited_too_long_is_told_when_what_waits_will_be_done() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(response_timeout_s=10)
    rig.submit(1)
    rig.pass_time(4.0)
    rig.complete(worker, rig.only(worker, m.Assign))
    rig.submit(*range(2, 5))
    lease = rig.only(worker, m.Assign)
    rig.pass_time(9.9)  # the worker is at its limit, too
    rig.complete(worker, lease)
    lease = rig.only(worker, m.Assign)
    rig.pass_time(0.3)
    (refused,) = refusals(rig)
    assert (refused.job, refused.retry_after_s) == (4, 1)
    assert refused.details.startswith("it waited 10 s in the queue")


def run_one(rig: Rig, worker: bytes, job: int, seconds: float, handler_us: int = 100) -> None:
    """Have a job run alone, so that it is known how long a batch takes."""
    rig.submit(job)
    batch = rig.only(worker, m.Assign)
    rig.pass_time(seconds)
    answers = tuple(m.CompletedItem(200, item.meta) for item in batch.items)
    rig.lose_lease(worker, batch)
    rig.say(worker, m.Completed(batch.lease, handler_us, answers))


def given(rig: Rig, worker: bytes) -> list[list[bytes]]:
    return [[item.meta for item in batch.items] for batch in rig.take(worker, m.Assign)]


def test_short_batches_are_sent_ahead_in_one_message_and_each_has_its_own_lease() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=1)
    run_one(rig, worker, 0, 0.00039)
    rig.sent_together.clear()
    rig.submit(*range(1, 10))
    assert given(rig, worker) == [[b"meta-%d" % job] for job in range(1, 7)], "2 ms are five beside the first"
    assert [len(leases) for leases in rig.sent_together] == [6]
    assert [rig.core.jobs.leases[number].began_at is None for number in rig.sent_together[0]] == [
        False
    ] + 5 * [True]


def test_batches_sent_ahead_are_full_and_have_32_jobs_at_most() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=8, max_batch_delay_ms=60_000)
    rig.submit(*range(8))
    (first,) = rig.take(worker, m.Assign)
    rig.pass_time(0.00001)
    rig.complete(worker, first)
    rig.submit(*range(8, 60))
    assert [len(batch) for batch in given(rig, worker)] == 5 * [8]


@pytest.mark.parametrize("seconds", [0.0021, 0.4])
def test_of_batches_that_take_longer_one_is_sent_ahead(seconds: float) -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=1)
    run_one(rig, worker, 0, seconds)
    rig.submit(*range(1, 10))
    assert len(given(rig, worker)) == 2


def test_of_large_jobs_one_is_sent_ahead_in_a_message_of_its_own() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=1)
    run_one(rig, worker, 0, 0.0001)
    rig.sent_together.clear()
    for job in range(1, 5):
        rig.submit_content(job, content=bytes(20_000))
    assert len(given(rig, worker)) == 2
    assert [len(leases) for leases in rig.sent_together] == [1, 1]


def test_of_several_workers_none_is_given_what_a_slow_batch_would_keep_from_the_others() -> None:
    rig = Rig()
    first, second = rig.ready_rig(workers=2, batch_size=1)
    run_one(rig, first, 0, 0.0001, handler_us=50_000)
    rig.submit(*range(1, 40))
    assert [len(given(rig, worker)) for worker in (first, second)] == [2, 2]
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=1)
    run_one(rig, worker, 0, 0.0001, handler_us=50_000)
    rig.submit(*range(1, 40))
    assert len(given(rig, worker)) > 10, "one alone keeps it from nobody"


@pytest.mark.parametrize(("handler_us", "counts"), [(90, [3, 3, 1]), (30, [7, 0, 0]), (200, [3, 2, 2])])
def test_very_short_batches_of_a_turn_are_shared_out_by_the_handful(
    handler_us: int, counts: list[int]
) -> None:
    rig = Rig()
    workers = rig.ready_rig(workers=3, batch_size=1)
    run_one(rig, workers[0], 0, 0.0001, handler_us)
    rig.submit(*range(1, 8))
    assert [len(given(rig, worker)) for worker in workers] == counts


def test_of_what_is_not_a_full_batch_a_worker_gets_no_more() -> None:
    rig = Rig()
    first, second = rig.ready_rig(workers=2, batch_size=2, max_batch_delay_ms=0)
    run_one(rig, first, 0, 0.0001, 10)
    rig.submit(*range(1, 6))
    assert [given(rig, worker) for worker in (first, second)] == [
        [[b"meta-1", b"meta-2"], [b"meta-3", b"meta-4"]],
        [[b"meta-5"]],
    ]


def test_what_was_sent_ahead_goes_to_another_worker_and_keeps_its_order() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=1)
    run_one(rig, worker, 0, 0.0004)
    rig.submit(*range(1, 4))
    assert len(given(rig, worker)) == 3
    rig.exit_worker(int(worker[2:]), reason="exit code 1", signal=0)
    (again,) = rig.start_workers()
    run = []
    while batches := rig.take(again, m.Assign):
        for batch in batches:
            run += [item.meta for item in batch.items]
            rig.complete(again, batch)
    assert sorted(run) == [b"meta-1", b"meta-2", b"meta-3"]
    assert not refusals(rig)


def test_what_was_sent_ahead_and_never_arrived_is_taken_back_as_a_whole() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=1)
    run_one(rig, worker, 0, 0.0004)
    rig.submit(*range(1, 4))
    leases = rig.sent_together[-1]
    items = tuple(m.AssignItem(b"meta") for _ in leases)
    ahead = tuple(m.AheadItem(lease, 1) for lease in leases[1:])
    rig.feed(Unreachable(worker, m.Assign(leases[0], False, items, ahead)))
    assert not rig.core.jobs.leases
    assert len(rig.core.jobs.queues["m", "1.0"]) == 3


def test_a_worker_of_the_protocol_before_gets_its_batches_one_by_one() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.register(initial_workers=1, batch_size=1)
    (order,) = rig.take(NODE, m.StartWorker)
    worker = rig.worker_ready(order, protocol=m.AHEAD_SINCE_PROTOCOL - 1)
    run_one(rig, worker, 0, 0.0004)
    rig.sent_together.clear()
    rig.submit(*range(1, 4))
    assert [len(leases) for leases in rig.sent_together] == [1, 1, 1]


def test_answers_in_a_row_are_taken_each_by_itself() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=1)
    run_one(rig, worker, 0, 0.0004)
    answers(rig)
    rig.submit(1, 2, 3)
    batches = rig.take(worker, m.Assign)
    done = [m.Completed(one.lease, 100, (m.CompletedItem(200, one.items[0].meta),)) for one in batches]
    rig.leases[worker].clear()
    rig.say(worker, m.CompletedInRow((done[0], done[0], done[1], done[2])))
    assert [item.job for item in answers(rig)] == [1, 2, 3]
    assert rig.core.stats.stale_results == 1


@pytest.fixture
def piece() -> Iterator[Piece]:
    with closing(LentMemory(1 << 20, until_taken=True)) as memory:
        lent = memory.lend(b"large", 0.0)
        assert lent is not None
        yield lent


def test_of_large_jobs_that_are_lent_as_many_are_sent_ahead_as_of_small_ones(piece: Piece) -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=1)
    run_one(rig, worker, 0, 0.0004)
    rig.sent_together.clear()
    items = tuple(m.SubmitItem(job, "m", None, False, b"meta-%d" % job, 1) for job in range(1, 5))
    rig.say(GATEWAY, m.Submit(items), [piece] * 4)
    assert [len(leases) for leases in rig.sent_together] == [4]


def test_answers_in_a_row_have_their_own_frames(piece: Piece) -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=1)
    run_one(rig, worker, 0, 0.0004)
    answers(rig)
    rig.submit(1, 2, 3)
    batches = rig.take(worker, m.Assign)
    rig.leases[worker].clear()
    done = tuple(
        m.Completed(batch.lease, 100, (m.CompletedItem(200, batch.items[0].meta, frames),))
        for batch, frames in zip(batches, (1, 0, 2), strict=True)
    )
    rig.say(worker, m.CompletedInRow(done), [piece, piece, piece])
    assert [(item.job, item.frames) for item in answers(rig)] == [(1, 1), (2, 0), (3, 2)]


def test_answers_in_a_row_whose_frames_do_not_add_up_are_not_understood(piece: Piece) -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=1)
    rig.submit(1)
    (batch,) = rig.take(worker, m.Assign)
    done = m.Completed(batch.lease, 100, (m.CompletedItem(200, batch.items[0].meta, 1),))
    rig.say(worker, m.CompletedInRow((done,)), [piece, piece])
    assert len(rig.take(worker, m.Misunderstood)) == 1
    assert answers(rig) == []
