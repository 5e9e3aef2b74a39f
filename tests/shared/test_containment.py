"""What is done with each of many things, of which some raise."""

import pytest

from torchrelay.shared.containment import first_fault


def test_what_raises_is_named_and_what_is_behind_it_is_done_when_called_again() -> None:
    done: list[int] = []
    items = iter([1, 0, 2, 0, 3])

    def do(item: int) -> None:
        done.append(6 // item)

    faults = []
    while fault := first_fault(items, do):
        faults.append((fault[0], type(fault[1])))
    assert faults == [(0, ZeroDivisionError)] * 2
    assert done == [6, 3, 2]


@pytest.mark.parametrize("ends", [SystemExit, KeyboardInterrupt])
def test_the_end_of_the_process_is_no_fault(ends: type[BaseException]) -> None:
    def do(item: int) -> None:
        raise ends

    with pytest.raises(ends):
        first_fault(iter([1]), do)
