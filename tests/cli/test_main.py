"""All commands: wrong usage, and JSON for programs."""

import json
import subprocess
import sys

import msgspec
import pytest

from tests.cli import bodies
from tests.cli.bodies import FLEET
from tests.cli.command_line import ask, run
from tests.cli.fake_server import Answer, serving


def test_json_is_offered_for_everything_that_prints_data() -> None:
    described = [bodies.version(model_name="digits")]
    answers: dict[str, Answer] = {
        "GET /fleet": (200, FLEET),
        "GET /models": (200, {"models": [{"modelName": "digits", "modelUrl": "digits.mar"}]}),
        "GET /models/digits": (200, described),
        "PUT /models/digits": (202, {"status": "Processing worker updates..."}),
    }
    with serving(answers) as server:
        status = json.loads(ask(server, "status", "--json").stdout)
        listed = json.loads(ask(server, "models", "list", "--json").stdout)
        shown = json.loads(ask(server, "models", "describe", "digits", "--json").stdout)
        scaled = json.loads(ask(server, "models", "scale", "digits", "--min", "2", "--json").stdout)
    assert status["models"][0]["modelName"] == "digits"
    assert listed == [{"modelName": "digits", "modelUrl": "digits.mar"}]
    assert shown == msgspec.json.decode(msgspec.json.encode(described))
    assert scaled == {"status": "Processing worker updates..."}


@pytest.mark.parametrize(
    "arguments",
    [
        ["models", "scale", "m"],
        ["predict"],
        ["nosuch"],
        ["models", "scale", "m", "--min", "-1"],
        ["serve", "a.mar"],
    ],
)
def test_a_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_help_comes_at_once_since_nothing_that_takes_time_is_imported_for_it() -> None:
    code = "import sys, torchrelay.cli.main; print(*sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {
        "msgspec",
        "httpx2",
        "torchrelay.client",
        "rich.table",
        "zmq",
        "falcon",
        "torch",
        "torchrelay.shared.settings",
    }
    assert slow & set(ran.stdout.split()) == set()
