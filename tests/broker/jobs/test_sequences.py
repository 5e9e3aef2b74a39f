"""Sequences: their order, their worker, their ends."""

import msgspec
import pytest

from tests.broker.jobs.test_jobs import answers, refusals
from tests.broker.rig import GATEWAY, NODE, Rig, held, settings
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.wire import messages as m

PATIENT = ModelConfig(
    sequence_batching=True, sequence_max_idle_ms=10_000, max_sequence_queue_jobs=10, max_sequences=8
)


def config(**changes: int | bool) -> ModelConfig:
    return msgspec.structs.replace(PATIENT, **changes)


def metas(batch: m.Assign) -> list[bytes]:
    return [item.meta for item in batch.items]


def test_a_batch_has_one_job_of_each_sequence_and_the_next_come_in_their_order() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=config(), batch_size=4, max_batch_delay_ms=0)
    rig.submit(1, sequence="other")
    rig.complete(worker, rig.only(worker, m.Assign))
    items = [m.SubmitItem(job, "m", None, False, b"meta-%d" % job, sequence=name)
             for job, name in ((2, "a"), (3, "a"), (4, "b"), (5, "a"))]  # fmt: skip
    rig.say(GATEWAY, m.Submit(tuple(items)))
    first = rig.only(worker, m.Assign)
    assert metas(first) == [b"meta-2", b"meta-4"]
    assert [item.sequence for item in first.items] == ["a", "b"]
    rig.complete(worker, first)
    second = rig.only(worker, m.Assign)
    assert metas(second) == [b"meta-3"]
    rig.complete(worker, second)
    assert metas(rig.only(worker, m.Assign)) == [b"meta-5"]


def test_a_sequence_stays_with_its_worker_though_another_is_idle() -> None:
    rig = Rig()
    workers = rig.ready_rig(workers=2, config=config())
    homes: dict[str, bytes] = {}
    for job, name in ((1, "a"), (2, "b"), (3, "a"), (4, "b"), (5, "a"), (6, "a")):
        rig.submit(job, sequence=name)
        home, batch = next((w, found[0]) for w in workers if (found := rig.take(w, m.Assign)))
        assert homes.setdefault(name, home) == home
        rig.complete(home, batch)
    assert homes["a"] != homes["b"], "new sequences go where the fewest are"


def test_a_job_of_no_sequence_is_given_one_of_its_own() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=config())
    rig.submit(1)
    (item,) = rig.only(worker, m.Assign).items
    assert (item.sequence, item.starts_sequence) == ("made-1-0", True)


def test_a_named_sequence_is_not_said_to_start() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=config())
    rig.submit(1, sequence="a")
    assert not rig.only(worker, m.Assign).items[0].starts_sequence


def test_a_model_without_sequences_is_told_of_none() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1, sequence="a")
    assert rig.only(worker, m.Assign).items[0].sequence == ""


def test_a_describe_job_needs_no_sequence_and_travels_alone() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=config(), batch_size=4, max_batch_delay_ms=0)
    rig.submit(1, is_describe=True)
    rig.submit(2, sequence="a")
    batch = rig.only(worker, m.Assign)
    assert batch.is_describe
    rig.complete(worker, batch)
    assert metas(rig.only(worker, m.Assign)) == [b"meta-2"]


def test_a_sequence_batch_waits_for_company_as_others_do() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=config(), batch_size=2, max_batch_delay_ms=500)
    rig.submit(1, sequence="a")
    assert not rig.take(worker, m.Assign)
    rig.submit(2, sequence="b")
    assert len(rig.only(worker, m.Assign).items) == 2


def test_more_sequences_than_allowed_are_refused_in_torchserves_words_until_one_is_idle() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=config(max_sequences=2))
    for job, name in ((1, "a"), (2, "b")):
        rig.submit(job, sequence=name)
        rig.complete(worker, rig.only(worker, m.Assign))
    rig.submit(3, sequence="c")
    (refused,) = refusals(rig)
    assert refused.message.endswith(
        "If this is a sequence inference, please check if it is closed, or expired; "
        "or exceeds maxSequenceJobQueueSize"
    )
    assert "maxNumSequence" in refused.details
    rig.pass_time(10)
    rig.submit(4, sequence="c")
    assert metas(rig.only(worker, m.Assign)) == [b"meta-4"]


def test_there_are_always_as_many_sequences_as_the_workers_can_run_at_once() -> None:
    rig = Rig()
    rig.ready_rig(workers=2, config=config(max_sequences=1), batch_size=3)
    for job in range(7):
        rig.submit(job, sequence=f"s{job}")
    assert [item.job for item in refusals(rig)] == [6]


def test_the_limit_of_sequences_grows_and_shrinks_with_the_workers() -> None:
    rig = Rig()
    rig.ready_rig(config=config(max_sequences=1))
    rig.submit(1, sequence="a")
    rig.submit(2, sequence="b")
    assert [item.job for item in refusals(rig)] == [2]
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 1, 2, synchronous=False))
    rig.submit(3, sequence="b")
    rig.submit(4, sequence="c")
    assert [item.job for item in refusals(rig)] == [4]
    rig.say(GATEWAY, m.ScaleWorkers(3, "m", None, 1, 1, synchronous=False))
    rig.submit(5, sequence="c")
    assert [item.job for item in refusals(rig)] == [5]


def test_a_sequences_own_queue_is_bounded() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=config(max_sequence_queue_jobs=2))
    rig.submit(1, 2, 3, 4, sequence="a")
    (refused,) = refusals(rig)
    assert refused.job == 4
    assert "maxSequenceJobQueueSize" in refused.details
    rig.complete(worker, rig.only(worker, m.Assign))
    rig.submit(5, sequence="a")
    assert not refusals(rig)


def test_an_idle_sequence_is_forgotten_and_begins_again_where_it_was_not() -> None:
    rig = Rig()
    one, two = rig.ready_rig(workers=2, config=config(sequence_max_idle_ms=1000))
    for job in (1, 2):
        rig.pass_time(0.9)
        rig.submit(job, sequence="a")
        rig.complete(one, rig.only(one, m.Assign))
    rig.pass_time(1.1)
    rig.submit(3, sequence="a")
    rig.submit(4, sequence="b")
    assert metas(rig.only(two, m.Assign)) == [b"meta-3"]
    assert metas(rig.only(one, m.Assign)) == [b"meta-4"]


def test_a_sequence_does_not_idle_while_a_job_of_it_runs() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=config(sequence_max_idle_ms=1000))
    rig.submit(1, sequence="a")
    batch = rig.only(worker, m.Assign)
    rig.pass_time(5)
    rig.submit(2, sequence="a")
    assert not rig.take(worker, m.Assign)
    rig.complete(worker, batch)
    assert metas(rig.only(worker, m.Assign)) == [b"meta-2"]


def test_a_sequence_ends_at_its_timeout_however_busy_but_what_it_took_is_run() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=config(sequence_timeout_ms=3000))
    rig.submit(1, 2, sequence="a")
    first = rig.only(worker, m.Assign)
    rig.pass_time(3.1)
    rig.submit(3, sequence="a")
    assert [item.job for item in refusals(rig)] == [3]
    rig.complete(worker, first)
    rig.complete(worker, rig.only(worker, m.Assign))
    rig.submit(4, sequence="a")
    assert metas(rig.only(worker, m.Assign)) == [b"meta-4"], "a new one of the same name"


def test_a_sequence_that_its_handler_ends_refuses_what_waits_in_it() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=config())
    rig.submit(1, 2, 3, sequence="a")
    rig.complete(worker, rig.only(worker, m.Assign), ends_sequences=("a", "nobody's"))
    assert [item.job for item in answers(rig)] == [1]
    assert [item.job for item in refusals(rig)] == [2, 3]
    rig.submit(4, sequence="a")
    assert metas(rig.only(worker, m.Assign)) == [b"meta-4"]


def test_a_worker_cannot_end_a_sequence_of_another() -> None:
    rig = Rig()
    one, two = rig.ready_rig(workers=2, config=config())
    rig.submit(1, 2, sequence="a")
    rig.submit(3, sequence="b")
    rig.complete(two, rig.only(two, m.Assign), ends_sequences=("a",))
    assert not refusals(rig)
    rig.complete(one, rig.only(one, m.Assign))
    assert metas(rig.only(one, m.Assign)) == [b"meta-2"]


def test_a_lost_worker_takes_its_sequences_along() -> None:
    rig = Rig()
    one, two = rig.ready_rig(workers=2, config=config())
    rig.submit(1, 2, sequence="a")
    rig.take(one, m.Assign)
    rig.exit_worker(int(one[2:]))
    running, waiting = refusals(rig)
    assert (running.job, running.error) == (1, "WorkerDied")
    assert (waiting.job, waiting.error) == (2, "ServiceUnavailable")
    rig.submit(3, sequence="a")
    assert metas(rig.only(two, m.Assign)) == [b"meta-3"], "a new one of the same name, without the old state"


def test_a_sequence_that_has_not_begun_goes_to_another_worker() -> None:
    rig = Rig()
    one, two = rig.ready_rig(workers=2, config=config(), batch_size=2, max_batch_delay_ms=1000)
    rig.submit(1, sequence="a")
    rig.exit_worker(int(one[2:]))
    rig.pass_time(1.1)
    assert not refusals(rig)
    assert metas(rig.only(two, m.Assign)) == [b"meta-1"]


def test_a_draining_worker_ends_its_sequences_and_the_name_is_free_when_the_last_job_is_done() -> None:
    rig = Rig()
    one, two = rig.ready_rig(workers=2, config=config())
    rig.submit(1, sequence="b")
    rig.submit(2, 3, sequence="a")
    batch = rig.only(two, m.Assign)
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 1, 1, synchronous=False))
    assert [item.job for item in refusals(rig)] == [3]
    rig.submit(4, sequence="a")
    assert [item.job for item in refusals(rig)] == [4], "two jobs of one sequence must not run at once"
    rig.complete(two, batch)
    assert [item.job for item in answers(rig)] == [2]
    rig.submit(5, sequence="a")
    rig.complete(one, rig.only(one, m.Assign))
    assert metas(rig.only(one, m.Assign)) == [b"meta-5"]


def test_a_lost_answer_ends_its_sequence_rather_than_running_the_job_twice() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=config())
    rig.submit(1, 2, sequence="a")
    rig.lose_lease(worker, rig.only(worker, m.Assign))
    rig.pass_time(5)
    assert [(item.job, item.error) for item in refusals(rig)] == [
        (1, "WorkerDied"),
        (2, "ServiceUnavailable"),
    ]
    assert not rig.take(worker, m.Assign)


def test_a_client_that_leaves_neither_blocks_nor_reorders_its_sequence() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=config())
    rig.submit(1, 2, 3, sequence="a")
    batch = rig.only(worker, m.Assign)
    rig.say(GATEWAY, m.Cancel((1, 2)))
    rig.pass_time(1)
    assert not rig.take(worker, m.Assign), "the worker is still at job 1"
    rig.complete(worker, batch)
    assert metas(rig.only(worker, m.Assign)) == [b"meta-3"]


# With continuous batching


def test_the_next_of_a_sequence_joins_once_the_one_before_has_begun_to_stream() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=config(continuous_batching=True))
    rig.submit(1, 2, sequence="a")
    first = rig.only(worker, m.Assign)
    rig.stream(worker, first, b"part", 0)
    second = rig.only(worker, m.Assign)
    assert metas(second) == [b"meta-2"]
    rig.complete(worker, second)
    rig.complete(worker, first)
    assert [(item.job, item.is_final) for item in answers(rig)] == [(1, False), (2, True), (1, True)]


def test_twice_the_batch_size_runs_at_the_same_time() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(
        config=config(continuous_batching=True), batch_size=2, max_batch_delay_ms=60_000
    )
    for job in range(6):
        rig.submit(job, sequence=f"s{job}")
    assert [metas(lease) for lease in rig.take(worker, m.Assign)] == [
        [b"meta-0"], [b"meta-1"], [b"meta-2"], [b"meta-3"],
    ]  # fmt: skip


def test_an_ended_sequence_lets_its_streams_finish_and_takes_nothing_meanwhile() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=config(continuous_batching=True))
    rig.submit(1, 2, sequence="a")
    first = rig.only(worker, m.Assign)
    rig.stream(worker, first, b"part", 0)
    rig.complete(worker, rig.only(worker, m.Assign), ends_sequences=("a",))
    rig.submit(3, sequence="a")
    assert [item.job for item in refusals(rig)] == [3]
    rig.complete(worker, first)
    rig.submit(4, sequence="a")
    assert metas(rig.only(worker, m.Assign)) == [b"meta-4"]


@pytest.mark.parametrize("continuous", [False, True])
def test_unregistering_lets_nothing_of_a_sequence_behind(continuous: bool) -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=config(continuous_batching=continuous))
    rig.submit(1, 2, sequence="a")
    batch = rig.only(worker, m.Assign)
    rig.say(GATEWAY, m.UnregisterModel(2, "m", None))
    assert [item.job for item in refusals(rig)] == [2]
    rig.complete(worker, batch)
    assert [item.job for item in answers(rig)] == [1]
    rig.exit_worker(int(worker[2:]), NODE)
    rig.pass_time(1)
    assert not rig.core.jobs.queues


# What runs comes back to a broker that has just started


def restarted(**changes: int | bool) -> tuple[Rig, list[bytes]]:
    """Return a broker in its first moments, to which both of its workers have come back."""
    rig = Rig(settings(settle_s=30))
    rig.join_gateway()
    rig.join_node()
    rig.register(config=config(**changes), initial_workers=2)
    orders = rig.take(NODE, m.StartWorker)
    for order in orders:
        rig.worker_ready(order)
    rig.restart()
    rig.join_gateway()
    rig.join_node(workers=tuple(map(held, orders)))
    return rig, [rig.worker_ready_again(order, "n-1") for order in orders]


def test_a_sequence_whose_worker_drains_takes_nothing_that_comes_back() -> None:
    rig, (_, two) = restarted()
    rig.submit(1, sequence="b")
    rig.submit(2, sequence="a")
    batch = rig.only(two, m.Assign)
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 1, 1, synchronous=False))
    rig.submit(3, sequence="a")
    assert [item.job for item in refusals(rig)] == [3]
    rig.complete(two, batch)
    rig.say(GATEWAY, m.Cancel((3,)))
    assert [item.job for item in answers(rig)] == [2]


def test_a_sequence_that_was_ended_while_it_streams_takes_nothing_that_comes_back() -> None:
    rig, (one, _) = restarted(continuous_batching=True)
    rig.submit(1, 2, sequence="a")
    first = rig.only(one, m.Assign)
    rig.stream(one, first, b"part", 0)
    rig.complete(one, rig.only(one, m.Assign), ends_sequences=("a",))
    rig.submit(3, sequence="a")
    assert [item.job for item in refusals(rig)] == [3]
    rig.complete(one, first)
    rig.say(GATEWAY, m.Cancel((3,)))
    assert [item.is_final for item in answers(rig)] == [False, True, True]


def test_what_comes_back_is_taken_beyond_the_limits() -> None:
    rig, _ = restarted(max_sequences=1, max_sequence_queue_jobs=1)
    for job in range(9):
        rig.submit(job, sequence=f"s{job % 3}")
    assert not refusals(rig)
    rig.pass_time(31)
    rig.submit(9, sequence="other")
    assert [item.job for item in refusals(rig)] == [9]
