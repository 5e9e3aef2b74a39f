"""What machine and which versions a run was made on."""

import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks import hardware


def test_another_environment_is_asked_for_its_own_versions() -> None:
    assert hardware.ask_version(Path(sys.executable), "msgspec") == version("msgspec")
    assert hardware.ask_version(Path(sys.executable), "no-such-package") == ""


def test_an_interpreter_is_told_by_how_it_was_built() -> None:
    version = sys.version.split()[0]
    own = "'--prefix=/opt/p' '--with-lto' '--enable-optimizations' 'LDFLAGS=-L/opt/p'"
    assert hardware.interpreter("/opt/p", own) == f"{version} built with --enable-optimizations --with-lto"
    assert hardware.interpreter("/opt/p", "'--prefix=/opt/p'") == f"{version} built with no options"
    assert hardware.interpreter("/usr", "'--enable-shared'") == f"{version} of the distribution"


def test_a_commit_has_a_name() -> None:
    assert hardware.revision()


def test_every_package_of_the_table_is_installed() -> None:
    assert all(version(name) for name in hardware.PACKAGES)
