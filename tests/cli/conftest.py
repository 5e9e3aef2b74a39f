"""A folder with the key file of a server that was started in it."""

import json
from pathlib import Path

import pytest

KEY_FILE = {
    "management": {"key": "manage-1", "expiration time": "2026-01-01T00:00:00.000Z"},
    "inference": {"key": "infer-1", "expiration time": "2026-01-01T00:00:00.000Z"},
    "API": {"key": "renew-1"},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key_file.json").write_text(json.dumps(KEY_FILE))
    return tmp_path
