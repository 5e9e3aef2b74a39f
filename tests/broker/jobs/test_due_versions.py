from math import inf

from hypothesis import given
from hypothesis import strategies as st

from torchrelay.broker.jobs.due_versions import TIDY_LIMIT, DueVersions
from torchrelay.broker.models.catalog import Key

_KEYS = st.sampled_from([("m", "1"), ("m", "2"), ("n", "1")])
_STEPS = st.one_of(
    st.tuples(st.just("set"), _KEYS, st.integers(0, 5)),
    st.tuples(st.just("remove"), _KEYS, st.just(0)),
    st.tuples(st.just("take"), _KEYS, st.integers(0, 5)),
)


@given(steps=st.lists(_STEPS, max_size=30))
def test_each_version_is_due_at_the_time_that_it_was_last_given(steps: list[tuple[str, Key, int]]) -> None:
    due = DueVersions()
    plain: dict[Key, float] = {}
    for what, key, at in steps:
        if what == "set":
            due.set(key, at)
            plain[key] = at
        elif what == "remove":
            due.remove(key)
            plain.pop(key, None)
        else:
            taken = due.take(at)
            assert sorted(taken) == sorted(one for one, when in plain.items() if when <= at)
            for one in taken:
                del plain[one]
        assert due.next == min(plain.values(), default=inf)
        assert len(due) == len(plain)


def test_what_is_set_again_and_again_takes_no_more_memory() -> None:
    due = DueVersions()
    due.set(("a", "1"), 0.0)
    for number in range(1000):
        due.set(("b", "1"), 1.0 + number)
    assert len(due._heap) <= 2 * len(due) + TIDY_LIMIT
    assert due.take(0.0) == [("a", "1")]
    assert due.next == 1000.0
