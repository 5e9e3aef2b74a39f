"""When a part dials anew, where, by which key, and what it says: no sockets, no clock."""

import pytest

from torchrelay.shared.wire.redial_policy import (
    ADDRESS_TRY_S,
    BROKEN_LIMIT,
    MUTE_AFTER_S,
    REPEAT_S,
    SOON_S,
    UNPROVED_PATIENCE_S,
    BrokerPlace,
    Kind,
    News,
    RedialPolicy,
    Target,
)

HERE, THERE = "tcp://here:7700", "tcp://there:7700"
OLD, NEW = "ab" * 32, "cd" * 32


def begun(
    kind: Kind = "node", addresses: tuple[str, ...] = (HERE,), keys: tuple[str, ...] = (OLD,)
) -> RedialPolicy:
    policy = RedialPolicy(kind, addresses, keys)
    policy.dial(0.0)
    return policy


def waits(policy: RedialPolicy, news: News, count: int) -> list[float]:
    """Have each new socket end the same way; return how long was waited for the next one."""
    now, waited = 0.0, []
    for _ in range(count):
        assert policy.heard(news, now), "its socket is of no use"
        waited.append(policy.next_wake - now)
        now = policy.next_wake
        policy.dial(now)
    return waited


def test_a_refused_key_is_tried_again_ever_more_seldom_by_a_new_socket() -> None:
    assert waits(begun(), "refused", 7) == [1, 2, 4, 8, 16, 30, 30]


def test_a_worker_is_back_soon_after_its_node_has_told_its_key() -> None:
    waited = waits(begun("worker"), "refused", 8)
    assert waited[:3] == pytest.approx([0.1, 0.2, 0.4])
    assert max(waited) == 2


def test_after_a_handshake_that_went_well_waits_begin_anew() -> None:
    policy = begun()
    waits(policy, "refused", 4)
    assert policy.is_refused
    assert not policy.heard("done", 50.0)
    assert not policy.is_refused
    assert policy.complaint(50.0) == ""
    assert policy.next_wake == float("inf")
    assert waits(policy, "refused", 2) == [1, 2]


@pytest.mark.parametrize("kind", ["node", "gateway"])
def test_a_refusal_says_what_to_do_at_once_and_then_once_a_minute(kind: Kind) -> None:
    policy = begun(kind)
    said = []
    for second in range(int(2 * REPEAT_S) + 1):
        if second >= policy.next_wake or not second:
            policy.dial(second)
            policy.heard("refused", second)
        if complaint := policy.complaint(second):
            said.append((second, complaint))
    assert [second for second, _ in said] == [0, REPEAT_S, 2 * REPEAT_S]
    for part in (HERE, "doesn't know this host's key", f"`torchrelay {kind}s invite`", "--join"):
        assert part in said[0][1]


def test_another_reason_is_said_at_once() -> None:
    policy = begun()
    policy.heard("refused", 0.0)
    assert "doesn't know" in policy.complaint(0.0)
    policy.dial(1.0)
    policy.heard("mismatch", 1.0)
    assert "asks for no key" in policy.complaint(1.0)


def test_bytes_that_were_spoilt_on_the_way_say_nothing_of_who_listens() -> None:
    policy = begun(addresses=(HERE, THERE))
    policy.heard("connected", 0.0)
    policy.heard("done", 0.0)
    assert policy.heard("mismatch", 5.0)
    assert "changed, repeated or left out on the way" in policy.complaint(5.0)
    assert policy.dial(policy.next_wake).address == HERE


def test_a_worker_says_nothing_while_its_node_may_still_be_on_its_way() -> None:
    policy = begun("worker")
    policy.heard("refused", 0.0)
    assert policy.complaint(4.0) == ""
    assert "its node has not told it" in policy.complaint(5.0)


def break_off(policy: RedialPolicy, now: float, apart_s: float = 0.1) -> float:
    """Have handshakes be broken off until the socket is given up; return when that was."""
    for _ in range(BROKEN_LIMIT):
        for news in ("connected", "broken", "ended"):
            if policy.heard(news, now):
                return now
        policy.heard("retrying", now)
        now += apart_s
    raise AssertionError("the socket is kept")


def test_a_broker_with_another_key_is_tried_by_each_key_at_once_and_then_after_a_wait() -> None:
    policy = begun(keys=(OLD, NEW))
    now = break_off(policy, 0.0)
    assert policy.next_wake == now
    assert policy.complaint(now) == "", "the next key may be right"
    assert policy.dial(now) == Target(HERE, NEW)
    now = break_off(policy, now)
    assert policy.next_wake == now + 1
    assert policy.complaint(now) == "", "it may merely be away"
    complaint = policy.complaint(now + UNPROVED_PATIENCE_S)
    assert "another key than these credentials say" in complaint
    assert OLD[:12] in complaint
    assert OLD not in complaint
    assert policy.dial(now + 1) == Target(HERE, OLD)


def test_a_broker_that_may_merely_be_away_behind_a_proxy_is_found_soon() -> None:
    policy, now, waited = begun(), 0.0, []
    for _ in range(5):
        now = break_off(policy, now)
        waited.append(policy.next_wake - now)
        now = policy.next_wake
        policy.dial(now)
    assert waited == pytest.approx([1, 1, 1, 1, 1])


def test_once_the_next_key_is_proved_earlier_ones_are_never_believed_again() -> None:
    policy = begun(keys=(OLD, NEW))
    policy.dial(break_off(policy, 0.0))
    policy.heard("done", 1.0)
    assert policy.broker_keys == (NEW,)
    assert policy.target == Target(HERE, NEW)


def test_keys_that_are_announced_count_from_then_on() -> None:
    policy = begun()
    policy.heard("done", 0.0)
    policy.know((OLD, NEW))
    assert policy.broker_keys == (OLD, NEW)
    assert policy.target.broker_key == OLD


@pytest.mark.parametrize(
    ("others", "known"),
    [
        ((OLD, NEW), (OLD, NEW)),  # announced while this part was busy
        ((NEW,), (OLD, NEW)),  # and proved by the others meanwhile
        ((OLD,), (OLD,)),
        ((), (OLD,)),
        (("past", OLD), (OLD,)),
        (("past", OLD, NEW), (OLD, NEW)),
    ],
)
def test_from_others_later_keys_are_learnt_and_earlier_ones_are_not(
    others: tuple[str, ...], known: tuple[str, ...]
) -> None:
    policy = begun(keys=(OLD,))
    policy.learn(others)
    assert policy.broker_keys == known
    assert policy.target.broker_key == OLD


def test_whoever_needs_no_key_learns_none() -> None:
    policy = begun(keys=())
    policy.know((NEW,))
    policy.learn((NEW,))
    assert policy.target == Target(HERE, "")


def test_a_broker_that_hangs_is_not_taken_for_one_with_another_key() -> None:
    policy = begun()
    with pytest.raises(AssertionError, match="is kept"):
        break_off(policy, 0.0, apart_s=SOON_S + 1)
    assert policy.reason == ""


def test_where_handshakes_take_long_each_key_is_tried_in_turn() -> None:
    policy, now, tried = begun(keys=(OLD, NEW)), 0.0, []
    for _ in range(4):
        now = break_off(policy, now, apart_s=SOON_S + 1)
        assert policy.next_wake == now
        tried.append(policy.dial(now).broker_key)
        now += SOON_S + 1
    assert tried == [NEW, OLD, NEW, OLD]
    assert policy.reason == "", "it may hang"


def test_a_port_that_asks_for_a_key_is_told_from_one_that_asks_for_none() -> None:
    policy = begun("gateway", keys=())
    assert waits(policy, "mismatch", 3) == [1, 2, 4]
    assert policy.reason.startswith(f"the broker at {HERE} asks for a key")
    assert "`torchrelay gateways invite`" in policy.reason


def test_a_connection_that_ends_in_the_handshake_without_a_word_is_of_another_protocol() -> None:
    policy = begun()
    policy.heard("connected", 0.0)
    assert policy.heard("ended", 0.1)
    assert "asks for no key, or none" in policy.reason


def test_a_socket_that_libzmq_has_given_up_is_replaced() -> None:
    """As after bytes on a connection that can't be: it says nothing of trying again."""
    policy = begun()
    policy.heard("connected", 0.0)
    policy.heard("done", 0.0)
    assert not policy.heard("ended", 9.0)
    assert policy.next_wake == 9.0 + MUTE_AFTER_S
    assert policy.dial(policy.next_wake) == Target(HERE, OLD)
    assert policy.reason == ""


def test_a_broker_that_is_away_is_left_to_libzmq_and_is_nothing_to_complain_of() -> None:
    policy = begun()
    for news in ("connected", "done", "ended", "retrying", "retrying"):
        assert not policy.heard(news, 1.0)
    assert policy.next_wake == float("inf")
    assert policy.complaint(1000.0) == ""


def test_addresses_are_tried_in_turn() -> None:
    policy = begun(addresses=(HERE, THERE))
    tried = []
    for second in range(6):
        policy.heard("retrying", second)
        if second >= policy.next_wake:
            tried.append((second, policy.dial(second).address))
    assert tried == [(2, THERE), (4, HERE)]
    policy.heard("connected", 5.0)
    policy.heard("done", 5.0)
    assert policy.next_wake == float("inf")
    policy.heard("ended", 20.0)
    policy.heard("retrying", 20.0)
    assert policy.next_wake == 20.0 + ADDRESS_TRY_S


def test_an_address_where_somebody_else_listens_is_left_for_the_next() -> None:
    policy = begun(addresses=(HERE, THERE))
    policy.heard("mismatch", 0.0)
    assert HERE in policy.complaint(0.0)
    assert policy.dial(policy.next_wake).address == THERE


def test_only_a_unix_socket_without_keys_needs_no_watching() -> None:
    assert not begun(addresses=("ipc:///run/x",), keys=()).is_watched
    assert begun(keys=()).is_watched
    assert begun().is_watched


def test_a_place_never_shows_its_secret() -> None:
    secret = "5e" * 32
    assert secret not in repr(BrokerPlace((HERE,), (OLD,), secret))
