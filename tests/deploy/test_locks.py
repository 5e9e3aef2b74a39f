"""The locks of the images: they fit pyproject.toml and constraints.txt, and name every file by its hash."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.locks import ROLES, ROOT, constraints, locked

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
#: What torch brings where it is built for GPUs, which constraints.txt leaves to it.
OF_TORCH = re.compile("nvidia-.*|cuda-.*|triton")
RENEW = "run: make lock"


def required(role: str) -> list[Requirement]:
    project = PROJECT["project"]
    named = [*project["dependencies"], *project["optional-dependencies"][role]]
    return [Requirement(text) for text in (*named, *PROJECT["build-system"]["requires"])]


def further(name: str) -> Iterator[str]:
    """Name what an installed package requires on this machine."""
    for text in importlib.metadata.requires(name) or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


@pytest.mark.parametrize("role", ROLES)
def test_a_lock_has_what_its_part_requires_in_a_version_that_fits(role: str) -> None:
    pins = locked(role)
    for requirement in required(role):
        name = canonicalize_name(requirement.name)
        assert name in pins, RENEW
        assert requirement.specifier.contains(pins[name].version), RENEW


@pytest.mark.parametrize("role", ROLES)
def test_a_lock_has_what_its_packages_require(role: str) -> None:
    pins = locked(role)
    here = [name for name in pins if _is_installed(name)]
    assert len(here) > 20
    missing = {name: set(further(name)) - set(pins) for name in here}
    assert not {name: lacking for name, lacking in missing.items() if lacking}, RENEW


@pytest.mark.parametrize("role", ROLES)
def test_a_lock_has_the_versions_of_constraints(role: str) -> None:
    known = constraints()
    for name, pin in locked(role).items():
        if name in known:
            assert pin.version == known[name], RENEW
        elif not OF_TORCH.fullmatch(name):
            # What is for other systems, or builds the wheel, which constraints.txt leaves to pip.
            marker = pin.requirement.marker
            assert name == "setuptools" or (marker is not None and not marker.evaluate()), name


@pytest.mark.parametrize("role", ROLES)
def test_every_package_of_a_lock_is_known_by_hashes_and_none_by_an_address(role: str) -> None:
    for name, pin in locked(role).items():
        assert pin.hashes, name
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in pin.hashes), name
    assert "://" not in (ROOT / "deploy" / f"requirements-{role}.txt").read_text()


#: Imports what a part's command does, where nothing but its lock can be.
IMPORTER = """
import importlib, importlib.metadata, sys
from packaging.utils import canonicalize_name

allowed = set(sys.argv[1].split()) | {"torchrelay"}
known = importlib.metadata.packages_distributions()

class Refuse:
    def find_spec(self, name, path=None, target=None):
        owners = {canonicalize_name(owner) for owner in known.get(name, ())}
        if owners and not owners & allowed:
            raise ModuleNotFoundError(f"{name} is in no lock of this part", name=name)

sys.meta_path.insert(0, Refuse())
for module in sys.argv[2:]:
    importlib.import_module(f"torchrelay.{module}")
"""
OF_COMMANDS = (
    "cli.main",
    "cli.commands.parts",
    "cli.start.part_settings",
    "cli.start.checks",
    "cli.start.secrets_file",
    "cli.start.folders",
    "cli.start.child",
)
OF_ROLES = {
    "broker": ("broker.server",),
    "gateway": ("gateway.main",),
    "worker": ("worker.node.node", "worker.launcher.launcher_process", "worker.model.process"),
}


@pytest.mark.parametrize("role", ROLES)
def test_a_lock_has_what_its_part_imports(role: str) -> None:
    words = [sys.executable, "-c", IMPORTER, " ".join(locked(role)), *OF_COMMANDS, *OF_ROLES[role]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("role", ROLES)
def test_an_image_installs_by_its_lock_and_builds_with_what_that_has(role: str) -> None:
    text = (ROOT / "deploy" / f"Dockerfile.{role}").read_text()
    assert f"--require-hashes --requirement deploy/requirements-{role}.txt" in text
    assert "pip install --no-cache-dir --no-index --no-deps --no-build-isolation ." in text
    assert "setuptools" in locked(role)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "!deploy/" in ignored


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
