"""How commands get in: which key they send, whom they trust, and the commands about keys and snapshots."""

import json
import ssl
from pathlib import Path

import javaproperties
import pytest
import trustme
from msgspec.structs import replace
from typer.testing import CliRunner

from tests.cli import bodies
from tests.cli.fake_server import serving
from torchrelay.cli.faults import Fault
from torchrelay.cli.main import app
from torchrelay.cli.remote import credentials
from torchrelay.shared.torchserve import config_properties

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


@pytest.mark.parametrize(("port", "key"), [("management", "manage-1"), ("inference", "infer-1")])
def test_the_key_file_of_the_folder_opens_each_api(folder: Path, port: credentials.Port, key: str) -> None:
    assert credentials.find_key(port, {}, folder) == key
    assert credentials.find_key(port, {"TORCHRELAY_KEY": "mine"}, folder) == "mine"
    assert credentials.find_key(port, {}, folder / "elsewhere") is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"management": 1}', '{"management": {}}', "\x00"])
def test_a_file_that_is_no_key_file_is_a_fault(folder: Path, content: str) -> None:
    (folder / "key_file.json").write_text(content)
    with pytest.raises(Fault, match="key file"):
        credentials.find_key("management", {}, folder)


def test_a_command_sends_the_key_it_found(folder: Path) -> None:
    with serving({"GET /models": (200, {"models": []}), "POST /predictions/m": (200, b"x")}) as server:
        CliRunner().invoke(app, ["models", "list", "--management", server.url])
        CliRunner().invoke(app, ["predict", "m", "--inference", server.url])
        CliRunner().invoke(
            app, ["models", "list", "--management", server.url], env={"TORCHRELAY_KEY": "from-environment"}
        )
    assert [asked.authorization for asked in server.asked] == [
        "Bearer manage-1", "Bearer infer-1", "Bearer from-environment",
    ]  # fmt: skip


def test_a_wrong_key_is_told_with_the_way_to_a_right_one() -> None:
    refused = {"code": 400, "type": "InvalidKeyException", "message": "Token Authorization failed."}
    with serving({"GET /models": (400, refused)}) as server:
        result = CliRunner().invoke(app, ["models", "list", "--management", server.url])
    assert result.exit_code == 1
    assert "TORCHRELAY_KEY" in result.stderr


def test_an_authority_that_can_not_be_read_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="TORCHRELAY_CA"):
        credentials.trust({"TORCHRELAY_CA": str(tmp_path / "no.pem")})


def test_a_certificate_that_is_not_trusted_is_told_from_a_server_that_is_not_there(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with serving({"GET /models": (200, {"models": []})}) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url.replace("http:", "https:")
        refused = CliRunner().invoke(app, ["models", "list", "--management", url])
        trusted = CliRunner().invoke(
            app, ["models", "list", "--management", url], env={"TORCHRELAY_CA": str(tmp_path / "ca.pem")}
        )
    assert (refused.exit_code, "TORCHRELAY_CA" in refused.stderr) == (1, True)
    assert (trusted.exit_code, trusted.stdout) == (0, "No model is registered.\n")


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


VERSION = bodies.version(
    model_url="https://host/a/m.mar", min_workers=2, max_workers=3, batch_size=4, max_batch_delay=50,
    response_timeout=60, startup_timeout=70,
)  # fmt: skip
SERVED = {
    "GET /fleet": (200, bodies.fleet(bodies.model(is_default=False), bodies.model(model_version="2.0"))),
    "GET /models": (200, {"models": [{"modelName": "m", "modelUrl": "m.mar"}]}),
    "GET /models/m/all": (200, [VERSION, replace(VERSION, model_version="2.0")]),
}


def test_a_snapshot_of_a_server_is_read_again_as_what_it_served(tmp_path: Path) -> None:
    file = tmp_path / "today.cfg"
    with serving(dict(SERVED)) as server:
        command = ["snapshot", str(file), "--management", server.url]
        assert CliRunner().invoke(app, command).exit_code == 0
        again = CliRunner().invoke(app, command)
        assert (again.exit_code, "--force" in again.stderr) == (1, True)
        assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0
        printed = CliRunner().invoke(app, ["snapshot", "--management", server.url]).stdout
    one, two = config_properties.read(file.read_bytes(), {}).file.model_snapshot or ()
    assert (one.name, one.version, one.archive_name, one.is_default) == ("m", "1.0", "m.mar", False)
    assert (one.min_workers, one.max_workers, one.batch_size, one.max_batch_delay_ms) == (2, 3, 4, 50)
    assert (one.response_timeout_s, one.startup_timeout_s, one.runtime) == (60, 70, "python")
    assert (two.version, two.is_default) == ("2.0", True)
    assert json.loads(javaproperties.loads(printed)["model_snapshot"])["modelCount"] == 2
