"""Keys that somebody else keeps: what is read, what is refused, and that no fault repeats a key."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.cli import secrets_file
from torchrelay.cli.faults import Fault
from torchrelay.shared.settings import StaticKey

GOOD = """
# who    name   key
inference alice  a-long-enough-key
inference bob    another-long-key
management ops   management-key-1
"""


def test_several_keys_of_one_api_may_hold_together() -> None:
    assert secrets_file.parse(GOOD, "f") == [
        StaticKey("inference", "alice", "a-long-enough-key"),
        StaticKey("inference", "bob", "another-long-key"),
        StaticKey("management", "ops", "management-key-1"),
    ]


def test_file_and_variables_come_together(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(GOOD)
    environ = {"TORCHRELAY_INFERENCE_KEY": "from-a-variable", "TORCHRELAY_KEYS_FILE": str(file)}
    found = secrets_file.static_keys(None, environ)
    assert found[0] == StaticKey("inference", "environment", "from-a-variable")
    assert len(found) == 4
    assert secrets_file.static_keys(None, {}) == ()


@pytest.mark.parametrize(
    "line",
    [
        "inference alice",
        "inference alice key key-that-is-long",
        "inference alice SECRET1",
        "predictions alice SECRET-long-enough",
        "inference alice SECRET-lông-enough",
        "inference alice a-long-enough-key\ninference alice SECRET-long-enough",
    ],
)
def test_a_line_that_is_no_key_is_named_and_its_key_is_not(line: str) -> None:
    with pytest.raises(Fault, match=r"f, line \d") as caught:
        secrets_file.parse(line, "f")
    assert "SECRET" not in str(caught.value)


def test_a_short_key_in_a_variable_is_refused() -> None:
    with pytest.raises(Fault, match="TORCHRELAY_TOKEN_KEY"):
        secrets_file.static_keys(None, {"TORCHRELAY_TOKEN_KEY": "short"})


def test_a_file_that_is_not_there_or_no_text_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="No such file"):
        secrets_file.static_keys(str(tmp_path / "no"), {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Fault, match="no text"):
        secrets_file.static_keys(str(tmp_path / "binary"), {})


@given(st.text(max_size=200))
def test_no_text_at_all_can_raise_anything_but_a_fault(text: str) -> None:
    try:
        keys = secrets_file.parse(text, "f")
    except Fault:
        return
    assert all(len(key.key) >= secrets_file.KEY_LENGTH_MIN for key in keys)
