"""Keys are listed, renewed and made, and shown only where they are made."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.cli.conftest import KEY_FILE
from tests.cli.fake_server import serving
from torchrelay.cli.main import app


def test_keys_are_listed_without_being_shown(folder: Path) -> None:
    shown = CliRunner().invoke(app, ["keys", "list"]).stdout
    assert "2026-01-01" in shown
    assert "never" in shown
    assert not any(entry["key"] in shown for entry in KEY_FILE.values())
    listed = json.loads(CliRunner().invoke(app, ["keys", "list", "--json"]).stdout)
    assert [entry["api"] for entry in listed] == ["management", "inference", "API"]


def test_a_key_is_renewed_with_the_key_for_renewing(folder: Path) -> None:
    with serving({"GET /token": (200, b"\n")}) as server:
        done = CliRunner().invoke(app, ["keys", "renew", "inference", "--management", server.url])
    assert done.exit_code == 0, done.output
    assert (server.asked[0].path, server.asked[0].authorization) == (
        "/token?type=inference",
        "Bearer renew-1",
    )
    assert CliRunner().invoke(app, ["keys", "renew", "everything"]).exit_code == 2


def test_nothing_is_renewed_without_a_key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["keys", "renew", "inference"], ["keys", "list"]):
        result = CliRunner().invoke(app, command)
        assert (result.exit_code, "key_file.json" in result.stderr) == (1, True)


def test_made_keys_are_long_and_never_the_same() -> None:
    made = {CliRunner().invoke(app, ["keys", "make"]).stdout.strip() for _ in range(20)}
    assert len(made) == 20
    assert all(len(key) >= 32 for key in made)
