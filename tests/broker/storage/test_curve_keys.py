"""The broker's own curve keys on disk."""

import stat
from pathlib import Path

import pytest

from torchrelay.broker.storage import curve_keys
from torchrelay.shared.errors import StoreFailed
from torchrelay.shared.wire import sockets


def test_they_are_drawn_once_and_are_their_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first = curve_keys.open_at_start(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert curve_keys.open_at_start(path).present == first.present
    assert first.next is None
    assert [one.name for one in tmp_path.iterdir()] == ["keys.json"]


def test_what_was_announced_is_present_from_the_next_start_on(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first, following = curve_keys.open_at_start(path), sockets.new_key_pair()
    curve_keys.keep(path, first.present, following)
    for _ in range(2):
        again = curve_keys.open_at_start(path)
        assert again.present == following
        assert again.next is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"present": "abc"}',
        b'{"present": "' + b"ab" * 32 + b'", "more": 1}',
        b"x" * 5000,
    ],
)
def test_a_file_that_is_no_such_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(content)
    with pytest.raises(StoreFailed) as raised:
        curve_keys.open_at_start(path)
    assert "copy" in raised.value.details
    assert path.read_bytes() == content


def test_one_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    curve_keys.open_at_start(path)
    path.chmod(0o644)
    curve_keys.open_at_start(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_disk_that_takes_nothing_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.json"
    first = curve_keys.open_at_start(path)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreFailed, match="No space left"):
        curve_keys.keep(path, first.present, sockets.new_key_pair())
    monkeypatch.undo()
    assert curve_keys.open_at_start(path).present == first.present
    assert [one.name for one in tmp_path.iterdir()] == ["keys.json"]
