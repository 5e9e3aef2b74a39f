"""Credentials on disk: they come back whole, are their owner's alone, and are never lost or shown."""

import os
import stat
from pathlib import Path

import msgspec
import pytest

from torchrelay.shared import member_credentials
from torchrelay.shared.member_credentials import Credentials, CredentialsError

SECRET, BROKER, NEXT = "5e" * 32, "ab" * 32, "cd" * 32
MADE = Credentials(
    addresses=("tcp://a:7700", "tcp://[::1]:7700"),
    broker_keys=(BROKER, NEXT),
    secret_key=SECRET,
    role="node",
    name="rack3",
)


def test_they_come_back_whole_from_a_file_and_folder_of_their_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "credentials.json"
    member_credentials.write(path, MADE)
    assert member_credentials.read(path) == MADE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["credentials.json"]


def test_later_ones_take_the_place_of_earlier_ones(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    member_credentials.write(path, MADE)
    confirmed = msgspec.structs.replace(MADE, is_confirmed=True)
    member_credentials.write(path, confirmed)
    assert member_credentials.read(path) == confirmed


def test_without_a_file_there_are_none(tmp_path: Path) -> None:
    assert member_credentials.read(tmp_path / "credentials.json") is None


def test_the_secret_is_never_shown() -> None:
    assert SECRET not in repr(MADE)
    assert SECRET not in f"{MADE}"
    assert "rack3" in repr(MADE)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        msgspec.json.encode(MADE).replace(SECRET.encode(), SECRET.upper().encode()),
        msgspec.json.encode(MADE).replace(b'["ab', b'["', 1),
        msgspec.json.encode(MADE)[:-1] + b',"more":1}',
        msgspec.json.encode(MADE) + b" " * (1 << 20),
    ],
)
def test_a_file_that_holds_none_is_neither_read_nor_overwritten_nor_shown(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "credentials.json"
    path.write_bytes(content)
    for use in (member_credentials.read, lambda path: member_credentials.write(path, MADE)):
        with pytest.raises(CredentialsError, match=r"credentials\.json holds no credentials") as raised:
            use(path)
        assert "invitation" in str(raised.value)
        assert SECRET not in f"{raised.value!r} {raised.value.__context__!r}".lower()
    assert path.read_bytes() == content


def test_a_file_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    member_credentials.write(path, MADE)
    path.chmod(0o644)
    assert member_credentials.read(path) == MADE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path, tmp_path / "file" / "credentials.json"):
        with pytest.raises(CredentialsError, match=str(path)):
            member_credentials.write(path, MADE)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a file of another user's, which root alone can do")
def test_what_another_user_has_laid_into_a_folder_of_everybodys_is_not_read(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    path = tmp_path / "credentials.json"
    path.write_bytes(msgspec.json.encode(MADE))
    os.chown(path, 12345, 12345)
    with pytest.raises(CredentialsError, match="another user"):
        member_credentials.read(path)


def test_a_disk_that_takes_nothing_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "credentials.json"
    member_credentials.write(path, MADE)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CredentialsError, match="No space left"):
        member_credentials.write(path, msgspec.structs.replace(MADE, is_confirmed=True))
    monkeypatch.undo()
    assert member_credentials.read(path) == MADE


def test_the_keys_kept_by_now_are_told_to_the_member_that_they_are_of(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    assert member_credentials.broker_keys(path, MADE.secret_key) == ()
    member_credentials.write(path, MADE)
    assert member_credentials.broker_keys(path, MADE.secret_key) == MADE.broker_keys
    assert member_credentials.broker_keys(path, "e" * 64) == ()
    os.truncate(path, 5)
    assert member_credentials.broker_keys(path, MADE.secret_key) == ()
