"""Random faults under load, one or two at a time, for minutes: `python -m tests.reliability.soak`.

The seed decides which faults come in which order; a fleet goes through all of them, and is made anew only
where one has left it broken. All is checked after each as in the matrix. Ends with 1 if a promise was broken.
"""

import argparse
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import httpx2
import msgspec
import psutil

from tests.installation import ROOT
from tests.reliability import namespaces
from tests.reliability.cells import Cell, cells
from tests.reliability.hosts import Hosts
from tests.reliability.lending import Lent, missing
from tests.reliability.running import PER_S, CellResult, run_cell
from torchrelay.shared import clock

WIDTH = 80
#: Two faults one after the other may each cost a request most of a deadline in the matrix.
DEADLINE_S = 20.0
#: How often a second fault strikes before the first is over.
DOUBLE_SHARE = 0.4
#: With two faults a request may lose both of its tries: it is refused then, as is promised.
SECOND_LOSS = frozenset({"refused"})


class SoakReport(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run."""

    seed: int
    minutes: float
    taken_at: str
    revision: str
    machine: str
    rounds: tuple[CellResult, ...]
    #: How many fleets it took.
    fleets: int

    @property
    def ends(self) -> Counter[str]:
        """Count requests by their ends."""
        return sum((Counter(one.ends) for one in self.rounds), Counter())

    @property
    def faults(self) -> list[str]:
        """Say which promises were broken, and by what."""
        return [f"{one.fault} of {one.target}: {text}" for one in self.rounds for text in one.faults]


def plan(rng: random.Random, choices: Sequence[Cell]) -> tuple[Cell, ...]:
    """Choose what strikes next."""
    first = rng.choice(choices)
    if rng.random() >= DOUBLE_SHARE:
        return (first,)
    second = rng.choice(choices)
    return first, msgspec.structs.replace(second, tolerates=second.tolerates | SECOND_LOSS)


def run(minutes: float, seed: int, folder: Path, logs: Path) -> SoakReport:
    """Let faults come until the time is over; what the parts of a broken fleet said is kept in `logs`."""
    rng = random.Random(seed)
    choices = [cell for cell in cells() if not missing(cell)]
    lent = Lent(folder)
    rounds: list[CellResult] = []
    revision = _revision()
    until = clock.monotonic() + 60 * minutes
    try:
        while clock.monotonic() < until:
            chosen = plan(rng, choices)
            hosts, result = _round(lent, chosen)
            rounds.append(result)
            if result.faults:
                _keep_logs(hosts, logs / f"round-{len(rounds)}")
                lent.close()
            say(line(len(rounds), until - clock.monotonic(), result))
    finally:
        lent.close()
    return SoakReport(
        seed=seed, minutes=minutes, taken_at=clock.iso(clock.wall_ms()), revision=revision,
        machine=f"{psutil.cpu_count()} cpus, {psutil.virtual_memory().total / 1e9:.0f} GB",
        rounds=tuple(rounds), fleets=lent.made,
    )  # fmt: skip


def _round(lent: Lent, chosen: tuple[Cell, ...]) -> tuple[Hosts, CellResult]:
    hosts = lent.whole()
    try:
        hosts.get_ready()
        return hosts, run_cell(hosts, *chosen, deadline_s=DEADLINE_S)
    except (AssertionError, KeyError, httpx2.HTTPError, psutil.Error, OSError) as error:
        names = " + ".join(one.fault for one in chosen), " + ".join(one.target for one in chosen)
        fault = f"{type(error).__name__}: {error}"[:300]
        return hosts, CellResult(*names, (fault,), 0, {}, 0, 0, 0, 0, 0, 0, 0)


def _keep_logs(hosts: Hosts, place: Path) -> None:
    place.mkdir(parents=True)
    for path in (*hosts.folder.glob("*.log"), hosts.runs):
        shutil.copy(path, place)


def line(number: int, left_s: float, result: CellResult) -> str:
    """Write one round in a line, and below it what was broken."""
    what = f"{result.fault}: {result.target}"
    refused = sum(result.ends.values()) - result.ends.get("answered", 0)
    figures = f"{result.sent:5} sent {refused:4} not answered, whole in {result.whole_after_s:4.1f} s"
    room = WIDTH - len(figures) - 10
    first = f"{max(0, left_s) / 60:4.1f}m {number:3} {what[:room]:<{room}} {figures}"
    return "\n".join(
        [first[:WIDTH], *(f"   ! {text.splitlines()[0][: WIDTH - 6]}" for text in result.faults)]
    )


def render(report: SoakReport) -> str:
    """Write a run as Markdown."""
    ends = ", ".join(f"{count:,} {end}" for end, count in report.ends.most_common())
    again = sum(one.run_again for one in report.rounds)
    most = max((one.slowest_s for one in report.rounds), default=0.0)
    whole = sorted(one.recovery_s for one in report.rounds)
    lines = [
        f"`make soak MINUTES={report.minutes:g} SEED={report.seed}`, {report.taken_at}, revision"
        f" {report.revision}, {report.machine}: {len(report.rounds)} rounds of one or two faults,"
        f" {PER_S:g} requests/s, each given {DEADLINE_S:g} s.",
        "",
        "| | |",
        "|---|---|",
        f"| requests | {sum(one.sent for one in report.rounds):,}: {ends} |",
        f"| run more than once | {again} |",
        f"| slowest answer | {most:.1f} s |",
        f"| whole again after the last fault, half of the rounds | {whole[len(whole) // 2]:.1f} s |"
        if whole
        else "| rounds | none |",
        f"| changes of the registry | {sum(one.changes for one in report.rounds):,} acknowledged,"
        f" {sum(one.changes_refused for one in report.rounds):,} not |",
        f"| fleets | {report.fleets} (a new one where a round left the last broken) |",
        f"| answered twice, never, or late; lost beyond the promise | {len(report.faults)} |",
        "",
        *(f"- {' '.join(text.split())}" for text in report.faults),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _revision() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True,
                          check=False)  # fmt: skip
    return done.stdout.strip() or "unknown"


def say(text: str) -> None:
    """Write a line of progress."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--report", type=Path, default=Path("build/soak"), help="writes .json and .md there, and logs"
    )
    options = parser.parse_args(arguments)
    if why := namespaces.why_not():
        say(why)
        return 1
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        logs = options.report.with_suffix("")
        shutil.rmtree(logs, ignore_errors=True)
        report = run(options.minutes, options.seed, Path(folder), logs)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.with_suffix(".json").write_bytes(
        msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"
    )
    options.report.with_suffix(".md").write_text(render(report))
    say(render(report))
    return int(bool(report.faults))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
