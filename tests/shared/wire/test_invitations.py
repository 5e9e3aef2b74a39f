"""Invitations as text: there and back, and each way in which pasting breaks one."""

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.shared.wire import invitations
from torchrelay.shared.wire.invitations import PREFIX, Invitation, NoInvitation, parse

ONE = Invitation(("tcp://10.0.0.1:7700",), bytes(range(32)), bytes(32), "node", "rack3", 1_700_000_000_000)
TEXT = ONE.to_text()


def test_it_is_one_word_and_comes_back_whole() -> None:
    assert TEXT.startswith(PREFIX)
    assert TEXT.split() == [TEXT]
    assert parse(TEXT) == ONE


@pytest.mark.parametrize(
    "pasted", [f"\n {TEXT}\n", f"{TEXT[:60]}\n{TEXT[60:]}", f"{TEXT[:90]}  \r\n  {TEXT[90:]}"]
)
def test_blanks_and_breaks_of_a_terminal_do_no_harm(pasted: str) -> None:
    assert parse(pasted) == ONE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("tcp://10.0.0.1:7700", "doesn't begin"),
        (TEXT.removeprefix("torchrelay-"), "doesn't begin"),
        (TEXT.replace("-1.", "-2."), "this version reads torchrelay-join-1, it is torchrelay-join-2"),
        (TEXT[:-1], "copy it again"),
        (TEXT[:-20], "missing, or was changed"),
        (TEXT + "A", "copy it again"),
        (TEXT + "é", "none that an invitation has"),
        (PREFIX, "missing, or was changed"),
        (PREFIX + "A" * 5000, "characters"),
    ],
)
def test_what_is_broken_is_said_and_the_secret_is_not(text: str, words: str) -> None:
    with pytest.raises(NoInvitation, match=words) as raised:
        parse(text)
    assert TEXT[20:60] not in str(raised.value)


@given(st.integers(len(PREFIX), len(TEXT) - 1), st.sampled_from("ABxyz019-_"))
def test_one_changed_character_is_noticed(position: int, character: str) -> None:
    changed = TEXT[:position] + character + TEXT[position + 1 :]
    if changed != TEXT:
        try:
            assert parse(changed) == ONE  # the last character may carry bits that mean nothing
        except NoInvitation:
            return


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [[], bytes(32), bytes(32), "node"],
        [["a"], bytes(31), bytes(32), "node"],
        [["a"], bytes(32), bytes(33), "node"],
        [["a"], bytes(32), bytes(32), "worker"],
        [["a"] * 17, bytes(32), bytes(32), "node"],
        [["a"], bytes(32), bytes(32), "node", "n" * 201],
        {"addresses": ["a"]},
    ],
)
def test_content_that_is_no_invitation_is_refused(fields: object) -> None:
    content = msgspec.msgpack.encode(fields)
    packed = base64.urlsafe_b64encode(content + invitations._checksum(content)).rstrip(b"=").decode()
    with pytest.raises(NoInvitation, match="another version"):
        parse(PREFIX + packed)


def test_its_secret_is_not_in_its_repr() -> None:
    assert ONE.secret_key.hex() not in repr(ONE)
    assert str(ONE.secret_key) not in repr(ONE)
