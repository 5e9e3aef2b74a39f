"""Identifiers and keys that are drawn."""

from torchrelay.shared import ids
from torchrelay.shared.settings import is_guessable_key


def test_no_key_looks_like_an_option_of_a_command() -> None:
    drawn = [ids.secret() for _ in range(5000)]
    assert not [key for key in drawn if key.startswith("-")]
    assert len(set(drawn)) == len(drawn)
    assert {len(key) for key in drawn} == {32}
    assert not any(map(is_guessable_key, drawn))
