"""The client of a server: what it asks for, and each error as lines that say what to do."""

import json
import socket
import ssl
from pathlib import Path

import pytest
import trustme
from typer.testing import CliRunner

from tests.cli.command_line import ask, error, run
from tests.cli.fake_server import Answer, serving
from torchrelay.cli.main import app


def test_the_list_follows_every_page_to_its_end() -> None:
    pages: dict[str, Answer] = {
        "GET /models?next_page_token=0": (200, {"models": [_line("a")], "nextPageToken": "1"}),
        "GET /models?next_page_token=1": (200, {"models": [_line("b")], "nextPageToken": "2"}),
        "GET /models?next_page_token=2": (200, {"models": []}),
    }
    with serving(pages) as server:
        listed = json.loads(ask(server, "models", "list", "--json").stdout)
    assert [line["modelName"] for line in listed] == ["a", "b"]


def _line(name: str) -> dict[str, str]:
    return {"modelName": name, "modelUrl": f"{name}.mar"}


def test_a_name_can_not_break_out_of_its_place_in_the_path() -> None:
    with serving({"DELETE /models/..%2Fa%3Fb/1%2F2": (200, {"status": "gone"})}) as server:
        assert ask(server, "models", "unregister", "../a?b", "--version", "1/2").output == "gone\n"


@pytest.mark.parametrize(
    ("arguments", "answer", "words"),
    [
        (
            ["predict", "nosuch"],
            error(404, "ModelNotFoundException", "Model not found: nosuch"),
            ["Model not found: nosuch", "models list"],
        ),
        (
            ["models", "register", "x.mar"],
            error(404, "ModelNotFoundException", "Model not found at: x.mar"),
            ["Model not found at: x.mar", "model store"],
        ),
        (
            ["models", "register", "x.mar"],
            error(405, "MethodNotAllowedException", "Requested method is not allowed"),
            ["not allowed", "--enable-model-api"],
        ),
        (
            ["models", "register", "x.mar", "--wait"],
            error(500, "InternalServerException", "Failed to start workers", details="line one\nline two"),
            ["Failed to start workers", "\n  line one\n  line two\n"],
        ),
        (["predict", "m"], (500, b"oh\nno"), ["answered 500: oh", "\n  no\n"]),
        (["predict", "m"], (400, {"error": "no picture"}), ["answered 400", "no picture"]),
        (["status"], (200, {"nodes": 3}), ["not torchrelay's management address"]),
        (["status"], (200, b"<html>"), ["not torchrelay's management address"]),
    ],
)  # fmt: skip
def test_each_error_says_what_to_do_line_by_line(
    arguments: list[str], answer: Answer, words: list[str]
) -> None:
    with serving(dict.fromkeys(("POST /models", "POST /predictions/m", "GET /fleet"), answer)) as server:
        server.answers["POST /predictions/nosuch"] = answer
        result = ask(server, *arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    first, *others = result.stderr.splitlines()
    assert first.startswith("torchrelay: ")
    assert all(line.startswith("  ") for line in others)
    for word in words:
        assert word in result.stderr


def test_a_server_that_is_not_there_is_one_line_too() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        status = run("status", "--management", url)
        predict = run("predict", "m", "--inference", url)
    for result, option in ((status, "--management"), (predict, "--inference")):
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert f"no server answers at {url}" in result.stderr
        assert option in result.stderr


def test_a_server_behind_a_unix_socket_can_be_asked_too(tmp_path: Path) -> None:
    result = run("status", "--management", f"unix:{tmp_path}/nobody.sock")
    assert result.exit_code == 1
    assert "no server answers at unix:" in result.stderr


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
