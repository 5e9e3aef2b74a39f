"""What the wheel puts beside other people's packages."""

import pytest

from tests.installation import ROOT, installed

pytestmark = pytest.mark.integration


def test_nothing_but_our_two_names_is_installed() -> None:
    [packages] = installed().glob("lib/python*/site-packages")
    found = {path.name for path in packages.iterdir() if not path.name.endswith((".dist-info", ".pth"))}
    assert found - {"__pycache__"} == {"torchrelay", "ts"}


def test_each_module_of_the_repository_is_in_the_wheel() -> None:
    [packages] = installed().glob("lib/python*/site-packages/torchrelay")
    installed_ones = {path.relative_to(packages) for path in packages.rglob("*.py")}
    folders = [link.resolve() for link in (ROOT / "src" / "torchrelay").iterdir() if link.is_symlink()]
    ours = {path.relative_to(ROOT) for folder in folders for path in folder.rglob("*.py")}
    assert {path.name for path in folders} == {"broker", "cli", "client", "gateway", "shared", "worker"}
    assert {path for path in installed_ones if path.parts[1:]} == ours


def test_type_checkers_are_told_that_it_is_typed() -> None:
    [packages] = installed().glob("lib/python*/site-packages/torchrelay")
    assert (packages / "py.typed").is_file()
