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
from benchmarks.results import Check, Point, RunPlan
from benchmarks.run import FAILURES, add_load_options, make_store, measure_load, plan_of

ROOT = Path(__file__).parents[1]
GIT_LIMIT_S = 60.0
KEYS = ("old", "new")
#: Many short pairs: what the machine does between two of them matters less.
PLAN = RunPlan(seconds=2.0, warmup_seconds=2.0, rounds=11, connections=(1, 16, 64))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pair", description=__doc__)
    parser.add_argument("old", help="a revision, or a folder that has one checked out")
    parser.add_argument("new", help="likewise")
    add_load_options(parser, PLAN)
    parser.add_argument("--loss-percent", type=float, default=5.0, help="what the new one may lose")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    try:
        wrk.require()
        checks, points = measure(options)
    except FAILURES as error:
        print(error, file=sys.stderr)
        return 1
    print(report(points))
    faults = wrong(checks, points) or slower(points, options.loss_percent)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def measure(options: argparse.Namespace) -> tuple[list[Check], list[Point]]:
    """Run both revisions side by side."""
    plan = plan_of(options)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pair-")))
        contestants = [
            servers.torchrelay_at(
                stack.enter_context(checked_out(name, folder / f"{key}-tree")), key, plan.gateway_processes
            )
            for key, name in zip(KEYS, (options.old, options.new), strict=True)
        ]
        return measure_load(contestants, plan, folder, make_store(folder))


@contextmanager
def checked_out(name: str, folder: Path) -> Iterator[Path]:
    """Check a revision out into a folder, or take the folder that was named."""
    if Path(name).is_dir():
        yield Path(name).resolve()
        return
    _git("worktree", "add", "--quiet", "--detach", str(folder), name)
    try:
        yield folder
    finally:
        _git("worktree", "remove", "--force", str(folder))


def wrong(checks: Sequence[Check], points: Sequence[Point]) -> list[str]:
    """Say which revision gave answers that make its rate worthless, and how many."""
    faults = []
    for key in KEYS:
        spoilt = sum(check.wrong for check in checks if check.server == key)
        spoilt += sum(point.load.errors for point in points if point.server == key)
        if spoilt:
            faults.append(f"{spoilt} answers of the {key} revision were wrong: the rates can't be compared")
    return faults


def slower(points: Sequence[Point], loss_percent: float) -> list[str]:
    """Say where the new revision loses more than it may."""
    lost = [one for one, ratio in medians(points).items() if ratio < 1 - loss_percent / 100]
    return [f"the new revision is slower at {lost} connections"] if lost else []


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
    """Run git, which says on stderr why it can't."""
    subprocess.run(["git", *arguments], cwd=ROOT, check=True, timeout=GIT_LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
