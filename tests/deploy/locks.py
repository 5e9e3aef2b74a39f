"""What the images install, by the locks beside their Dockerfiles."""

from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
ROLES = ("broker", "gateway", "worker")


class Locked(NamedTuple):
    """One package of a lock."""

    version: str
    requirement: Requirement
    hashes: list[str]


def locked(role: str) -> dict[str, Locked]:
    """Read a lock: of each package one version, and the hashes of its files on lines that continue it."""
    found: dict[str, Locked] = {}
    for line in (ROOT / "deploy" / f"requirements-{role}.txt").read_text().replace("\\\n", "").splitlines():
        text, *hashes = line.split("--hash=")
        requirement = Requirement(text.strip())
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        name = canonicalize_name(requirement.name)
        assert name not in found
        found[name] = Locked(pin.version, requirement, [each.strip() for each in hashes])
    return found


def constraints() -> dict[str, str]:
    """Read what everything else installs by."""
    pins = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return {canonicalize_name(name): version for name, version in pins}
