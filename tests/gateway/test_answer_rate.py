from torchrelay.gateway.answer_rate import AnswerRate


def test_when_to_try_again_is_when_what_waits_has_been_answered() -> None:
    rate = AnswerRate(0.0)
    assert rate.retry_after_s(10_000) == 1, "nothing is known yet"
    rate.note(5, 100, 0.5)
    assert rate.per_s == 0
    rate.note(20, 100, 1.0)
    assert rate.per_s == 20
    assert [rate.retry_after_s(waiting) for waiting in (0, 20, 21, 100, 100_000)] == [1, 1, 2, 5, 60]


def test_the_rate_follows_what_is_measured() -> None:
    rate = AnswerRate(0.0)
    rate.note(100, 10, 1.0)
    for second in range(2, 20):
        rate.note(100 + 10 * (second - 1), 10, float(second))
    assert 10 <= rate.per_s < 11


def test_a_model_that_answers_nothing_for_a_while_makes_it_slower_and_an_idle_process_does_not() -> None:
    rate = AnswerRate(0.0)
    rate.note(100, 10, 1.0)
    rate.note(100, 0, 60.0)
    assert rate.per_s == 100
    rate.note(100, 10, 61.0)
    assert rate.per_s == 70
