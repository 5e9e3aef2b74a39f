"""How much of what came from outside is repeated."""

import pytest

from torchrelay.shared.quoting import QUOTED_LIMIT_CHARS, quoted


@pytest.mark.parametrize("text", ["", "x", "y" * QUOTED_LIMIT_CHARS])
def test_a_short_text_is_left_as_it_is(text: str) -> None:
    assert quoted(text) == text


def test_of_a_long_text_both_ends_are_left() -> None:
    shown = quoted("start" + "x" * 1_000_000 + "end")
    assert len(shown) == QUOTED_LIMIT_CHARS
    assert shown.startswith("startx")
    assert shown.endswith("xend")


def test_anything_is_shown_as_text() -> None:
    assert quoted(ValueError("no")) == "no"


def test_halves_of_surrogate_pairs_are_replaced_since_no_message_carries_them() -> None:
    assert quoted("a\ud800") == "a?"
