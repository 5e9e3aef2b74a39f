"""Runs commands as a person does on a terminal of 80 columns, and says what servers answer them."""

from typer.testing import CliRunner, Result

from tests.cli.fake_server import Answer, FakeServer
from torchrelay.cli.main import app


def run(*arguments: str, input: bytes | None = None, **env: str) -> Result:  # noqa: A002
    return CliRunner().invoke(app, list(arguments), input=input, env={"COLUMNS": "80", **env})


def error(code: int, type_: str, message: str, **more: str) -> Answer:
    return code, {"code": code, "type": type_, "message": message, **more}


def ask(server: FakeServer, *arguments: str) -> Result:
    return run(*arguments, TORCHRELAY_MANAGEMENT=server.url, TORCHRELAY_INFERENCE=server.url)
