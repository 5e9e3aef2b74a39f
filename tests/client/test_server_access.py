"""Where a server is and how a client gets in."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import KEY_FILE
from torchrelay.client.call_failures import UnusableSetting
from torchrelay.client.http_calls import Api
from torchrelay.client.server_access import ServerAccess, endpoint, read_key_file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key_file.json").write_text(json.dumps(KEY_FILE))
    return tmp_path


def key_sent(access: ServerAccess, api: Api, environ: dict[str, str]) -> str | None:
    return access.headers(api, environ).get("authorization", "").removeprefix("Bearer ") or None


@pytest.mark.parametrize(("api", "key"), [("management", "manage-1"), ("inference", "infer-1")])
def test_the_key_is_the_one_that_was_given_or_the_environments_or_the_folders(
    folder: Path,
    api: Api,
    key: str,
) -> None:
    environ = {"TORCHRELAY_KEY": "from-environment"}
    assert key_sent(ServerAccess(key="given"), api, environ) == "given"
    assert key_sent(ServerAccess(key_file=folder / "key_file.json"), api, environ) == key
    assert key_sent(ServerAccess(), api, environ) == "from-environment"
    assert key_sent(ServerAccess(), api, {}) == key
    assert key_sent(ServerAccess(key=""), api, environ) is None


def test_without_a_key_none_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert key_sent(ServerAccess(), "inference", {}) is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"management": 1}', '{"management": {}}', "\x00"])
def test_a_file_that_is_no_key_file_can_not_be_used(folder: Path, content: str) -> None:
    (folder / "key_file.json").write_text(content)
    with pytest.raises(UnusableSetting, match="key file"):
        key_sent(ServerAccess(), "management", {})
    with pytest.raises(UnusableSetting, match="can't be read"):
        read_key_file(folder)


def test_a_key_file_that_was_named_has_to_have_the_key(tmp_path: Path) -> None:
    with pytest.raises(UnusableSetting, match="no key for inference"):
        key_sent(ServerAccess(key_file=tmp_path / "missing"), "inference", {})


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel", "\x00"])
def test_a_key_that_no_header_carries_is_refused_and_not_shown(tmp_path: Path, key: str) -> None:
    with pytest.raises(UnusableSetting) as refused:
        key_sent(ServerAccess(key=key), "inference", {})
    assert key not in str(refused.value)


def test_an_address_is_the_one_that_was_given_or_the_environments_or_the_default() -> None:
    environ = {"TORCHRELAY_MANAGEMENT": "https://b:1"}
    assert ServerAccess(management="unix:/a.sock").endpoint("management", environ).socket_path == "/a.sock"
    found = ServerAccess().endpoint("management", environ)
    assert (found.base_url, found.is_encrypted) == ("https://b:1", True)
    assert ServerAccess().endpoint("inference", environ).url == "http://127.0.0.1:8080"
    with pytest.raises(UnusableSetting, match="begins with http"):
        endpoint("localhost:8080")


def test_an_authority_that_can_not_be_read_says_where_it_was_named(tmp_path: Path) -> None:
    missing = tmp_path / "no.pem"
    with pytest.raises(UnusableSetting, match=r"TORCHRELAY_CA.*no\.pem"):
        ServerAccess().trust({"TORCHRELAY_CA": str(missing)})
    with pytest.raises(UnusableSetting, match=r"no\.pem"):
        ServerAccess(ca_file=missing).trust({})
