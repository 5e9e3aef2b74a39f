"""What a command says when it can't go on: one boundary for our own faults and the system's."""

import os
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from torchrelay.cli.faults import Fault, FaultReportingGroup, text_of


def app_that_raises(error: BaseException) -> typer.Typer:
    app = typer.Typer(cls=FaultReportingGroup)

    @app.command()
    def work() -> None:
        raise error

    @app.command()
    def rest() -> None:
        """Make the command above one of several, which needs its name."""

    return app


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Fault("it failed"), "torchrelay: it failed\n"),
        (OSError(28, os.strerror(28), "/f"), "torchrelay: /f: No space left on device\n"),
        (OSError(24, os.strerror(24)), "torchrelay: Too many open files\n"),
        (OSError("odd"), "torchrelay: odd\n"),
        (
            UnicodeEncodeError("utf-8", "/a\udcff", 2, 3, "surrogates not allowed"),
            "torchrelay: '/a\\udcff' can't be written in UTF-8: choose another name\n",
        ),
    ],
)
def test_what_ends_a_command_is_one_line_and_exit_status_1(error: Exception, line: str) -> None:
    result = CliRunner().invoke(app_that_raises(error), ["work"])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", line)


def test_our_own_mistakes_keep_their_traceback() -> None:
    result = CliRunner().invoke(app_that_raises(ValueError("a mistake")), ["work"])
    assert isinstance(result.exception, ValueError)


def test_the_systems_own_words_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        (tmp_path / "gone").open()
    assert text_of(caught.value) == f"{tmp_path}/gone: No such file or directory"
