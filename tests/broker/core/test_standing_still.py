"""A broker that stood still: what it did not hear meanwhile is held against nobody.

Each test lets the broker stand still for longer than the limit that it is about, and has it take a turn
before it reads anything.
"""

import pytest

from tests.broker.rig import GATEWAY, NODE, Rig, settings
from torchrelay.broker.core.gateway_requests import HELD_UP_LIMIT_JOBS
from torchrelay.broker.core.states import WorkerState
from torchrelay.broker.fleet.worker_lifecycle import LOST_PER_TURN
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.wire import messages as m

LONG_S = 3600.0


def only_state(rig: Rig) -> WorkerState:
    (worker,) = rig.core.fleet.workers.values()
    return worker.state


@pytest.mark.parametrize("seconds", [2.0, 8.0, LONG_S])
def test_idle_workers_nodes_and_gateways_are_kept(seconds: float) -> None:
    rig = Rig()
    workers = rig.ready_rig(workers=3)
    rig.pass_time(10)
    rig.stand_still(seconds)
    rig.pass_time(10)
    assert {worker.peer for worker in rig.core.fleet.ready(("m", "1.0"))} == set(workers)
    assert not rig.take(NODE, m.StopWorker)
    assert not rig.take(NODE, m.StartWorker)
    assert not rig.core.stats.worker_failures
    assert NODE in rig.core.fleet.nodes
    assert GATEWAY in rig.core.gateways


def test_peers_whose_connections_broke_meanwhile_have_the_whole_timeout_to_come_back() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.silent |= {GATEWAY, NODE, worker}
    rig.pass_time(0.4)
    rig.stand_still(8)
    rig.pass_time(2.9)
    rig.silent.clear()
    rig.pass_time(10)
    assert only_state(rig) is WorkerState.READY
    assert GATEWAY in rig.core.gateways


def test_peers_that_are_gone_are_still_found_afterwards() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.stand_still(8)
    rig.silent |= {GATEWAY, NODE, worker}
    rig.pass_time(4)
    assert not rig.core.gateways
    assert not rig.core.fleet.nodes


def test_a_silent_peer_is_found_though_the_broker_stumbles_all_the_time() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.silent |= {GATEWAY, NODE, worker}
    for _ in range(20):
        rig.pass_time(0.3)
        rig.stand_still(1.0)
    assert not rig.core.gateways
    assert not rig.core.fleet.nodes


def test_a_worker_that_answers_in_time_is_not_called_stuck() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(response_timeout_s=5)
    rig.submit(1)
    rig.pass_time(4.9)
    rig.stand_still(8)
    rig.complete(worker, rig.only(worker, m.Assign))
    assert rig.only(GATEWAY, m.Answered).items[0].job == 1
    assert only_state(rig) is WorkerState.READY


def test_a_worker_that_is_stuck_is_still_found_afterwards() -> None:
    rig = Rig()
    rig.ready_rig(response_timeout_s=5)
    rig.submit(1)
    rig.pass_time(3)
    rig.stand_still(8)
    rig.pass_time(3)
    assert "response_timeout" in rig.only(GATEWAY, m.Refused).items[0].details
    assert rig.take(NODE, m.StopWorker)


def test_a_broker_whose_turns_are_all_late_still_has_deadlines() -> None:
    rig = Rig()
    rig.ready_rig(response_timeout_s=5)
    rig.submit(1)
    for _ in range(40):
        rig.stand_still(2.0)
    assert "response_timeout" in rig.only(GATEWAY, m.Refused).items[0].details


def test_a_job_that_waits_in_the_queue_waits_on() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(response_timeout_s=5)
    rig.submit(1)
    rig.submit(2)
    rig.stand_still(8)
    assert not rig.take(GATEWAY, m.Refused)
    rig.complete(worker, rig.only(worker, m.Assign))
    rig.complete(worker, rig.only(worker, m.Assign))
    assert [item.job for answered in rig.take(GATEWAY, m.Answered) for item in answered.items] == [1, 2]


def test_a_clients_own_limit_goes_on_in_real_time() -> None:
    rig = Rig()
    rig.ready_rig(config=ModelConfig(client_timeout_ms=5000))
    rig.submit(1)
    rig.pass_time(1)
    rig.stand_still(3.5)
    assert not rig.take(GATEWAY, m.Refused)
    assert rig.core.next_wake() < rig.now + 0.51
    rig.pass_time(0.6)
    (refused,) = rig.only(GATEWAY, m.Refused).items
    assert refused.error == "PredictionTimeout"
    assert "of 5000" in refused.message


def test_a_worker_that_loads_is_not_called_late_and_its_caller_waits_on() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.register(synchronous=True, startup_timeout_s=20)
    (order,) = rig.take(NODE, m.StartWorker)
    rig.pass_time(19.5)
    rig.stand_still(60)
    rig.worker_ready(order)
    rig.only(GATEWAY, m.ModelRegistered)
    assert only_state(rig) is WorkerState.READY


def test_a_worker_that_drains_keeps_what_was_left_of_its_time() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 0, 0, False, 5))
    rig.pass_time(4)
    rig.stand_still(8)
    rig.complete(worker, rig.only(worker, m.Assign))
    assert rig.only(GATEWAY, m.Answered).items[0].job == 1


def test_a_worker_that_stops_is_not_killed_before_its_time() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 0, 0, False))
    assert not rig.only(NODE, m.StopWorker).kill
    rig.stand_still(60)
    assert not rig.take(NODE, m.StopWorker)
    assert only_state(rig) is WorkerState.STOPPING


def test_a_nodes_beat_of_before_the_order_does_not_end_the_new_worker() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.register()
    (order,) = rig.take(NODE, m.StartWorker)
    rig.now += 8
    rig.say(NODE, m.NodeBeat(()))
    assert set(rig.core.fleet.workers) == {order.worker_id}
    rig.worker_ready(order)
    assert only_state(rig) is WorkerState.READY


def test_a_workers_beat_of_before_the_batch_does_not_take_the_batch_back() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    batch = rig.only(worker, m.Assign)
    rig.now += 8
    rig.say(worker, m.WorkerBeat(()))
    assert rig.core.stats.retries == 0
    rig.complete(worker, batch)
    assert rig.only(GATEWAY, m.Answered).items[0].job == 1


def test_a_sequence_whose_next_request_could_not_be_heard_goes_on() -> None:
    rig = Rig()
    config = ModelConfig(sequence_batching=True, sequence_max_idle_ms=2000)
    workers = rig.ready_rig(workers=2, config=config)
    homes = []
    for job in (1, 2):
        rig.submit(job, sequence="s")
        home, batch = next((w, found[0]) for w in workers if (found := rig.take(w, m.Assign)))
        homes.append(home)
        rig.complete(home, batch)
        rig.stand_still(8)
    assert homes[0] == homes[1], "its state was there"


def test_a_restarted_broker_still_waits_for_the_nodes_that_it_knew() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.pass_time(10)
    rig.restart()
    rig.stand_still(60)
    rig.join_node(b"n-2", "other")
    assert not rig.take(b"n-2", m.StartWorker)


def test_a_version_is_not_given_up_because_the_broker_slept_between_two_failures() -> None:
    rig = Rig(settings(restart_window_s=20))
    rig.join_gateway()
    rig.join_node()
    rig.register()
    for _ in range(2):
        (order,) = rig.take(NODE, m.StartWorker)
        rig.exit_worker(order.worker_id)
        rig.stand_still(LONG_S)
        rig.pass_time(3)
    assert rig.take(NODE, m.StartWorker)


def test_keys_expire_in_real_time() -> None:
    rig = Rig(settings(token_authorization=True, key_file="key_file.json", token_expiration_min=1.0))
    rig.join_gateway()
    rig.take(GATEWAY, m.KeysChanged)
    rig.stand_still(50)
    rig.pass_time(11)
    left_ms = [key.expires_in_ms for told in rig.take(GATEWAY, m.KeysChanged) for key in told.keys]
    assert all(left is None or left <= 10_000 for left in left_ms)


def test_times_that_people_read_are_real() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.say(GATEWAY, m.ReadFleet(4))
    before = rig.only(GATEWAY, m.FleetRead).versions[0].workers[0].started_at_ms
    rig.stand_still(8)
    rig.pass_time(1)
    rig.say(GATEWAY, m.ReadFleet(5))
    fleet = rig.only(GATEWAY, m.FleetRead)
    assert fleet.uptime_s == pytest.approx(9)
    assert fleet.versions[0].workers[0].started_at_ms == before


def test_it_is_told_in_the_log() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.pass_time(2)
    rig.stand_still(8)
    (report,) = [report for report in rig.reports if report.event == "broker.stood_still"]
    assert report.facts["seconds"] == pytest.approx(7.8, abs=0.1)


# What gateways took in meanwhile


def refused(rig: Rig) -> list[int]:
    return [item.job for message in rig.take(GATEWAY, m.Refused) for item in message.items]


def submit(rig: Rig, jobs: range, heard: int) -> None:
    """Have a gateway submit jobs that it took in when it had heard a beat."""
    items = tuple(m.SubmitItem(job, "m", None, False, b"meta-%d" % job) for job in jobs)
    rig.say(GATEWAY, m.Submit(items, heard))


def full_rig(limit: int = 3) -> Rig:
    """A version without workers yet, and a gateway that has heard some beats."""
    rig = Rig(settings(job_queue_size=limit))
    rig.join_gateway()
    rig.join_node()
    rig.register()
    rig.pass_time(5)
    return rig


@pytest.mark.parametrize("seconds", [0.5, 2.0, 8.0])
def test_what_a_gateway_took_in_meanwhile_is_let_in_and_what_is_new_meets_the_limit(seconds: float) -> None:
    rig = full_rig()
    heard = rig.core.fleet.beat
    rig.stand_still(seconds)
    submit(rig, range(1, 20), heard)
    assert refused(rig) == []
    rig.pass_time(0.2)
    assert rig.core.fleet.beat == heard + 1
    submit(rig, range(20, 25), heard + 1)
    assert refused(rig) == [23, 24], "those before don't take the room of new ones"


def test_what_was_held_by_the_gateway_or_lost_on_the_way_is_let_in_whenever_it_comes() -> None:
    rig = full_rig()
    submit(rig, range(1, 20), m.HELD)
    submit(rig, range(20, 25), rig.core.fleet.beat)
    assert refused(rig) == [23, 24]


def test_what_is_held_up_again_and_again_is_let_in_beside_the_limit_only_so_often() -> None:
    rig = full_rig()
    first = 1
    for _ in range(4):
        heard = rig.core.fleet.beat
        rig.stand_still(2.0)
        submit(rig, range(first, first + 1000), heard)
        first += 1000
    assert len(refused(rig)) == 4000 - HELD_UP_LIMIT_JOBS - 3, "the first of those above it take what is free"
    (queue,) = rig.core.jobs.queues.values()
    assert (queue.row.held, queue.bounded) == (HELD_UP_LIMIT_JOBS, 3)
    rig.say(GATEWAY, m.Cancel(tuple(range(1, 101))))
    rig.stand_still(2.0)
    submit(rig, range(5000, 5200), heard)
    assert len(refused(rig)) == 100, "who leaves makes room there, too"


def test_what_waited_for_a_broker_that_was_away_is_let_in_whatever_else_was_held_up() -> None:
    rig = full_rig()
    submit(rig, range(1, HELD_UP_LIMIT_JOBS + 100), m.HELD)
    assert refused(rig) == []


def test_a_gateway_that_was_busy_itself_is_held_to_the_limit() -> None:
    rig = full_rig()
    rig.silent.add(GATEWAY)
    rig.pass_time(3 * rig.settings.beat_interval_s)
    # It has read what came meanwhile before it sent what its clients did.
    submit(rig, range(1, 20), rig.core.fleet.beat)
    assert refused(rig) == list(range(4, 20))


def test_what_comes_late_from_a_gateway_that_was_cut_off_is_let_in() -> None:
    rig = full_rig()
    rig.silent.add(GATEWAY)
    rig.pass_time(0.1)
    heard = rig.core.fleet.beat
    rig.pass_time(2.5)
    submit(rig, range(1, 20), heard)
    assert refused(rig) == []
    rig.silent.clear()
    rig.pass_time(1)
    submit(rig, range(20, 25), rig.core.fleet.beat)
    assert refused(rig) == [23, 24]


def test_a_broker_that_is_slow_for_good_still_has_limits() -> None:
    rig = full_rig()
    heard = rig.core.fleet.beat
    for _ in range(5):
        rig.now += 1.0
        rig.say(GATEWAY, m.GatewayBeat({}))
    submit(rig, range(1, 6), rig.core.fleet.beat)
    assert rig.core.fleet.beat > heard
    assert refused(rig) == [4, 5]


def test_bytes_are_bounded_for_what_was_held_too() -> None:
    rig = Rig(settings(queue_limit_bytes=20))
    rig.join_gateway()
    rig.join_node()
    rig.register()
    submit(rig, range(1, 6), m.HELD)
    assert refused(rig) == [4, 5]


def test_held_requests_are_let_in_beside_tickets_and_the_limits_of_sequences() -> None:
    for config in (
        ModelConfig(use_job_ticket=True),
        ModelConfig(sequence_batching=True, sequence_max_idle_ms=1000, max_sequences=1),
    ):
        rig = Rig()
        rig.join_gateway()
        rig.join_node()
        rig.register(config=config)
        submit(rig, range(1, 6), m.HELD)
        assert refused(rig) == []


# What was lost on the way


def test_a_beat_echoed_tells_at_once_that_a_batch_was_lost() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    lost = rig.only(worker, m.Assign)
    rig.say(worker, m.WorkerBeat((), rig.core.fleet.beat))
    assert rig.core.stats.retries == 0, "it may still be under way"
    rig.pass_time(0.6)
    rig.say(worker, m.WorkerBeat((), rig.core.fleet.beat))
    assert rig.core.stats.retries == 1
    assert rig.only(worker, m.Assign).lease != lost.lease


def test_one_that_is_so_slow_that_each_turn_sweeps_starts_workers_and_parts_with_lost_ones() -> None:
    rig = Rig(settings(beat_interval_s=0.0))
    count = LOST_PER_TURN + 1
    rig.join_gateway()
    rig.join_node(slots=count)
    rig.register(initial_workers=count)
    for _ in range(4):
        rig.feed()
    assert len(rig.take(NODE, m.StartWorker)) == count
    rig.core.peers.drop_node(rig.core.fleet.nodes[NODE], rig.now)
    for _ in range(4):
        rig.feed()
    assert not rig.core.workers.lost
