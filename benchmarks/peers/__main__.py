"""Compares torchrelay with other model servers: `python -m benchmarks.peers`.

Each is started in an environment of its own below build/, which is made where it isn't there. They are timed
in turns, forwards and backwards, and every answer is looked at before that.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import interruption, peers_report, report
from benchmarks.peers import comparison
from benchmarks.peers.launches import CONTESTANTS
from benchmarks.peers.rows import (
    OURS,
    PLAN,
    QUICK_PLAN,
    QUICK_ROWS,
    ROWS,
    ComparisonRow,
    chosen,
    seconds_expected,
)
from benchmarks.results import RunPlan

#: Where the figures of a part go unless it is said: those that are published are of a whole run.
PART = Path("build/peers.json")
#: Of a server's start and end, and of a check, about.
EXTRA_S = {"start": 5.0, "check": comparison.CHECK_S}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    keys = [row.key for row in ROWS]
    parser.add_argument("--rows", nargs="+", choices=keys, metavar="ROW", help=f"of {', '.join(keys)}")
    others = [key for key in CONTESTANTS if key != OURS]
    parser.add_argument("--peers", nargs="+", choices=others, metavar="PEER", help=f"of {', '.join(others)}")
    parser.add_argument("--quick", action="store_true", help="few rows and short runs: five minutes")
    parser.add_argument("--connections", type=int, nargs="+", help="of those that a row has")
    parser.add_argument("--rounds", type=int, help="timed runs of each point")
    parser.add_argument("--seconds", type=float, help="of each timed run")
    parser.add_argument("--warmup-seconds", type=float, help="of each server")
    parser.add_argument("--gateway-processes", type=int, help="of torchrelay")
    where = f"{peers_report.RESULTS}, or {PART} unless all is measured as published"
    parser.add_argument("--results", type=Path, metavar="FILE", help=where)
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> RunPlan:
    """Make the plan that the options describe."""
    plan = QUICK_PLAN if options.quick else PLAN
    said = {
        name: getattr(options, name) for name in ("rounds", "seconds", "warmup_seconds", "gateway_processes")
    }
    said["connections"] = tuple(options.connections) if options.connections else None
    return msgspec.structs.replace(plan, **{name: value for name, value in said.items() if value is not None})


def rows_of(options: argparse.Namespace) -> list[ComparisonRow]:
    """Return the rows that the options name."""
    return chosen(options.rows or (QUICK_ROWS if options.quick else [row.key for row in ROWS]))


def peers_of(options: argparse.Namespace) -> list[str]:
    """Return who takes part, ours first."""
    return [OURS, *(options.peers or [key for key in CONTESTANTS if key != OURS])]


def file_of(options: argparse.Namespace) -> Path:
    """Return where the figures go; to those that are published only if everything is measured as planned."""
    is_whole = (plan_of(options), len(rows_of(options)), len(peers_of(options)))
    where: Path = options.results or (
        peers_report.RESULTS if is_whole == (PLAN, len(ROWS), len(CONTESTANTS)) else PART
    )
    return where


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    plan, rows, peers = plan_of(options), rows_of(options), peers_of(options)
    interruption.interrupt_by_signals()
    try:
        comparison.refuse_without_tools()
        minutes = seconds_expected(rows, peers, plan, EXTRA_S) / 60
        comparison.say(f"This takes about {minutes:.0f} minutes, plus what has to be installed.")
        said = sys.argv[1:] if arguments is None else arguments
        command = shlex.join(["python", "-m", "benchmarks.peers", *said])
        results = comparison.measure(rows, peers, plan, command)
    except KeyboardInterrupt:
        comparison.say("All servers are stopped, and nothing is written.")
        return interruption.INTERRUPTED
    except comparison.FAILURES as error:
        comparison.say(str(error))
        return 1
    report.publish(results, file_of(options), peers_report.render(results), peers_report.RESULTS)
    for fault in (found := comparison.faults(results)):
        comparison.say(fault)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
