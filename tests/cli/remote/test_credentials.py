"""How commands get in: which key they send, whom they trust, and the commands about keys and snapshots."""

import ssl
from pathlib import Path

import pytest
import trustme
from typer.testing import CliRunner

from tests.cli.fake_server import serving
from torchrelay.cli.faults import Fault
from torchrelay.cli.main import app
from torchrelay.cli.remote import credentials


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
