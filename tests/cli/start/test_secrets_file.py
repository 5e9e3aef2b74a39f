"""Keys that somebody else keeps: what is read, what is refused, and that no fault repeats a key."""

import secrets
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.cli.faults import Fault
from torchrelay.cli.start import secrets_file
from torchrelay.shared import ids
from torchrelay.shared.settings import StaticKey, is_guessable_key

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
    environ = {"TORCHRELAY_INFERENCE_KEY": "out-of-a-variable", "TORCHRELAY_KEYS_FILE": str(file)}
    found = secrets_file.static_keys(None, environ)
    assert found[0] == StaticKey("inference", "environment", "out-of-a-variable")
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
    assert not any(is_guessable_key(key.key) for key in keys)


@pytest.mark.parametrize("content", ["", "\n\n", "# inference alice a-long-enough-key\n"])
def test_a_file_without_a_key_does_not_mean_that_none_is_needed(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys"
    file.write_text(content)
    for option, environ in ((str(file), {}), (None, {"TORCHRELAY_KEYS_FILE": str(file)})):
        with pytest.raises(Fault, match="there is no key in it"):
            secrets_file.static_keys(option, environ)


@pytest.mark.parametrize("name", ["TORCHRELAY_INFERENCE_KEY", "TORCHRELAY_TOKEN_KEY", "TORCHRELAY_KEYS_FILE"])
def test_a_variable_that_came_out_empty_does_not_mean_it_either(name: str) -> None:
    with pytest.raises(Fault, match=f"{name}: there is no key"):
        secrets_file.static_keys(None, {name: ""})
    beside = {name: "", "TORCHRELAY_MANAGEMENT_KEY": "a-long-enough-key"}
    assert [key.api for key in secrets_file.static_keys(None, beside)] == ["management"]


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "password12345678",
        "passwordpassword",
        "1234567812345678",
        "abcdefghijklmnop",
        "aaaaaaaaaaaaaaaaaaaaaaaa",
        "changemechangeme",
        "a1b2c3d4e5f6a1b",
    ],
)
def test_a_key_that_is_soon_guessed_is_refused_with_the_way_to_a_good_one(key: str) -> None:
    assert is_guessable_key(key)
    with pytest.raises(Fault, match="`torchrelay keys make` prints one") as caught:
        secrets_file.parse(f"inference alice {key}", "f")
    assert key not in str(caught.value)


@given(st.binary(min_size=16, max_size=16))
def test_keys_as_people_draw_them_are_good(drawn: bytes) -> None:
    made = [ids.secret(), str(uuid.uuid4()), secrets.token_hex(16), secrets.token_urlsafe(16)]
    assert not [key for key in made if is_guessable_key(key)]
    is_guessable_key(drawn.decode("latin-1"))
