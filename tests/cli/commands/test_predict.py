"""One call of a model: what is sent, and how its answer is printed."""

import os
import pty
from pathlib import Path

import pytest

from tests.cli.command_line import ask, run
from tests.cli.fake_server import serving
from tests.cli.remote.test_rendering import ATTACK, is_harmless
from torchrelay.cli.commands import predict


def test_predict_sends_the_file_with_its_type_and_prints_json_for_reading(tmp_path: Path) -> None:
    picture = tmp_path / "three.png"
    picture.write_bytes(b"\x89PNG")
    with serving({"POST /predictions/digits/1.0": (200, {"class": "3", "probability": 0.5})}) as server:
        result = ask(server, "predict", "digits", str(picture), "--version", "1.0")
    assert result.output == '{\n  "class": "3",\n  "probability": 0.5\n}\n'
    assert server.asked[0].body == b"\x89PNG"
    assert server.asked[0].content_type == "image/png"


def test_predict_takes_stdin_and_hands_bytes_through_untouched() -> None:
    with serving({"POST /predictions/m": (200, b"\x00\xff\r\n")}) as server:
        result = run("predict", "m", "-", "--content-type", "a/b", "--inference", server.url, input=b"\x01")
    assert result.stdout_bytes == b"\x00\xff\r\n"
    assert (server.asked[0].body, server.asked[0].content_type) == (b"\x01", "a/b")


def test_a_file_that_is_not_there_is_one_line_too(tmp_path: Path) -> None:
    result = run("predict", "m", str(tmp_path / "missing"))
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "can't be read" in result.stderr


@pytest.mark.parametrize("answer", [ATTACK.encode(), b"\xff\x1b[2J", {"class": ATTACK}])
def test_an_answer_on_a_terminal_is_text_too(answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, terminal = pty.openpty()
    with serving({"POST /predictions/m": (200, answer)}) as server, os.fdopen(terminal, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        predict.predict("m", None, None, "a/b", server.url)
        stdout.flush()
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert is_harmless(shown.replace("\r\n", "\n"))
    assert "1b[2J" in shown
