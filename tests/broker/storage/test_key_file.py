"""key_file.json on disk: whole or not at all, and its owner's alone."""

import json
import stat
from pathlib import Path

import pytest

from torchrelay.broker.core.keyring import IssuedKeys, Keyring
from torchrelay.broker.models.records import Change
from torchrelay.broker.storage import key_file
from torchrelay.broker.storage.registry import Registry
from torchrelay.shared.errors import StoreFailed
from torchrelay.shared.settings import BrokerSettings


def made() -> IssuedKeys:
    settings = BrokerSettings(state_dir="/nowhere", token_authorization=True, key_file="key_file.json")
    return Keyring(settings, lambda now: int(now * 1000)).open((), {}, 0.0)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry.sqlite")


def test_what_is_kept_can_be_read_by_its_owner_alone(tmp_path: Path, registry: Registry) -> None:
    path = tmp_path / "key_file.json"
    key_file.keep(path, made(), registry)
    shown = key_file.read(path)
    assert set(shown) == {"inference", "management", "token"}
    assert all(shown.values())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(registry.load().keys) == 3
    assert list(tmp_path.glob(".key_file*")) == []
    registry.close()


def test_nothing_happens_where_the_registry_cannot_write(tmp_path: Path) -> None:
    class Full(Registry):
        def apply(self, change: Change) -> None:
            raise StoreFailed("The disk is full.")

    registry = Full(tmp_path / "registry.sqlite")
    path = tmp_path / "key_file.json"
    path.write_text("old")
    with pytest.raises(StoreFailed, match="full"):
        key_file.keep(path, made(), registry)
    assert path.read_text() == "old"
    assert list(tmp_path.glob(".key_file*")) == []
    registry.close()


def test_a_folder_in_its_place_is_told_and_the_registry_left_as_it_was(
    tmp_path: Path, registry: Registry
) -> None:
    path = tmp_path / "key_file.json"
    path.mkdir()
    with pytest.raises(StoreFailed, match=r"can't be written: it is a folder"):
        key_file.keep(path, made(), registry)
    assert registry.load().keys == ()
    registry.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 10_000,
        b'{"inference": "text"}',
        b'{"inference": {"key": 3}}',
        b"\xff",
        b"0" * 70_000,
    ],
)
def test_a_file_that_is_not_ours_shows_no_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key_file.json"
    path.write_bytes(content)
    assert key_file.read(path) == {}
    assert key_file.read(tmp_path / "missing.json") == {}


def test_a_file_with_some_keys_shows_those(tmp_path: Path) -> None:
    path = tmp_path / "key_file.json"
    path.write_text(json.dumps({"inference": {"key": "k"}, "management": {"expiration time": "x"}}))
    assert key_file.read(path) == {"inference": "k"}
