"""Runs the load generator and reads what it says."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from benchmarks.results import Load

HERE = Path(__file__).parent
INSTALL = "apt-get install wrk   # Debian, Ubuntu; elsewhere: https://github.com/wg/wrk"
#: Of a body, unless something else is asked for.
BODY_BYTES = 64
#: An answer that takes longer counts as broken.
ANSWER_LIMIT_S = 10
#: Beyond its duration wrk needs this long at most to connect and to end.
SLACK_S = 30.0


class WrkFailed(RuntimeError):
    """wrk is missing, did not end, or did not report."""


class Verdict(msgspec.Struct, frozen=True):
    """What a checked run says."""

    answers: int
    wrong: int


def require() -> None:
    """Make sure that wrk is installed. Raises WrkFailed with the way to get it."""
    if shutil.which("wrk") is None:
        raise WrkFailed(f"wrk, the load generator, is not installed:\n    {INSTALL}")


def measure(
    url: str,
    connections: int,
    seconds: float,
    *,
    body_bytes: int = BODY_BYTES,
    body_file: Path | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
    prefix: Sequence[str] = (),
) -> Load:
    """Put load on `url` over kept-alive connections, and time it; `prefix` comes before the command.

    The body is a pattern of so many bytes, or what a file has.
    """
    body = [str(body_bytes), *([str(body_file)] if body_file else [])]
    said = [word for name, value in headers.items() for word in ("--header", f"{name}: {value}")]
    return parse_timed(_run(url, connections, seconds, HERE / "timed.lua", body, prefix, said))


def check(
    url: str, connections: int, seconds: float, *, body_bytes: int = BODY_BYTES, prefix: Sequence[str] = ()
) -> Verdict:
    """Put load on `url` and compare every answer with what was sent."""
    return parse_checked(_run(url, connections, seconds, HERE / "checked.lua", [str(body_bytes)], prefix))


def parse_timed(output: str) -> Load:
    """Read the line that `timed.lua` writes. Raises WrkFailed."""
    return msgspec.convert(_numbers(output, "RESULT"), Load)


def parse_checked(output: str) -> Verdict:
    """Read the line that `checked.lua` writes. Raises WrkFailed."""
    return msgspec.convert(_numbers(output, "CHECKED"), Verdict)


def _numbers(output: str, tag: str) -> dict[str, int]:
    line = re.search(rf"^{tag} (.*)$", output, re.MULTILINE)
    if line is None:
        raise WrkFailed(f"wrk reported nothing:\n{output.strip()}")
    return {name: int(value) for name, _, value in (word.partition("=") for word in line[1].split())}


def _run(
    url: str,
    connections: int,
    seconds: float,
    script: Path,
    body: Sequence[str],
    prefix: Sequence[str],
    headers: Sequence[str] = (),
) -> str:
    command = [*prefix, "wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{max(1, round(seconds))}s", "--timeout", f"{ANSWER_LIMIT_S}s"]
    command += [*headers, "--script", str(script), url, "--", *body]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + SLACK_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise WrkFailed(f"wrk did not end: {' '.join(command)}") from error
    if done.returncode:
        raise WrkFailed(
            f"wrk ended with {done.returncode}: {' '.join(command)}\n{done.stderr or done.stdout}"
        )
    return done.stdout
