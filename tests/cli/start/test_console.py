"""What a running server says on its terminal."""

import pytest

from torchrelay.cli.start import console


def test_a_line_is_written_with_what_a_terminal_would_obey_as_escapes(
    capfd: pytest.CaptureFixture[str],
) -> None:
    console.say("model \x1b[31mred ä")
    console.flush()
    assert capfd.readouterr().out == "model \\x1b[31mred ä\n"
