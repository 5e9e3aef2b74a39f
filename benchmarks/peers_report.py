"""Makes the tables of the comparison with other servers. Pure."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks import peer_targets
from benchmarks.results import PeerPoint, PeerResults, PeerRow
from benchmarks.tables import cpu_by_role, table

RESULTS = Path("benchmarks/results/peers.json")
#: Where CPU time is shown: enough clients for full batches, not so many that queues are all one sees.
CPU_CONNECTIONS = 64
LEAST_CPU_US = 0.05
NONE = "-"

HOW_TO_READ = """\
How to read this:

- Each ratio is the median of those within the rounds, in brackets the least and the most: in a round all
  servers are timed one after the other, so that what else the machine does falls on each. Above 1 torchrelay
  answers more.
- The load generator shares the cores with the servers: one that needs little CPU time gains twice by that.
- Each connection sends its next request when the answer to the last has come. With one connection no batch
  can fill: most servers wait out the delay then, torchrelay stops waiting when nobody shares batches.
- The servers do not do the same. torchrelay and TorchServe load models and change the number of workers at
  run time; torchrelay also gives back what a lost worker had, cancels what nobody waits for any more, and may
  have its workers on other hosts. Triton, Mosec and LitServe serve what they were started with, on one host.
- The perceptron has two layers and is computed by NumPy. The encoder is asked for sentences of 16 tokens; the
  torch model is as many layers as take so long for a batch on one thread of this machine. The loop calls them
  with batches as large as a server's could be at that many connections. Each worker has one thread for the
  model.
- All servers run the same build of Python; how it was made is said at the top. Triton loads it as a shared
  library: where a distribution optimises the program alone, as Debian does, the same loop takes 1.4 times as
  long there. With `--enable-shared --enable-optimizations` both are optimised.
- CPU time comes from the kernel's counters, in steps of 10 ms per process."""


def render(results: PeerResults) -> str:
    """Write the section."""
    sections = [
        _top(results), peer_targets.render(results), _ratios(results), _checks(results), _absences(results),
        _details(results), _cpu(results), _memory(results), HOW_TO_READ,
    ]  # fmt: skip
    return "\n\n".join(section for section in sections if section)


def ratios(results: PeerResults, row: str, connections: int, other: str) -> list[float]:
    """Return how many times as much ours answers in each round in which both were timed."""
    ours = next(iter(results.servers))
    rates = {
        key: {point.turn: point.load.rate for point in _points(results, row, key, connections)}
        for key in (ours, other)
    }
    return [
        rates[ours][turn] / rates[other][turn] for turn in sorted(rates[ours].keys() & rates[other].keys())
    ]


def _top(results: PeerResults) -> str:
    machine, plan = results.machine, results.plan
    lines = []
    for server in results.servers.values():
        versions = ", ".join(f"{name} {number}" for name, number in server.versions.items())
        lines.append(f"- **{server.label}**{f' ({versions})' if versions else ''}: {server.options}")
    told = "\n".join(lines)
    return f"""\
## Beside other servers

`{results.command}`, commit {results.revision}, {results.taken_at},
{machine.in_words}; the load average was {results.load_before} at the beginning.
Every server is in an environment of its own on this machine, with the same models and the same number of
workers: {plan.rounds} rounds of {plan.seconds:g} s each, twice that for 5 MB and for the encoder. What
isn't said here is each server's default:

{told}"""


def _ratios(results: PeerResults) -> str:
    ours, *others = results.servers
    head = ["row", "connections", f"{results.servers[ours].label} requests/s", "p50 ms"]
    head += [f"/ {results.servers[key].label}" for key in others]
    rows = []
    for row in results.rows:
        for connections in row.connections:
            loads = [point.load for point in _points(results, row.key, ours, connections)]
            cells = [NONE, NONE]
            if loads:
                p50_ms = median(load.p50_us for load in loads) / 1000
                cells = [f"{median(load.rate for load in loads):,.0f}", f"{p50_ms:.2f}"]
            cells += [_ratio_cell(ratios(results, row.key, connections, key)) for key in others]
            rows.append([row.label, str(connections), *cells])
    return f"""\
Requests per second, and how many times as many as each of the others answers:

{table(head, rows)}"""


def _ratio_cell(found: Sequence[float]) -> str:
    return f"**{median(found):.2f}** ({min(found):.2f} to {max(found):.2f})" if found else NONE


def _checks(results: PeerResults) -> str:
    answers, wrong = (sum(getattr(check, what) for check in results.checks) for what in ("answers", "wrong"))
    by_server = {
        server.label: sum(check.wrong for check in results.checks if check.server == key)
        for key, server in results.servers.items()
    }
    whose = ", ".join(f"{label} {count:,}" for label, count in by_server.items() if count)
    shares = [point.others_share for point in results.points]
    others = f"{median(shares):.0%} (at most {max(shares):.0%})" if shares else NONE
    return f"""\
While the servers were timed, everything else on the machine took {others} of its CPU time.
Before the timed runs every server was asked different questions on all connections, and each answer compared
with the one that was due: of {answers:,} answers {wrong:,} were wrong or
failed{f" ({whose})" if whose else ""}."""


def _absences(results: PeerResults) -> str:
    if not results.absences:
        return ""
    lines = [
        f"- {absence.server} in row {absence.row}: {' '.join(absence.reason.split())[:300]}"
        for absence in results.absences
    ]
    return "Not measured:\n\n" + "\n".join(lines)


def _details(results: PeerResults) -> str:
    head = (
        "row",
        "connections",
        "server",
        "requests/s",
        "spread",
        "p50 ms",
        "p99 ms",
        "errors",
        "CPU us/request",
    )
    rows = []
    for row in results.rows:
        for connections in row.connections:
            for key, server in results.servers.items():
                if points := _points(results, row.key, key, connections):
                    rows.append([row.label, str(connections), server.label, *_figures(points)])
    return f"""\
All servers; CPU time is that of all processes of a server:

{table(head, rows)}"""


def _figures(points: Sequence[PeerPoint]) -> list[str]:
    loads = [point.load for point in points]
    rates = [load.rate for load in loads]
    errors, requests = sum(load.errors for load in loads), sum(load.requests for load in loads)
    return [
        f"{median(rates):,.0f}",
        f"{min(rates):,.0f} to {max(rates):,.0f}",
        f"{median(load.p50_us for load in loads) / 1000:.2f}",
        f"{median(load.p99_us for load in loads) / 1000:.2f}",
        "0" if errors == 0 else f"{errors} of {requests}",
        f"{sum(cpu_by_role(points).values()):,.0f}" if requests else NONE,
    ]


def _cpu(results: PeerResults) -> str:
    spent: dict[tuple[str, str], dict[str, float]] = {}
    for row in results.rows:
        for key in results.servers:
            points = _points(results, row.key, key, cpu_connections(row))
            if not sum(point.load.requests for point in points):
                continue
            for role, us in cpu_by_role(points).items():
                if us >= LEAST_CPU_US:
                    spent.setdefault((key, role), {})[row.key] = us
    head = ["process", *(f"{row.label}, {cpu_connections(row)} connections" for row in results.rows)]
    rows = [
        [f"{results.servers[key].label}: {role}", *(_us(by_row.get(row.key)) for row in results.rows)]
        for (key, role), by_row in sorted(spent.items(), key=lambda one: [*results.servers].index(one[0][0]))
    ]
    return f"""\
User and system time of each kind of process, in microseconds per request:

{table(head, rows)}"""


def cpu_connections(row: PeerRow) -> int:
    """Return at how many connections a row's CPU time is shown."""
    return min(row.connections, key=lambda count: abs(count - CPU_CONNECTIONS), default=0)


def _us(value: float | None) -> str:
    return NONE if value is None else f"{value:,.1f}"


def _memory(results: PeerResults) -> str:
    found = {(one.row, one.server): one for one in results.memory}
    rows = []
    for row in results.rows:
        cells = []
        for key in results.servers:
            one = found.get((row.key, key))
            shares = None if one is None else one.pss_bytes
            cells.append(
                NONE if one is None or shares is None else f"{shares / 2**20:,.0f} ({one.processes})"
            )
        rows.append([row.label, *cells])
    return f"""\
Memory after the warm-up in MiB, the sum of PSS (pages that are shared count by share), in brackets the number
of processes:

{table(("row", *(server.label for server in results.servers.values())), rows)}"""


def _points(results: PeerResults, row: str, server: str, connections: int) -> list[PeerPoint]:
    return [
        point
        for point in results.points
        if (point.row, point.server, point.connections) == (row, server, connections)
    ]
