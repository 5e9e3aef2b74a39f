"""Writes docs/reliability.md of what was measured: `python -m tests.reliability.page`.

It takes benchmarks/results/matrix.jsonl (`make matrix`), soak.json (`make soak`) and simulation.json
(`python -m tests.simulation`). Pure but for `main`.
"""

import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from tests.installation import ROOT
from tests.reliability import soak
from tests.reliability.cells import FAULTS, MATRIX, TARGETS, Cell
from tests.reliability.running import PER_S, CellResult
from tests.reliability.soak import SoakReport
from tests.simulation.__main__ import Simulated

RESULTS = ROOT / "benchmarks" / "results"
MATRIX_RESULTS = RESULTS / "matrix.jsonl"
SOAK_RESULTS = RESULTS / "soak.json"
SIMULATION_RESULTS = RESULTS / "simulation.json"
TARGET = ROOT / "docs" / "reliability.md"

TOP = """\
# Reliability

<!-- Written by `python -m tests.reliability.page` from what was measured; change that, or the text there. -->

What the fleet promises, what it doesn't, and how both are tried: a matrix of faults on real processes, random
faults for minutes, and a simulation by seed with faults planted into the code.

## Promises

- **A request ends once**, with its own answer or with an error that says why, by its deadline and a second:
  `response_timeout` of the model, or the request's `x-request-timeout-ms`.
- **Nothing that dies loses a request that was taken**, but with what held its connection, a gateway process. A
  worker, launcher, node or broker that ends, hangs, is stopped or cut off costs time, at most.
- **A handler runs for a request once**, and once more if its worker, or the broker, was lost. It never runs more than
  three times while a broker lives; the third is for what others may be to blame for ([exactly](architecture.md#once)).
- **What was acknowledged is registered**: after any end of the broker, on a full disk, on one that became read-only.
  What was refused changes nothing.
- **What ends is replaced** and leaves no process, file descriptor or memory behind.
- A broker that can't read its registry, or finds that another one uses it, doesn't start and says what to do.

## What is not promised

- A connection ends with its gateway process: its client sees that, and may ask again. Nobody listens while the
  only gateway of an address is started again: have two behind a balancer.
- A gateway process that has no file descriptor left for a connection closes it, before it has read anything.
- Who is revoked gets nothing more: requests that a revoked gateway holds end with an error.
- What a worker has not answered within `response_timeout` is refused, not tried again: its time is over. A
  `response_timeout` below the 3 s after which a silent node is lost has requests of that node refused.
- A request that loses both of its tries is refused: "Worker died".
- Plain TCP (`--insecure`) carries what it is given. Flipped bits may come as another answer, and messages that
  somebody repeats may be run again. With keys both end the connection, which is made anew.
- Parts that end have to be started again by something: systemd, a container platform, `torchrelay serve`. Nothing
  replaces a broker or node that hangs; the fleet goes on when it does.
"""


def render(results: Sequence[CellResult], soaked: SoakReport | None, simulated: Simulated | None) -> str:
    """Write the whole page."""
    sections = [TOP, _matrix(results), _reasons(), _soak(soaked), _simulation(simulated)]
    return "\n".join(section for section in sections if section)


def _matrix(results: Sequence[CellResult]) -> str:
    known = {(one.fault, one.target): one for one in results}
    count = sum(isinstance(value, Cell) for value in MATRIX.values())
    held = sum(not one.faults for one in known.values())
    head = f"""\
## The matrix

`make matrix` runs a broker, a gateway of two processes and two nodes in network namespaces of their own, which have
joined by invitations and speak with keys, {PER_S:g} requests/s with numbers, and changes of the registry, and does to one
of them after the other what is named here. Four such fleets go side by side. `make test` runs some of it. After each
cell is checked: every request ended once, with its own answer, in time; no handler ran too often; nothing waits, runs
or is held that wasn't before; the registry has what was acknowledged.

Of {len(MATRIX)} cells {count} are run; {len(known)} were in the last run, of which {held} held. A cell says the longest
time in which nobody got an answer / the time from the fault (its end, where it lasts) until everything was there again,
in seconds, and how many requests of how many broke with their connection (b), found nobody listening (n), or were
refused (r). Load and fleets shared two cores with others, so times are upper bounds. **!** is a broken promise, – a cell that makes no sense ([why](#why-some-cells-are-not-run)).
"""
    rows = [[fault, *(_cell(fault, target, known) for target in TARGETS)] for fault in FAULTS]
    return f"{head}\n{_table(['fault', *TARGETS], rows)}\n"


def _cell(fault: str, target: str, known: dict[tuple[str, str], CellResult]) -> str:
    if isinstance(MATRIX[fault, target], str):
        return "–"
    result = known.get((fault, target))
    if result is None:
        return "not run"
    text = f"{result.outage_s:.1f} / {max(0.0, result.recovery_s):.1f}"
    letters = {"broken": "b", "not taken": "n", "refused": "r"}
    lost = [f"{result.ends[end]}{letter}" for end, letter in letters.items() if result.ends.get(end)]
    if lost:
        text += f" ({' '.join(lost)} of {result.sent})"
    return f"**!** {text}" if result.faults else text


def _reasons() -> str:
    rows = []
    reasons = [(pair, value) for pair, value in MATRIX.items() if isinstance(value, str)]
    for text in dict.fromkeys(value for _, value in reasons):
        pairs = [f"{fault}: {target}" for (fault, target), value in reasons if value == text]
        rows.append([", ".join(pairs), text])
    return f"### Why some cells are not run\n\n{_table(['cells', 'why'], rows)}\n"


def _soak(report: SoakReport | None) -> str:
    if report is None:
        return ""
    return f"## Random faults for minutes\n\n{soak.render(report)}"


def _simulation(simulated: Simulated | None) -> str:
    if simulated is None:
        return ""
    found = [one for one in simulated.mutants if one.seeds]
    what = (
        "The real core and sessions on a network in one thread and virtual time, by seed"
        f" (`python -m tests.simulation`): {simulated.seeds} seeds, {simulated.hours:.1f} hours of fleets,"
        f" {simulated.requests:,} requests. {len(simulated.broken)} of the seeds broke a promise. Each has its"
        f" own trouble: {'; '.join(simulated.kinds)}."
    )
    head = f"""\
## The simulation

{textwrap.fill(what, 120, break_on_hyphens=False)}

Whether it would notice: {len(found)} of {len(simulated.mutants)} faults planted into the code are found. The number
is how many seeds that takes; `tests/simulation/mutants.py` has the faults, and each run of the tests finds them again.
"""
    rows = [[one.what, str(one.seeds or "not found")] for one in simulated.mutants]
    return f"{head}\n{_table(['planted fault', 'seeds'], rows)}\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def page() -> str:
    """Return the page of the results that there are."""
    results = [msgspec.json.decode(line, type=CellResult) for line in read(MATRIX_RESULTS).splitlines()]
    soaked, simulated = read(SOAK_RESULTS), read(SIMULATION_RESULTS)
    return render(
        results,
        msgspec.json.decode(soaked, type=SoakReport) if soaked else None,
        msgspec.json.decode(simulated, type=Simulated) if simulated else None,
    )


if __name__ == "__main__":
    TARGET.write_text(page())
    sys.exit(0)
