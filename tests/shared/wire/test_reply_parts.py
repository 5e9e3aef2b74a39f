from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.reply_parts import ReplyParts, joined


def family(name: str, *values: float) -> m.MetricFamily:
    return m.MetricFamily(name, "gauge", "help", tuple(m.Sample("", (), value) for value in values))


FIRST = m.MetricsRead(1, (family("a", 1.0), family("b", 2.0)), 0, is_last=False)
SECOND = m.MetricsRead(1, (family("b", 3.0),), 1, is_last=False)
LAST = m.MetricsRead(1, (family("b"), family("c", 4.0)), 2)


def test_the_samples_of_a_family_come_together_and_families_in_their_order() -> None:
    whole = m.MetricsRead(1, (family("a", 1.0), family("b", 2.0, 3.0), family("c", 4.0)))
    assert joined([FIRST, SECOND, LAST]) == whole


def test_a_reply_in_one_part_is_what_came() -> None:
    assert ReplyParts().take(LAST) is None
    whole = m.MetricsRead(1, (family("a"),))
    assert ReplyParts().take(whole) is whole


def test_a_reply_is_there_with_its_last_part_and_others_may_come_between() -> None:
    parts = ReplyParts()
    other = m.FleetRead(2, 5, 1.5, 1, (), ())
    assert parts.take(FIRST) is None
    assert parts.take(other) is other
    assert parts.take(SECOND) is None
    assert parts.take(LAST) == joined([FIRST, SECOND, LAST])


def test_a_reply_of_which_a_part_was_lost_is_complete_once_it_has_come_again() -> None:
    parts = ReplyParts()
    assert [parts.take(FIRST), parts.take(LAST)] == [None, None]
    assert [parts.take(FIRST), parts.take(FIRST), parts.take(SECOND)] == [None, None, None]
    assert parts.take(LAST) == joined([FIRST, SECOND, LAST])


def test_what_nobody_waits_for_is_forgotten() -> None:
    parts = ReplyParts()
    parts.take(FIRST)
    parts.forget(1)
    assert parts.take(SECOND) is None
    assert parts._parts == {}
