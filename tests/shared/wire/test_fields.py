"""Ranges of the messages' fields: what lies outside is refused by the codec."""

from typing import Any  # a field's type

import msgspec
import pytest

from torchrelay.shared.wire import fields as f


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (f.Number, [0, 2**63 - 1], [-1, 2**63]),
        (f.Whole, [1 - 2**63, 2**63 - 1], [2**63]),
        (f.Number32, [0, 2**31 - 1], [-1, 2**31]),
        (f.Whole32, [-(2**31), 2**31 - 1], [2**31, -(2**31) - 1]),
        (f.NumberOrMinusOne, [-1, 0], [-2]),
        (f.Milliseconds, [1], [0]),
        (f.WorkerId, [2**53 - 1], [2**53, -1]),
        (f.Slots, [0, f.SLOTS_LIMIT], [f.SLOTS_LIMIT + 1]),
        (f.Signal, [0, 255], [256]),
        (f.Name, ["", "x" * 200], ["x" * 201]),
        (f.Said, ["x" * 8192], ["x" * 8193]),
        (
            f.DeviceName,
            ["cpu", "cuda", "cuda:0", "cuda:15"],
            ["gpu", "cuda:01", "cuda:-1", "cpu\n", "cuda:1000"],
        ),
        (f.ArchiveName, ["", "a" * 128], ["a/b", "../a", "a" * 129, "a\n"]),
        (f.Numbers, [(), (1,)], [(-1,)]),
        (f.Devices[str], [("a",) * 256], [("a",) * 257]),
        (f.OfOneTurn[int], [(1,) * 1024], [(1,) * 1025]),
        (f.Responses, [{"2xx": 1}], [{"2xx": -1}, {str(number): 1 for number in range(17)}]),
    ],
)
def test_a_field_takes_its_range_and_no_more(kind: Any, good: list[object], bad: list[object]) -> None:
    for value in good:
        assert msgspec.convert(value, kind) == value
    for value in bad:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(value, kind)


def test_worker_ids_survive_whoever_reads_json_numbers_as_floats() -> None:
    assert int(float(f.WORKER_ID_LIMIT)) == f.WORKER_ID_LIMIT
