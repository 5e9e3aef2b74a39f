"""The broker's core, one promise at a time."""

import pytest

from tests.broker.rig import GATEWAY, NODE, Rig, settings
from torchrelay.broker.core.effects import WriteSnapshot
from torchrelay.broker.core.events import Leaving, MetricsNotWritten, Stopping, Unreachable
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire import presence


def test_a_job_goes_to_a_worker_and_its_answer_back() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(7)
    batch = rig.only(worker, m.Assign)
    assert [item.meta for item in batch.items] == [b"meta-7"]
    rig.complete(worker, batch)
    assert rig.only(GATEWAY, m.Answered).items == (m.AnsweredItem(7, b"meta-7", 0),)


def test_frames_travel_with_their_own_items() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=2)
    items = (m.SubmitItem(1, "m", None, False, b"a", 2), m.SubmitItem(2, "m", None, False, b"b", 1))
    rig.say(GATEWAY, m.Submit(items), (b"a0", b"a1", b"b0"))
    message, frames = rig.inbox[worker].pop()
    assert isinstance(message, m.Assign)
    assert [item.frames for item in message.items] == [2, 1]
    assert frames == (b"a0", b"a1", b"b0")
    done = (m.CompletedItem(200, b"x", 0), m.CompletedItem(200, b"y", 2))
    rig.say(worker, m.Completed(message.lease, 1, done), (b"y0", b"y1"))
    answered, frames = rig.inbox[GATEWAY].pop()
    assert isinstance(answered, m.Answered)
    assert answered == m.Answered((m.AnsweredItem(1, b"x", 0), m.AnsweredItem(2, b"y", 2)), answered.serial)
    assert frames == (b"y0", b"y1")


def test_frames_that_do_not_add_up_change_nothing_and_are_answered() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.say(GATEWAY, m.Submit((m.SubmitItem(1, "m", None, False, b"", 5),)), (b"one",))
    assert "frames" in rig.only(GATEWAY, m.Misunderstood).reason
    assert not rig.core.gateways[GATEWAY].jobs


def test_an_unknown_model_or_version_is_refused_in_torchserves_words() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.submit(1, model="nosuch")
    rig.submit(2, version="9")
    first, second = [message.items[0] for message in rig.take(GATEWAY, m.Refused)]
    assert (first.error, first.message) == ("ModelNotFound", "Model not found: nosuch")
    assert second.error == "ModelVersionNotFound"
    assert second.message == "Model version: 9 does not exist for model: m"


def test_a_full_queue_is_refused_at_once_and_says_why() -> None:
    rig = Rig(settings(job_queue_size=2))
    rig.join_gateway()
    rig.join_node()
    rig.register()
    rig.submit(1, 2, 3)
    (refused,) = rig.only(GATEWAY, m.Refused).items
    assert refused.job == 3
    assert refused.message.startswith('Model "m" has no worker to serve inference request.')
    assert "job_queue_size" in refused.details


def test_queued_bytes_are_bounded_over_all_models() -> None:
    rig = Rig(settings(queue_limit_bytes=10))
    rig.join_gateway()
    rig.join_node()
    rig.register()
    rig.submit(1)
    rig.submit(2)
    (refused,) = rig.only(GATEWAY, m.Refused).items
    assert refused.job == 2
    assert "queue_limit_bytes" in refused.details


def test_a_job_that_finds_nothing_waiting_is_taken_whatever_its_size() -> None:
    rig = Rig(settings(queue_limit_bytes=1))
    rig.join_gateway()
    rig.join_node()
    rig.register()
    rig.submit(1)
    assert not rig.take(GATEWAY, m.Refused)


def test_a_model_scaled_to_zero_refuses_with_the_version_quoted_as_torchserve_does() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.register(initial_workers=0)
    rig.submit(1, version="1.0")
    (refused,) = rig.only(GATEWAY, m.Refused).items
    assert refused.message.startswith('Model "m" Version 1.0" has no worker to serve inference request.')


def test_a_batch_waits_for_company_until_its_delay_is_over() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=4, max_batch_delay_ms=1500)
    rig.submit(1)
    rig.pass_time(1.0)
    assert not rig.take(worker, m.Assign)
    rig.submit(2)
    rig.pass_time(0.6)
    assert len(rig.only(worker, m.Assign).items) == 2


def test_a_full_batch_goes_at_once() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=3, max_batch_delay_ms=60_000)
    rig.submit(1, 2, 3)
    assert len(rig.only(worker, m.Assign).items) == 3


def test_a_lone_client_is_not_made_to_wait_for_ever_anew() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=4, max_batch_delay_ms=100)
    waited = []
    for job in range(12):
        rig.submit(job)
        before = rig.now
        while not (batches := rig.take(worker, m.Assign)):
            rig.pass_time(0.01)
        waited.append(rig.now - before)
        rig.complete(worker, batches[0])
        rig.pass_time(1)
    assert min(waited[:4]) >= 0.09
    assert max(waited[4:]) < 0.05
    # Others who ask while one's request runs bring the waiting back.
    rig.submit(100)
    for job in range(101, 107):
        rig.pass_time(0.0005)
        rig.submit(job)
        rig.pass_time(0.0001)
        for batch in rig.take(worker, m.Assign):
            rig.complete(worker, batch)
    rig.pass_time(1)
    rig.complete(worker, rig.only(worker, m.Assign))
    rig.submit(108)
    assert not rig.take(worker, m.Assign)
    rig.submit(109)
    rig.pass_time(0.11)
    assert len(rig.only(worker, m.Assign).items) == 2


def test_a_describe_job_travels_alone() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=4, max_batch_delay_ms=0)
    rig.submit(1, is_describe=True)
    assert rig.only(worker, m.Assign).is_describe


def test_a_second_batch_is_sent_ahead_once_the_worker_is_known_to_be_quick() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1, 2, 3, 4)
    first = rig.only(worker, m.Assign)
    rig.pass_time(0.01)
    rig.complete(worker, first)
    assert len(rig.take(worker, m.Assign)) == 2


def test_a_batch_that_was_sent_ahead_to_workers_that_die_has_one_try_more_and_no_second_one() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    first = rig.only(worker, m.Assign)
    rig.pass_time(0.01)
    rig.complete(worker, first)
    rig.submit(2)
    rig.pass_time(0.001)
    rig.submit(3)
    refused: list[tuple[int, str]] = []
    for tries in ([1, 1], [2, 2], [3]):
        assert [rig.attempt(batch) for batch in rig.take(worker, m.Assign)] == tries
        rig.exit_worker(int(worker[2:]), of_itself=False)
        refused += [(item.job, item.details) for one in rig.take(GATEWAY, m.Refused) for item in one.items]
        rig.pass_time(10)
        workers = rig.start_workers()
        worker = workers[0]
    assert refused == [(2, "killed by signal 9 (in 2 tries)"), (3, "killed by signal 9 (in 3 tries)")]


def test_a_job_that_no_worker_takes_is_answered_when_its_time_is_over() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.register(response_timeout_s=4)
    rig.submit(1)
    rig.pass_time(5)
    (refused,) = rig.only(GATEWAY, m.Refused).items
    assert refused.error == "ServiceUnavailable"
    assert "no node has joined" in refused.details


def test_a_client_that_leaves_frees_its_place_in_the_queue_and_silences_a_running_job() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1, 2)
    batch = rig.only(worker, m.Assign)
    rig.say(GATEWAY, m.Cancel((1, 2, 99)))
    rig.complete(worker, batch)
    assert not rig.take(GATEWAY, m.Answered)
    assert not rig.take(worker, m.Assign)
    assert rig.core.stats.versions["m", "1.0"].outcomes["cancelled"] == 2


@pytest.mark.parametrize("twist", ["another lease", "another worker", "twice"])
def test_a_forged_or_late_result_is_dropped_and_counted(twist: str) -> None:
    rig = Rig()
    one, two = rig.ready_rig(workers=2)
    rig.submit(1)
    peer, batch = next((p, found[0]) for p in (one, two) if (found := rig.take(p, m.Assign)))
    other = two if peer == one else one
    items = (m.CompletedItem(200, b"forged"),)
    if twist == "twice":
        rig.complete(peer, batch)
        rig.only(GATEWAY, m.Answered)
    rig.say(other if twist == "another worker" else peer,
            m.Completed(999 if twist == "another lease" else batch.lease, 1, items))  # fmt: skip
    assert not rig.take(GATEWAY, m.Answered)
    if twist == "another worker":
        assert "another worker's" in rig.only(other, m.Misunderstood).reason
    else:
        assert rig.core.stats.stale_results == 1


def test_a_gateway_cannot_speak_as_a_worker() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.say(GATEWAY, m.Completed(1, 1, ()))
    assert "not for a gateway" in rig.only(GATEWAY, m.Misunderstood).reason


def test_a_submission_that_comes_twice_is_one_job() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    rig.submit(1)
    rig.complete(worker, rig.only(worker, m.Assign))
    assert len(rig.only(GATEWAY, m.Answered).items) == 1


def test_a_gateway_is_told_which_of_its_jobs_were_lost_on_the_way() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.submit(1)
    rig.say(GATEWAY, m.GatewayBeat({"2xx": 3}, jobs=(1, 2), asks=(5,)))
    assert rig.only(GATEWAY, m.Forgotten) == m.Forgotten((2,), (5,))
    assert rig.core.stats.responses["2xx"] == 3


def test_a_large_batch_has_its_time_to_reach_its_worker() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    large = bytes(2 * presence.SLOWEST_BYTES_PER_S)
    rig.say(GATEWAY, m.Submit((m.SubmitItem(1, "m", None, False, b"", 1),)), [large])
    rig.take(worker, m.Assign)
    rig.pass_time(4)
    rig.say(worker, m.WorkerBeat())
    assert not rig.take(worker, m.Assign)
    rig.pass_time(2)
    rig.say(worker, m.WorkerBeat())
    assert rig.attempt(rig.only(worker, m.Assign)) == 2


def test_a_batch_that_an_idle_worker_never_got_is_given_again() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    rig.take(worker, m.Assign)
    rig.pass_time(4)
    rig.say(worker, m.WorkerBeat())
    assert rig.only(worker, m.Assign).items[0].meta == b"meta-1"


def test_a_restarted_broker_waits_for_the_nodes_it_knew_before_it_replaces_their_workers() -> None:
    rig = Rig(settings(settle_s=5.0))
    rig.ready_rig()
    rig.pass_time(1)
    rig.restart()
    rig.join_gateway()
    other = rig.join_node(b"n-2")
    rig.pass_time(4)
    assert not rig.take(other, m.StartWorker)
    rig.pass_time(2)
    assert len(rig.take(other, m.StartWorker)) == 1


def test_worker_ids_of_two_epochs_never_meet() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.register()
    before = rig.only(NODE, m.StartWorker).worker_id
    rig.restart()
    rig.pass_time(10)
    rig.join_gateway()
    rig.join_node()
    assert rig.only(NODE, m.StartWorker).worker_id - before >= 10_000


def test_archives_are_handed_out_in_chunks_only_if_a_model_uses_them() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.say(NODE, m.FetchArchive("another", 0, 10))
    assert rig.only(NODE, m.ArchiveMissing).archive == "another"
    rig.say(NODE, m.FetchArchive("../../etc/passwd", 0, 10))
    rig.only(NODE, m.Misunderstood)
    rig.say(NODE, m.FetchArchive("sha-m-1.0.mar", 3, 4))
    message, frames = rig.inbox[NODE].pop()
    assert isinstance(message, m.ArchiveChunk)
    assert (message.offset, frames) == (3, (b"xxxx",))
    rig.say(NODE, m.FetchArchive("sha-m-1.0.mar", -1, 4))
    rig.only(NODE, m.Misunderstood)


def test_a_batch_that_found_no_connection_goes_to_another_worker_with_no_try_used_up() -> None:
    rig = Rig()
    one, two = rig.ready_rig(workers=2)
    rig.submit(1)
    peer, batch = next((p, found[0]) for p in (one, two) if (found := rig.take(p, m.Assign)))
    other = two if peer == one else one
    rig.feed(Unreachable(peer, batch))
    again = rig.only(other, m.Assign)
    assert rig.attempt(again) == 1
    rig.complete(other, again)
    # The one that is cut off gets nothing until it is heard again.
    rig.silent |= {peer, other}
    rig.submit(2)
    rig.only(other, m.Assign)
    rig.submit(3)
    assert not rig.take(peer, m.Assign)
    rig.say(peer, m.WorkerBeat())
    assert rig.only(peer, m.Assign).items[0].meta == b"meta-3"


def test_a_beat_that_found_no_connection_takes_nothing_from_a_worker() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    batch = rig.only(worker, m.Assign)
    rig.feed(Unreachable(worker, m.Beat()))
    rig.complete(worker, batch)
    assert rig.only(GATEWAY, m.Answered).items[0].job == 1
    assert rig.core.stats.retries == 0


@pytest.mark.parametrize(("folder", "snapshots"), [(None, 0), ("/nowhere", 1)])
def test_a_broker_that_stops_has_a_snapshot_written_where_there_is_a_place_for_it(
    folder: str | None, snapshots: int
) -> None:
    rig = Rig(settings(snapshot_dir=folder))
    rig.join_gateway()
    rig.register(initial_workers=0)
    effects = rig.core.handle([Stopping()], now=rig.now)
    written = [effect for effect in effects if isinstance(effect, WriteSnapshot)]
    assert [(one.kind, [model.name for model in one.models]) for one in written] == [
        ("shutdown", ["m"])
    ] * snapshots


def test_lines_that_the_metrics_log_did_not_take_are_counted() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.feed(MetricsNotWritten(3), MetricsNotWritten(2))
    rig.say(GATEWAY, m.ReadMetrics(7))
    families = {family.name: family for family in rig.only(GATEWAY, m.MetricsRead).families}
    (sample,) = families["torchrelay_metric_points_dropped_total"].samples
    assert (sample.labels, sample.value) == ((("reason", "log behind"),), 5.0)


def test_a_broker_that_leaves_lets_what_runs_end_and_begins_nothing_else() -> None:
    rig = Rig(settings(job_queue_size=1))
    rig.join_gateway()
    rig.join_node()
    rig.register()
    (worker,) = rig.start_workers()
    rig.submit(1)
    batch = rig.only(worker, m.Assign)
    rig.feed(Leaving())
    assert not rig.core.is_at_rest()
    rig.submit(2, 3)
    assert rig.take(GATEWAY, m.Refused) == [], "its gateway sends to the next broker what waits here"
    rig.complete(worker, batch)
    assert [item.job for item in rig.only(GATEWAY, m.Answered).items] == [1]
    rig.pass_time(1)
    assert rig.take(worker, m.Assign) == []
    assert rig.core.is_at_rest()
