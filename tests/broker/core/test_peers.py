"""Peers: who is taken in, who is given up, and what ends with them."""

import pytest

from tests.broker.rig import GATEWAY, NODE, Rig, held
from torchrelay.broker.core.machine import JOINING_LIMIT_S
from torchrelay.broker.core.peers import HELD_PER_TURN
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire import presence


def test_a_gateway_that_falls_silent_has_its_jobs_cancelled() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1, 2)
    batch = rig.only(worker, m.Assign)
    rig.silent.add(GATEWAY)
    rig.pass_time(4)
    assert list(rig.core.gateways[GATEWAY].jobs) == [1], "the one that runs"
    rig.pass_time(6)
    assert not rig.core.gateways
    assert rig.only(worker, m.CancelJobs) == m.CancelJobs(batch.lease, (0,))


def test_a_silent_gateway_for_which_nothing_runs_is_dropped_at_once() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.register()
    rig.submit(1)
    rig.silent.add(GATEWAY)
    rig.pass_time(4)
    assert not rig.core.gateways


@pytest.mark.parametrize("when", ["while it is away", "when it is back"])
def test_a_gateway_that_was_cut_off_gets_the_answers_of_what_ran_meanwhile(when: str) -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1, 2)
    batch = rig.only(worker, m.Assign)
    rig.silent.add(GATEWAY)
    rig.pass_time(4)
    if when == "while it is away":
        rig.complete(worker, batch)
        rig.take(GATEWAY, m.Answered)  # which is lost
        rig.pass_time(4)
    assert not rig.take(worker, m.Assign), "the other waits for its gateway"
    rig.silent.clear()
    rig.say(GATEWAY, m.HelloGateway(m.PROTOCOL_VERSION, "gateway", 1))
    assert not rig.only(GATEWAY, m.Welcome).is_new
    rig.say(GATEWAY, m.GatewayBeat({}, jobs=(1, 2)))
    assert rig.only(GATEWAY, m.Forgotten).jobs == (2,)
    if when == "while it is away":
        rig.say(GATEWAY, m.Missed(rig.core.gateways[GATEWAY].unheard.kept[0][0].serial - 1))  # type: ignore[union-attr]  # it numbers them
    else:
        rig.complete(worker, batch)
    assert [item.job for item in rig.only(GATEWAY, m.Answered).items] == [1]
    rig.submit(2)
    rig.complete(worker, rig.only(worker, m.Assign))
    assert [item.job for item in rig.only(GATEWAY, m.Answered).items] == [2]


def test_a_gateway_that_announced_a_large_message_may_be_silent_for_it_and_no_longer() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.say(GATEWAY, m.Announced(10 * presence.SLOWEST_BYTES_PER_S))
    rig.silent.add(GATEWAY)
    rig.pass_time(12)
    assert rig.core.gateways
    rig.pass_time(2)
    assert not rig.core.gateways


def test_what_was_heard_behind_a_large_message_ends_the_patience_with_its_sender() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.say(GATEWAY, m.Announced(100 * presence.SLOWEST_BYTES_PER_S))
    rig.submit(1, model="nosuch")
    rig.silent.add(GATEWAY)
    rig.pass_time(10)
    assert not rig.core.gateways


@pytest.mark.parametrize("size_bytes", [-(10**17), 10**17])
def test_a_gateway_that_announces_nonsense_is_neither_dropped_for_it_nor_kept_for_ever(
    size_bytes: int,
) -> None:
    rig = Rig()
    rig.ready_rig()
    rig.say(GATEWAY, m.Announced(size_bytes))
    rig.silent.add(GATEWAY)
    rig.pass_time(2)
    assert rig.core.gateways
    rig.pass_time(4 + presence.ANNOUNCED_LIMIT_BYTES / presence.SLOWEST_BYTES_PER_S)
    assert not rig.core.gateways


def test_a_second_hello_is_welcomed_again_but_not_as_another_kind_of_peer() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.submit(1, model="nosuch")
    rig.say(GATEWAY, m.HelloGateway(m.PROTOCOL_VERSION, "gateway", 1))
    assert not rig.only(GATEWAY, m.Welcome).is_new
    rig.say(GATEWAY, m.HelloNode(m.PROTOCOL_VERSION, "n", (), 1, ()))
    assert "second hello" in rig.only(GATEWAY, m.Misunderstood).reason
    assert not rig.core.fleet.staying_nodes


def test_a_peer_of_another_protocol_is_sent_away_with_the_remedy() -> None:
    rig = Rig()
    rig.say(b"new", m.HelloGateway(m.PROTOCOL_VERSION + 1, "gateway", 1))
    assert "upgrade the broker first" in rig.only(b"new", m.Leave).reason
    assert not rig.core.gateways


def test_peers_without_marks_and_proofs_are_sent_away() -> None:
    """They would join, and then have every worker sent away and every key refused."""
    rig = Rig()
    rig.say(b"gateway", m.HelloGateway(1, "gateway", 1))
    rig.say(b"node", m.HelloNode(1, "n", (), 1, ()))
    for peer in (b"gateway", b"node"):
        assert "upgrade the peer" in rig.only(peer, m.Leave).reason
    assert not rig.core.gateways
    assert not rig.core.fleet.staying_nodes


def test_an_unknown_peer_or_one_of_an_old_epoch_is_asked_to_introduce_itself() -> None:
    rig = Rig()
    rig.say(b"unknown", m.GatewayBeat({}))
    rig.only(b"unknown", m.IntroduceYourself)
    rig.join_gateway()
    rig.say(GATEWAY, m.GatewayBeat({}), epoch=rig.epoch - 1)
    rig.only(GATEWAY, m.IntroduceYourself)


def test_a_silent_nodes_workers_are_replaced_on_another_node() -> None:
    rig = Rig()
    rig.ready_rig(workers=2)
    rig.submit(1)
    other = rig.join_node(b"n-2")
    rig.silent.add(NODE)
    rig.pass_time(4)
    workers = rig.start_workers(other)
    assert len(workers) == 2
    assert [rig.take(peer, m.Assign) for peer in workers].count([]) == 1


def test_a_broker_that_stood_still_loses_no_peer_whose_beats_wait_for_it() -> None:
    rig = Rig()
    rig.join_gateway()
    nodes = [rig.join_node(b"node-%d" % number) for number in range(300)]
    rig.pass_time(1)
    beats = [rig.event(node, m.NodeBeat(())) for node in nodes]
    rig.now += 3.5
    rig.feed(*beats[:256])
    rig.feed(*beats[256:])
    assert len(rig.core.fleet.staying_nodes) == 300


def returning_node(rig: Rig) -> tuple[m.StartWorker, ...]:
    """Lose a node of more workers than one turn takes in, and let it say hello again; return their orders."""
    count = 2 * HELD_PER_TURN + 10
    rig.join_gateway()
    rig.join_node(slots=count + 5)
    rig.register(initial_workers=count)
    orders = rig.take(NODE, m.StartWorker)
    while len(orders) < count:
        rig.feed()
        orders += rig.take(NODE, m.StartWorker)
    rig.core.peers.drop_node(rig.core.fleet.nodes[NODE], rig.now)
    while rig.core.next_wake() < rig.now:
        rig.feed()
    rig.inbox.clear()
    hello = m.HelloNode(m.PROTOCOL_VERSION, "n-1", (), count + 5, tuple(map(held, orders)))
    rig.say(NODE, hello)
    assert len(rig.core.fleet.workers) == HELD_PER_TURN
    return tuple(orders)


def test_a_node_that_comes_with_many_workers_is_taken_in_over_some_turns_and_has_none_started_twice() -> None:
    rig = Rig()
    orders = returning_node(rig)
    counts = []
    while rig.core.next_wake() < rig.now:
        rig.feed()
        counts.append((len(rig.core.fleet.workers), len(rig.take(NODE, m.Welcome))))
    assert counts[:2] == [(2 * HELD_PER_TURN, 0), (len(orders), 1)]
    assert set(rig.core.fleet.workers) == {order.worker_id for order in orders}
    assert not rig.take(NODE, m.StartWorker)


def test_a_worker_that_is_back_before_it_is_taken_in_with_its_node_is_on_that_node() -> None:
    rig = Rig()
    orders = returning_node(rig)
    rig.worker_ready(orders[-1])
    assert rig.core.fleet.workers[orders[-1].worker_id].node is None
    while rig.core.next_wake() < rig.now:
        rig.feed()
    assert rig.core.fleet.workers[orders[-1].worker_id].node == NODE
    assert rig.core.fleet.ready_count(("m", "1.0")) == 1


def test_what_a_node_says_before_all_its_workers_are_taken_in_finds_them() -> None:
    rig = Rig()
    orders = returning_node(rig)
    rig.say(NODE, m.NodeBeat(tuple((order.worker_id, 1) for order in orders)))
    assert len(rig.core.fleet.workers) == len(orders)
    assert not rig.take(NODE, m.StopWorker)
    rig.only(NODE, m.Welcome)


def test_a_node_that_says_hello_again_and_again_holds_up_others_for_a_moment_only() -> None:
    rig = Rig()
    orders = returning_node(rig)
    rig.register("urgent", initial_workers=0)
    hello = rig.event(NODE, m.HelloNode(m.PROTOCOL_VERSION, "n-1", (), 999, tuple(map(held, orders))))
    rig.feed(hello, rig.event(GATEWAY, m.ScaleWorkers(2, "urgent", "1.0", 1, 1, False)))
    until = rig.now + 2 * JOINING_LIMIT_S
    while rig.now < until and not rig.take(NODE, m.StartWorker):
        assert rig.core.peers.joining
        rig.feed(hello)
        rig.now += 0.01
    assert rig.now < until


def test_a_node_that_leaves_before_all_its_workers_are_taken_in_leaves_none_behind() -> None:
    rig = Rig()
    returning_node(rig)
    rig.core.peers.drop_node(rig.core.fleet.nodes[NODE], rig.now)
    while rig.core.next_wake() < rig.now:
        rig.feed()
    assert not rig.core.fleet.workers
    assert not rig.take(NODE, m.Welcome)


def test_a_node_that_says_hello_again_before_all_its_workers_are_taken_in_is_still_a_new_one() -> None:
    rig = Rig()
    orders = returning_node(rig)
    rig.say(NODE, m.HelloNode(m.PROTOCOL_VERSION, "n-1", (), 500, tuple(map(held, orders[:3]))))
    assert rig.only(NODE, m.Welcome).is_new
    while rig.core.next_wake() < rig.now:
        rig.feed()
    assert orders[-1].worker_id not in rig.core.fleet.workers, "it doesn't speak of that one any more"
