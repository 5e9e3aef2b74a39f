"""torchrelay as its users have it: the built wheel in an environment of its own, away from the checkout.

An editable install hides what a wheel lacks and which names it takes, so tests start these commands.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from functools import cache
from pathlib import Path
from typing import IO

#: The commands take from this variable what workers share: here it is not torch, see `tests/conftest.py`.
PRELOAD = "TORCHRELAY_PRELOAD"
#: Says whether they speak gRPC.
GRPC = "TORCHRELAY_GRPC"
ROOT = Path(__file__).parents[1]
_FOLDERS = ("broker", "cli", "client", "gateway", "shared", "src", "worker")
_FILES = ("LICENSE", "README.md", "pyproject.toml")
#: Open for as long as this process lives; the lock on it says that it uses its environment.
_in_use: list[IO[str]] = []


def command(name: str) -> str:
    """Return the path of an installed command, `python` among them."""
    return str(installed() / "bin" / name)


@cache
def installed() -> Path:
    """Return the environment with the wheel of the sources as they are. All processes of a run share it."""
    home = ROOT / "build" / "installed"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        environment = home / _digest()
        if not (environment / "complete").exists():
            _remove_unused(home)
            _install(environment)
            (environment / "complete").touch()
        _in_use.append((environment / "complete").open())
        fcntl.flock(_in_use[-1], fcntl.LOCK_SH)
    return environment


def _remove_unused(home: Path) -> None:
    """Remove the environments of other sources, but for those that another run of the tests uses."""
    for environment in home.glob("*/"):
        complete = environment / "complete"
        if complete.exists():
            with complete.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
        shutil.rmtree(environment)


def _digest() -> str:
    """Tell one state of the sources from another."""
    digest = hashlib.sha256(sys.executable.encode())
    for path in sorted(path for folder in _FOLDERS for path in (ROOT / folder).rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    for name in _FILES:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()[:16]


def _install(environment: Path) -> None:
    venv.create(environment, with_pip=False)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    # What it needs comes from the environment of the tests. Python reads no .pth files of a folder that a
    # .pth file names, so that the editable install there stays unseen.
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    with tempfile.TemporaryDirectory() as scratch:
        # Built from a copy: setuptools leaves build/ behind, and would pack again what lies there.
        copy = Path(scratch, "source")
        for name in _FOLDERS:
            shutil.copytree(
                ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        for name in _FILES:
            shutil.copy(ROOT / name, copy)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        _run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", scratch, str(copy))
        [wheel] = Path(scratch).glob("*.whl")
        _run(
            *pip,
            "--python",
            str(environment / "bin" / "python"),
            "install",
            "--no-deps",
            "--no-index",
            str(wheel),
        )


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
