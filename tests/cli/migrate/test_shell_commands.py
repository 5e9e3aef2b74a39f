"""The commands of a script, and where they are."""

import pytest

from torchrelay.cli.migrate import shell_commands

SCRIPT = """#!/bin/bash
# don't
torchserve --start \\
   --models all &
curl http://host/a -d '{"a":
 [1]}' | jq . > out.txt
for i in 1 2; do curl -T a.jpg http://host/b; done
CMD ["torchserve", "--stop"]
ExecStart=/usr/bin/torchserve --foreground
FROM --platform=linux/amd64 pytorch/torchserve:0.12
echo it's not closed
A=1 last "$X y"
"""


def found(text: str) -> dict[tuple[str, ...], int]:
    return {command.words: command.line for command in shell_commands.commands_in(text)}


def test_commands_have_their_words_and_lines() -> None:
    commands = found(SCRIPT)
    assert commands[("torchserve", "--start", "--models", "all")] == 3
    assert commands[("curl", "http://host/a", "-d", '{"a":\n [1]}')] == 5
    assert commands[("do", "curl", "-T", "a.jpg", "http://host/b")] == 7
    assert commands[("torchserve", "--stop")] == 8
    assert commands[("/usr/bin/torchserve", "--foreground")] == 9
    assert commands[("FROM", "pytorch/torchserve:0.12")] == 10
    assert commands[("A=1", "last", "$X y")] == 12


@pytest.mark.parametrize("line", ["'", "\"'", "it's", "a\\", "[" * 5000, "'a' " * 2000])
def test_a_script_that_never_ends_costs_little(line: str) -> None:
    text = "\n".join([line] * 3000)[:200_000]
    assert len(list(shell_commands.commands_in(text))) <= 200_000
