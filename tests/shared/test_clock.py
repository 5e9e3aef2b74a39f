from hypothesis import given
from hypothesis import strategies as st

from torchrelay.shared.clock import ListeningClock


def test_short_turns_count_in_full_and_a_long_one_up_to_the_limit() -> None:
    clock = ListeningClock(100.0, 0.25)
    assert clock.turn(100.2) == 100.2
    assert clock.stood_still_s == 0
    assert clock.turn(108.45) == 100.45
    assert clock.stood_still_s == 8
    assert clock.turn(108.55) == 100.55
    assert clock.stood_still_s == 0


def test_its_times_turn_into_real_ones_by_the_breaks_that_lay_before_them() -> None:
    clock = ListeningClock(100.0, 0.25)
    before = clock.turn(100.2)
    between = clock.turn(108.45)
    after = clock.turn(118.7)
    assert [clock.real(at) for at in (100.0, before, between, after, after + 5)] == [
        100.0, 100.2, 108.45, 118.7, 123.7,
    ]  # fmt: skip


@given(st.lists(st.floats(0.001, 3.0), min_size=1, max_size=ListeningClock.BREAKS_LIMIT))
def test_it_never_goes_back_and_every_turn_is_found_again(turns: list[float]) -> None:
    clock = ListeningClock(0.0, 0.25)
    real, times = 0.0, []
    for turn_s in turns:
        real += turn_s
        times.append((clock.turn(real), real))
    assert [at for at, _ in times] == sorted({at for at, _ in times})
    assert all(abs(clock.real(at) - real) < 1e-6 for at, real in times)


def test_what_it_remembers_is_bounded() -> None:
    clock = ListeningClock(0.0, 0.25)
    for turn in range(10 * ListeningClock.BREAKS_LIMIT):
        clock.turn(float(turn + 1))
    assert len(clock._breaks) == ListeningClock.BREAKS_LIMIT
    assert clock.real(0.0) < clock.real(1.0)
