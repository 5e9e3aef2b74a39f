"""What an input becomes by its content type; `test_inputs.py` has the types."""

from torchrelay.worker.model import input_values


def test_bytes_are_copied_where_they_are_somebody_elses() -> None:
    own = bytearray(b"x")
    assert input_values.own(own) is own
    lent = memoryview(bytearray(b"x"))
    input_values.own(lent)[:] = b"y"
    assert bytes(lent) == b"x"


def test_json_that_is_nested_without_end_stays_bytes() -> None:
    assert input_values.decoded("application/json", b"[" * 100_000) == b"[" * 100_000
