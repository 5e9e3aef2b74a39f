"""Who has installed torchrelay without a part's extra is told which one, before anything starts."""

import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from torchrelay.cli.main import app
from torchrelay.cli.start import required_packages
from torchrelay.cli.start.child import Role

PROJECT = Path(__file__).parents[3] / "pyproject.toml"
#: Which the extra of workers brings for handlers, and for GPUs: a node starts without them.
NOT_REQUIRED = {"numpy", "nvidia-ml-py", "torch"}


@pytest.mark.parametrize("role", get_args(Role))
def test_what_a_part_requires_is_what_its_extra_brings(role: Role) -> None:
    extras = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    packages = packages_distributions()
    brought = {re.split("[<>=]", line)[0] for line in extras[role]}
    required = {packages[module][0].lower() for module in required_packages.MODULES[role]}
    assert {name.replace("_", "-") for name in required} == brought - NOT_REQUIRED


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [(["serve", "--ncs"], "all"), (["broker"], "broker"), (["gateway"], "gateway"), (["worker"], "worker")],
)
def test_a_command_without_its_packages_says_what_to_install(
    arguments: list[str], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = dict.fromkeys(get_args(Role), ("a_package_that_is_nowhere",))
    monkeypatch.setattr(required_packages, "MODULES", modules)
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "a_package_that_is_nowhere" in result.stderr
    assert f"pip install 'torchrelay[{extra}]'" in result.stderr
