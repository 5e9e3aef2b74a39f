"""When answers wait for the next ones."""

from torchrelay.worker.model.coalescing import WAIT_S, WAITING_LIMIT_JOBS, Coalescing

SHORT_US = 50


def one_that_answers_fast() -> Coalescing:
    coalescing = Coalescing()
    for _ in range(1000):
        coalescing.answered(1, SHORT_US, 0.0)
    coalescing.sent()
    return coalescing


def test_the_first_answers_go_out_at_once() -> None:
    coalescing = Coalescing()
    coalescing.answered(1, SHORT_US, 0.0)
    assert not coalescing.waits(0.0, has_waiting=True)


def test_an_answer_waits_for_those_of_batches_that_are_here_and_not_for_long() -> None:
    coalescing = one_that_answers_fast()
    coalescing.answered(1, SHORT_US, 1.0)
    assert coalescing.waits(1.0, has_waiting=True)
    assert not coalescing.waits(1.0, has_waiting=False)
    coalescing.answered(1, SHORT_US, 1.0 + WAIT_S / 2)
    assert not coalescing.waits(1.0 + 2 * WAIT_S, has_waiting=True), "the oldest has waited"
    coalescing.sent()
    coalescing.answered(1, SHORT_US, 2.0)
    assert coalescing.waits(2.0, has_waiting=True)


def test_no_answer_waits_for_a_handler_that_was_slow_lately() -> None:
    coalescing = one_that_answers_fast()
    coalescing.answered(1, 10_000, 1.0)
    for _ in range(100):
        coalescing.sent()
        coalescing.answered(1, SHORT_US, 1.0)
        assert not coalescing.waits(1.0, has_waiting=True)
    for _ in range(200):
        coalescing.sent()
        coalescing.answered(1, SHORT_US, 1.0)
    assert coalescing.waits(1.0, has_waiting=True)


def test_so_many_answers_go_out_at_once() -> None:
    coalescing = one_that_answers_fast()
    coalescing.answered(WAITING_LIMIT_JOBS, SHORT_US, 1.0)
    assert not coalescing.waits(1.0, has_waiting=True)
    coalescing.sent()
    for _ in range(WAITING_LIMIT_JOBS - 1):
        coalescing.answered(1, SHORT_US, 2.0)
        assert coalescing.waits(2.0, has_waiting=True)
    coalescing.answered(1, SHORT_US, 2.0)
    assert not coalescing.waits(2.0, has_waiting=True)
