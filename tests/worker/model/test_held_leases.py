from math import inf

from torchrelay.shared.wire import messages as m
from torchrelay.worker.model.held_leases import Batch, HeldLeases, batch_of


def batch(lease: int) -> Batch:
    return Batch(lease, False, [])


def sent(leases: HeldLeases) -> list[m.Completed | m.Streamed]:
    messages = []
    while first := leases.first():
        messages.append(first[0])
        leases.sent()
    return messages


def test_batches_are_begun_in_the_order_they_came() -> None:
    leases = HeldLeases()
    leases.assigned(batch(1))
    leases.assigned(batch(2))
    begun = [leases.next_batch(), leases.next_batch(), leases.next_batch()]
    assert [item and item.lease for item in begun] == [1, 2, None]


def test_a_lease_is_held_from_its_batch_until_its_answer_is_sent() -> None:
    leases = HeldLeases()
    leases.assigned(batch(1))
    leases.assigned(batch(2))
    assert (leases.held, leases.has_waiting, leases.has_begun) == ((1, 2), True, False)
    leases.next_batch()
    assert (leases.held, leases.has_waiting, leases.has_begun) == ((1, 2), True, True)
    leases.completed(1, 7, (), [b"frame"])
    assert (leases.held, leases.has_begun) == ((1, 2), False)
    assert leases.first() == (m.Completed(1, 7, ()), [b"frame"])
    leases.sent()
    assert leases.held == (2,)


def test_a_job_is_wanted_from_its_beginning_to_its_answer_unless_its_client_leaves() -> None:
    leases = HeldLeases()
    leases.assigned(batch(1))
    assert not leases.is_wanted(1, 0)
    leases.next_batch()
    leases.cancelled(1, (1,))
    assert [leases.is_wanted(1, index) for index in range(3)] == [True, False, True]
    leases.completed(1, 7, (), ())
    assert not leases.is_wanted(1, 0)


def test_the_time_that_is_left_to_a_job_counts_from_when_it_came() -> None:
    items = (m.AssignItem(b"a", left_ms=1500), m.AssignItem(b"b"))
    jobs = batch_of(m.Assign(1, False, items), (), 100.0).jobs
    assert [job.given_up_at for job in jobs] == [101.5, inf]


def test_parts_are_numbered_by_lease_and_the_answer_says_how_many_there_were() -> None:
    leases = HeldLeases()
    leases.assigned(batch(1))
    leases.assigned(batch(2))
    leases.next_batch()
    leases.next_batch()
    part = (m.StreamedItem(0, b""),)
    for lease in (1, 2, 1):
        leases.streamed(lease, part, [])
    leases.completed(1, 0, (), [])
    leases.completed(2, 0, (), [])
    assert sent(leases) == [
        m.Streamed(1, part, 0),
        m.Streamed(2, part, 0),
        m.Streamed(1, part, 1),
        m.Completed(1, 0, (), 2),
        m.Completed(2, 0, (), 1),
    ]


def test_a_broker_that_holds_nothing_of_a_worker_makes_it_forget_all() -> None:
    leases = HeldLeases()
    for lease in (1, 2, 3):
        leases.assigned(batch(lease))
    leases.next_batch()
    leases.next_batch()
    leases.completed(2, 0, (), [])
    leases.forget()
    leases.streamed(1, (), [])
    leases.completed(1, 0, (), [])
    assert (leases.held, leases.next_batch(), leases.first()) == ((), None, None)


def test_a_client_that_has_gone_is_remembered_as_long_as_its_job_is_open() -> None:
    leases = HeldLeases()
    leases.assigned(batch(1))
    leases.cancelled(1, (0, 2))
    assert [leases.is_gone(1, index) for index in range(3)] == [True, False, True]
    leases.next_batch()
    leases.cancelled(1, (1,))
    assert all(leases.is_gone(1, index) for index in range(3))
    leases.completed(1, 0, (), [])
    leases.cancelled(1, (0,))  # it crossed the answer
    leases.cancelled(2, (0,))
    assert not leases.is_gone(1, 0)
    leases.assigned(batch(2))
    assert not leases.is_gone(2, 0)
    leases.cancelled(2, (0,))
    leases.forget()
    leases.assigned(batch(2))
    assert not leases.is_gone(2, 0)


def test_a_batch_that_comes_twice_is_held_once_whether_it_waits_or_was_begun() -> None:
    leases = HeldLeases()
    leases.assigned(batch(1))
    leases.assigned(batch(1))
    assert leases.next_batch() == batch(1)
    leases.assigned(batch(1))
    assert leases.next_batch() is None
    assert leases.held == (1,)
