from contextlib import closing
from math import inf

import pytest

from torchrelay.shared.processes.shared_memory import LentMemory
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import PayloadOrPiece, WireError
from torchrelay.worker.model import held_leases
from torchrelay.worker.model.held_leases import AssignedJob, Batch, HeldLeases, batches_of


def batch(lease: int) -> Batch:
    return Batch(lease, False, [])


def sent(leases: HeldLeases) -> list[m.Completed | m.Streamed]:
    """Send everything; return the answers and parts, out of the messages that they were in."""
    sent: list[m.Completed | m.Streamed] = []
    while first := leases.first():
        sent += first[0].batches if isinstance(first[0], m.CompletedInRow) else [first[0]]
        leases.sent()
    return sent


def test_batches_are_begun_in_the_order_they_came() -> None:
    leases = HeldLeases()
    leases.assigned(batch(1))
    leases.assigned(batch(2))
    begun = [leases.next_batch(), leases.next_batch(), leases.next_batch()]
    assert [item and item.lease for item in begun] == [1, 2, None]


def test_a_batch_is_gone_when_the_client_of_each_of_its_jobs_is() -> None:
    leases = HeldLeases()
    two = Batch(1, False, [AssignedJob(b""), AssignedJob(b"")])
    leases.assigned(two)
    assert not leases.all_gone(two)
    leases.cancelled(1, (1, 7))
    assert not leases.all_gone(two)
    leases.cancelled(1, (0,))
    assert leases.all_gone(two)


def test_a_lease_is_held_from_its_batch_until_its_answer_is_sent() -> None:
    leases = HeldLeases()
    leases.assigned(batch(1))
    leases.assigned(batch(2))
    assert (leases.held, leases.has_waiting, leases.has_begun) == ((1, 2), True, False)
    leases.next_batch()
    assert (leases.held, leases.has_waiting, leases.has_begun) == ((1, 2), True, True)
    leases.completed(1, 7, (), [b"frame"])
    assert (leases.held, leases.has_begun) == ((1, 2), False)
    assert leases.first() == (m.Completed(1, 7, (), serial=1), [b"frame"])
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
    (batch,) = batches_of(m.Assign(1, False, items), (), 100.0)
    assert [job.given_up_at for job in batch.jobs] == [101.5, inf]


def test_batches_that_are_sent_ahead_have_the_last_jobs_of_the_message_and_leases_of_their_own() -> None:
    items = tuple(m.AssignItem(name) for name in (b"a", b"b", b"c", b"d"))
    assign = m.Assign(5, False, items, (m.AheadItem(7, 2), m.AheadItem(8, 1)))
    batches = batches_of(assign, (), 0.0)
    assert assign.leases == (5, 7, 8)
    assert [(one.lease, [job.meta for job in one.jobs]) for one in batches] == [
        (5, [b"a"]), (7, [b"b", b"c"]), (8, [b"d"])
    ]  # fmt: skip


@pytest.mark.parametrize("counts", [(2,), (3,), (0,), (1, 1), (2**62,)])
def test_batches_for_which_there_are_no_jobs_are_refused(counts: tuple[int, ...]) -> None:
    ahead = tuple(m.AheadItem(number, count) for number, count in enumerate(counts, start=2))
    with pytest.raises(WireError, match="2 jobs came for a batch and others of"):
        batches_of(m.Assign(1, False, (m.AssignItem(b"a"), m.AssignItem(b"b")), ahead), (), 0.0)


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
        m.Streamed(1, part, 0, 1),
        m.Streamed(2, part, 0, 2),
        m.Streamed(1, part, 1, 3),
        m.Completed(1, 0, (), 2, 4),
        m.Completed(2, 0, (), 1, 5),
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
    leases.assigned(batch(3))
    assert not leases.is_gone(3, 0)


def test_a_batch_that_comes_twice_is_held_once_whether_it_waits_or_was_begun() -> None:
    leases = HeldLeases()
    leases.assigned(batch(1))
    leases.assigned(batch(1))
    assert leases.next_batch() == batch(1)
    leases.assigned(batch(1))
    assert leases.next_batch() is None
    assert leases.held == (1,)


def test_a_batch_is_not_run_again_though_its_message_comes_again_after_its_answer() -> None:
    leases = HeldLeases()
    for lease in (1, 2):
        leases.assigned(batch(lease))
        leases.next_batch()
        leases.completed(lease, 0, (), [])
    sent(leases)
    leases.forget()
    for lease in (1, 2):
        leases.assigned(batch(lease))
    assert leases.next_batch() is None


def run(leases: HeldLeases, *numbers: int) -> None:
    """Answer leases, each with a part first."""
    for number in numbers:
        leases.assigned(Batch(number, False, [AssignedJob(b"", gateway=b"g", number=10 * number)]))
        leases.next_batch()
        leases.streamed(number, (), [])
        leases.completed(number, 0, (), [])


def test_what_was_lost_on_the_way_is_sent_again_before_what_waits() -> None:
    leases = HeldLeases()
    run(leases, 1)
    first = sent(leases)
    run(leases, 2)
    leases.missed(1)
    again = sent(leases)
    assert again[0] == first[1]
    assert [message.serial for message in again] == [2, 3, 4]
    leases.missed(4)
    assert sent(leases) == []


def test_an_answer_is_kept_for_some_beats_after_the_broker_had_it() -> None:
    leases = HeldLeases()
    run(leases, 1)
    sent(leases)
    for _ in range(held_leases.KEPT_BEATS):
        assert [one.lease for one in leases.named] == [1]
        leases.heard(2)
    assert leases.named == ()
    leases.missed(0)
    assert sent(leases) == []


def test_an_answer_that_the_broker_never_had_is_kept_however_often_it_beats() -> None:
    leases = HeldLeases()
    run(leases, 1)
    sent(leases)
    for _ in range(3 * held_leases.KEPT_BEATS):
        leases.heard(0)
    assert [one.lease for one in leases.named] == [1]


def test_a_hello_names_what_is_held_and_was_answered_with_its_jobs() -> None:
    leases = HeldLeases()
    run(leases, 1)
    for number in (2, 3):
        leases.assigned(Batch(number, number == 3, [AssignedJob(b"", (), "s", gateway=b"g", number=number)]))
    leases.next_batch()
    leases.streamed(2, (), [])
    assert leases.named == (
        m.HeldLease(2, False, False, 1, (m.HeldJob(b"g", 2, "s"),)),
        m.HeldLease(3, False, True, 0, (m.HeldJob(b"g", 3, "s"),)),
        m.HeldLease(1, True, False, 0, (m.HeldJob(b"g", 10),)),
    )


def test_a_hello_has_room_for_the_latest_answers_only() -> None:
    leases = HeldLeases()
    run(leases, *range(1, 9_000))
    named = [one.lease for one in leases.named]
    assert named == list(range(8_999, 8_999 - len(named), -1))
    assert len(named) == 8192


def test_no_more_is_kept_than_the_limits_allow() -> None:
    leases = HeldLeases()
    for start in range(0, 5 * held_leases.KEPT_LIMIT, 100):
        run(leases, *range(start + 1, start + 101))
        sent(leases)
        assert len(leases.named) <= 2 * held_leases.KEPT_LIMIT
    leases.missed(0)
    assert len(sent(leases)) == held_leases.KEPT_LIMIT


def test_an_answer_that_the_next_broker_asks_for_is_sent_under_a_new_serial() -> None:
    leases = HeldLeases()
    run(leases, 1, 2)
    sent(leases)
    leases.answer_again((2,))
    again = sent(leases)
    assert [(type(message), message.lease, message.serial) for message in again] == [
        (m.Streamed, 2, 5),
        (m.Completed, 2, 6),
    ]
    leases.answer_again((2,))
    assert [message.serial for message in sent(leases)] == [7, 8], "it asks twice, and gets no more"


def test_serials_go_on_from_what_was_said_in_the_hello_when_the_broker_has_it_forget() -> None:
    leases = HeldLeases()
    run(leases, 1)
    leases.first()
    assert leases.serial == 0
    leases.forget()
    run(leases, 2)
    assert [message.serial for message in sent(leases)] == [1, 2]


def answered(leases: HeldLeases, *numbers: int, frames: tuple[PayloadOrPiece, ...] = ()) -> None:
    for number in numbers:
        leases.assigned(batch(number))
        leases.next_batch()
        leases.completed(number, 0, (), frames)


def test_answers_that_wait_go_out_in_a_row_but_for_those_with_frames() -> None:
    leases = HeldLeases()
    answered(leases, 1, 2)
    answered(leases, 3, frames=(b"large",))
    answered(leases, 4)
    messages = []
    while first := leases.first():
        assert leases.first() == first, "it stays the first until it is sent"
        messages.append(first[0])
        leases.sent()
    assert [type(message) for message in messages] == [m.CompletedInRow, m.Completed, m.Completed]
    assert isinstance(messages[0], m.CompletedInRow)
    assert [done.lease for done in messages[0].batches] == [1, 2]
    assert leases.held == ()


def test_answers_whose_frames_are_lent_go_in_a_row_with_others() -> None:
    with closing(LentMemory(1 << 20, until_taken=True)) as memory:
        lent = memory.lend(b"large", 0.0)
        assert lent is not None
        leases = HeldLeases()
        answered(leases, 1, frames=(lent,))
        answered(leases, 2)
        answered(leases, 3, frames=(lent, lent))
        answered(leases, 4, frames=(lent, b"sent"))
        first = leases.first()
        assert first is not None
        row, frames = first
        assert isinstance(row, m.CompletedInRow)
        assert ([done.lease for done in row.batches], frames) == ([1, 2, 3], [lent, lent, lent])


def test_a_row_of_answers_is_bounded_in_number_and_bytes() -> None:
    leases = HeldLeases()
    answered(leases, *range(1, 2 * held_leases.ROW_LIMIT))
    first = leases.first()
    assert first is not None
    assert isinstance(first[0], m.CompletedInRow)
    assert len(first[0].batches) == held_leases.ROW_LIMIT
    leases = HeldLeases()
    for number in (1, 2, 3):
        leases.assigned(batch(number))
        leases.next_batch()
        leases.completed(number, 0, (m.CompletedItem(200, bytes(30_000)),), ())
    rows = []
    while first := leases.first():
        rows.append(first[0])
        leases.sent()
    assert [type(row) for row in rows] == [m.CompletedInRow, m.Completed]


def test_answers_of_a_row_that_was_lost_are_sent_again_one_by_one_or_in_another_row() -> None:
    leases = HeldLeases()
    answered(leases, 1, 2, 3)
    before = sent(leases)
    leases.missed(before[0].serial)
    assert sent(leases) == before[1:]
