"""What machine and which versions a run was made on."""

import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks import hardware


def test_another_environment_is_asked_for_its_own_versions() -> None:
    assert hardware.ask_version(Path(sys.executable), "msgspec") == version("msgspec")
    assert hardware.ask_version(Path(sys.executable), "no-such-package") == ""


def test_a_commit_has_a_name() -> None:
    assert hardware.revision()


def test_every_package_of_the_table_is_installed() -> None:
    assert all(version(name) for name in hardware.PACKAGES)
