"""The documentation: the generated part is current, and every command in it is one that the CLI accepts."""

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.deploy.test_compose_file import accept
from torchrelay.shared import settings
from torchrelay.shared.torchserve.command_line import parser

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "tests/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def generator() -> Any:  # a script without types
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(page: Path) -> list[str]:
    """Return the commands of ours in a page's code blocks, without prompts, hosts and comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [
        line[found.start() :]
        for line in lines
        if (found := re.search(r"(?<![\w/.-])(torchrelay|torchserve) [a-z-]", line))
    ]


def test_the_table_of_settings_is_current() -> None:
    message = "run: python docs/generate.py"
    assert (ROOT / "docs" / "configuration.md").read_text() == generator().configuration(), message


@pytest.mark.parametrize("cls", [settings.BrokerSettings, settings.GatewaySettings, settings.NodeSettings])
def test_every_setting_says_what_it_means(cls: type[settings.Settings]) -> None:
    import inspect

    meanings = generator().read_meanings(inspect.getsource(cls))
    silent = [field.name for field in msgspec.structs.fields(cls) if not meanings.get(field.name)]
    assert silent == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_in_the_documentation_is_accepted(page: Path) -> None:
    for command in commands(page):
        name, *words = shlex.split(command, comments=True)
        if name == "torchserve":
            parser().parse_args(words)
        else:
            accept([name, *words])


def test_the_commands_are_found_at_all() -> None:
    assert len(commands(ROOT / "docs" / "several-hosts.md")) >= 6
    assert len([line for line in commands(ROOT / "README.md") if line.startswith("torchserve")]) >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    # Written by the benchmarks' run.
    assert [link for link in missing if not link.endswith("performance.md")] == []


def test_contributing_is_short_enough_to_be_read() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) < 150


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"\bmake (\w+)(?=\s|`|$)", page.read_text())}
    assert {"serve", "test", "check"} <= named & targets
