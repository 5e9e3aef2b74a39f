"""The proxy that makes trouble: what it does to bytes."""

import pytest

from tests.reliability.proxy import GREETING_BYTES, Doubler

GREETING = bytes(range(GREETING_BYTES))
READY = b"\x04\x05READY"
FIRST = b"\x01\x02ab" + b"\x00\x01c"
SECOND = b"\x02" + (300).to_bytes(8, "big") + b"d" * 300


@pytest.mark.parametrize("size", [1, 3, 64, 1000])
def test_every_second_message_comes_twice_whole_and_in_order(size: int) -> None:
    stream = GREETING + READY + FIRST + SECOND + FIRST
    doubler = Doubler()
    out = b"".join(doubler.feed(stream[at : at + size], 2) for at in range(0, len(stream), size))
    assert out == GREETING + READY + FIRST + SECOND * 2 + FIRST


def test_a_greeting_is_passed_on_byte_by_byte() -> None:
    doubler = Doubler()
    assert doubler.feed(GREETING[:10], 0) == GREETING[:10]


def test_without_trouble_all_passes_as_it_is() -> None:
    stream = GREETING + READY + FIRST * 3
    assert Doubler().feed(stream, 0) == stream
