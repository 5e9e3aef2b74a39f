"""Compares two revisions of torchrelay under load: `python -m benchmarks.pair OLD NEW`.

Both serve at the same time and are loaded in turns (old new, new old, ...), so that whatever else the
machine does falls on both. What counts is the ratio within each pair of runs, not the rates.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import servers, wrk
from benchmarks.results import Plan, Point
from benchmarks.run import make_store, measure_load
from shared.errors import RelayError

ROOT = Path(__file__).parents[1]
GIT_LIMIT_S = 60.0
KEYS = ("old", "new")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pair", description=__doc__)
    parser.add_argument("old", help="a revision, or a folder that has one checked out")
    parser.add_argument("new", help="likewise")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timed run")
    parser.add_argument("--rounds", type=int, default=11, help="pairs of runs of each point")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--gateway-processes", type=int, default=1)
    parser.add_argument("--loss-percent", type=float, default=5.0, help="what the new one may lose")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    try:
        wrk.require()
        points = measure(options)
    except (wrk.WrkFailed, servers.ServerFailed, RelayError, subprocess.SubprocessError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(report(points))
    lost = [one for one, ratio in medians(points).items() if ratio < 1 - options.loss_percent / 100]
    if lost:
        print(f"{options.new} is slower than {options.old} at {lost} connections", file=sys.stderr)
    return 1 if lost else 0


def measure(options: argparse.Namespace) -> list[Point]:
    """Run both revisions side by side."""
    plan = Plan(
        seconds=options.seconds,
        warmup_seconds=2.0,
        rounds=options.rounds,
        connections=tuple(options.connections),
        gateway_processes=options.gateway_processes,
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pair-")))
        contestants = [
            servers.torchrelay_at(stack.enter_context(checked_out(name, folder / f"{key}-tree")), key, plan)
            for key, name in zip(KEYS, (options.old, options.new), strict=True)
        ]
        _, points = measure_load(contestants, plan, folder, make_store(folder))
    return points


@contextmanager
def checked_out(name: str, folder: Path) -> Iterator[Path]:
    """Check a revision out into a folder, or take the folder that was named."""
    if Path(name).is_dir():
        yield Path(name).resolve()
        return
    _git("worktree", "add", "--detach", str(folder), name)
    try:
        yield folder
    finally:
        _git("worktree", "remove", "--force", str(folder))


def ratios(points: Sequence[Point]) -> dict[int, list[float]]:
    """Return new / old of each pair of runs, by the number of connections."""
    rates = {(point.server, point.connections, point.turn): point.load.rate for point in points}
    found: dict[int, list[float]] = {}
    for (server, connections, turn), rate in rates.items():
        if server == "new":
            found.setdefault(connections, []).append(rate / rates["old", connections, turn])
    return found


def medians(points: Sequence[Point]) -> dict[int, float]:
    """Return the median of `ratios`, by the number of connections."""
    return {connections: statistics.median(pairs) for connections, pairs in ratios(points).items()}


def report(points: Sequence[Point]) -> str:
    """Write what was found, a line for each number of connections."""
    lines = []
    for connections, pairs in ratios(points).items():
        rates = {
            key: statistics.median(
                point.load.rate for point in points if (point.server, point.connections) == (key, connections)
            )
            for key in KEYS
        }
        lines.append(
            f"{connections:4} connections: {rates['old']:9,.0f} -> {rates['new']:9,.0f} requests/s,"
            f" new/old {statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"
        )
    return "\n".join(lines)


def _git(*arguments: str) -> None:
    command = ["git", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=GIT_LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
