"""Keys that a node leaves for its workers."""

from pathlib import Path

import pytest

from torchrelay.shared.settings import NodeSettings
from torchrelay.worker.common import broker_keys_file

OLD, NEW = "a" * 64, "b" * 64


@pytest.fixture
def node(tmp_path: Path) -> NodeSettings:
    return NodeSettings(name="../rack 3", cache_dir=str(tmp_path))


@pytest.fixture
def path(node: NodeSettings) -> Path:
    return broker_keys_file.path_of(node)


def test_the_last_keys_written_are_read(node: NodeSettings, path: Path, tmp_path: Path) -> None:
    assert broker_keys_file.read(path) == ()
    for keys in ((OLD, NEW), (NEW,)):
        broker_keys_file.write(node, keys)
        assert broker_keys_file.read(path) == keys
    assert path.parent == tmp_path / "nodes"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"{", b'["short"]', b"null", b"\xff\xfe", b'"' + b"a" * 64 + b'"'])
def test_what_is_no_list_of_keys_says_none(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert broker_keys_file.read(path) == ()


def test_a_cache_that_cannot_be_written_is_logged(
    node: NodeSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "nodes").write_text("no folder")
    broker_keys_file.write(node, (OLD,))
    assert [record.msg for record in caplog.records] == ["broker_keys.not_written"]
