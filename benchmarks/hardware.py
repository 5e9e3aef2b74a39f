"""Says what machine and which versions a run was made on."""

import os
import platform
import shlex
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.results import Machine

#: What a torchrelay request passes through.
PACKAGES = ("torch", "pyzmq", "msgpack", "msgspec", "falcon", "gunicorn", "uvicorn", "uvloop", "httptools")
ASK_LIMIT_S = 60.0
#: Of those with which a Python is built, what its speed depends on.
BUILD_OPTIONS = ("--enable-shared", "--enable-optimizations", "--with-lto")


def look(torchserve_python: Path | None) -> Machine:
    """Collect the facts; TorchServe's versions come from its own environment."""
    versions = {name: version(name) for name in PACKAGES}
    if torchserve_python is not None:
        versions |= {
            "torchserve": ask_version(torchserve_python, "torchserve"),
            "torch (TorchServe's)": ask_version(torchserve_python, "torch"),
            "Java": _first_line(["java", "-version"]).replace('"', "").removeprefix("openjdk version "),
        }
    return Machine(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        kernel=f"{platform.system()} {platform.release()}",
        python=interpreter(sys.base_prefix, str(sysconfig.get_config_var("CONFIG_ARGS"))),
        versions=versions | {"wrk": _first_line(["wrk", "--version"]).removeprefix("wrk ").partition(" ")[0]},
    )


def interpreter(prefix: str, build_options: str) -> str:
    """Say which Python runs this: a distribution's by where it is, another by what it was built with."""
    if prefix == "/usr":
        return f"{platform.python_version()} of the distribution"
    chosen = [option for option in BUILD_OPTIONS if option in shlex.split(build_options)]
    return f"{platform.python_version()} built with {' '.join(chosen) or 'no options'}"


def revision() -> str:
    """Name the commit that is measured, and say whether files differ from it."""
    try:
        command = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(
            command,
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=ASK_LIMIT_S,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def ask_version(python: Path, package: str) -> str:
    """Ask another environment's Python for a package's version; "" if it isn't there."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=False, timeout=ASK_LIMIT_S
    )
    return done.stdout.strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor()


def _first_line(command: list[str]) -> str:
    """Return the first line that a program writes to either output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ASK_LIMIT_S)
    return (done.stdout + done.stderr).partition("\n")[0].strip()
