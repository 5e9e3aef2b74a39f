"""Makes `docs/performance.md` of a run's results; `python -m benchmarks.report` does it again from the JSON.

Pure but for `write` and `main`.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

import msgspec

from benchmarks import (
    arrivals_report,
    encryption_report,
    fleets_report,
    gpu_report,
    peers_report,
    startup_report,
)
from benchmarks.results import (
    ArrivalResults,
    EncryptionResults,
    FleetResults,
    GpuResults,
    Load,
    PeerResults,
    Point,
    ProcessFacts,
    Record,
    Results,
    StartupResults,
    as_json,
)
from benchmarks.tables import cpu_by_role, table

REPORT = Path("docs/performance.md")
RESULTS = Path("benchmarks/results/performance.json")
#: Where CPU time is shown: enough clients for full batches, not so many that queues are all one sees.
CPU_CONNECTIONS = 64

Found = TypeVar("Found")

WHAT_A_REQUEST_COSTS = """\
## What a request costs

For whoever wants to make it cheaper: thousands of instructions of a 64-byte echo that comes alone, counted by
callgrind as the difference of two lengths, so that they are the same on a busy machine. Kernel, libzmq and
uvloop are not in it.

| process | step | instructions, thousands |
| --- | --- | ---: |
| gateway | parser, connection, exchange | 64 |
| gateway | listener: request id, foreign pages, head | 22 |
| gateway | falcon: routes, request, response | 21 |
| gateway | body and its type | 9 |
| gateway | job packed | 12 |
| gateway | session and link, messages there and back | 135 |
| gateway | **all** (181 where 64 connections ask) | **263** |
| broker | **core, with four messages read or written** (77 in batches of 16) | **288** |
| worker | message read, batch taken in | 42 |
| worker | request unpacked, row made | 50 |
| worker | handler called, answer made | 36 |
| worker | answer packed, kept and sent | 24 |
| worker | **all**, with the loop's turns (88 in batches of 16) | **233** |

A lone request takes much longer than so many instructions do: while it waits for the others, a process finds
its code, its data and above all the core's predictions of branches gone. The gateway's share, repeated by
itself, takes 34 us; where four processes do it in turns on one core, 108 us; where these have Python's
library at the same addresses, 70 to 84 us. For whole servers started so (`setarch -R`), a lone request's p50
went from 0.66 to 0.54 ms, with 16 to 20 % less CPU. So for one request it counts how much different code is
run, not how often. Its messages wake twelve threads: between bare sockets, without any of our code, that
takes 0.2 ms.

What was tried, and did not show in CPU time or p50 on two cores: looking for messages again and again before
sleeping, leaving the core to others in between (1.7 times the CPU, the same p50); polling the sockets' file
descriptors instead of by libzmq's poller, which saves 2 or 3 polls of a request in broker and worker; sending
a lone request before the loop's turn ends (at 16 connections it sends more messages)."""

HOW_TO_READ = """\
## How to read this

- The load generator shares the cores with the server, so on a small machine the figures are what server
  and clients do together. Ratios travel to other machines better than rates do.
- Each connection sends its next request when the answer to the last has come (a closed loop): with more
  connections latency grows while the rate stays. wrk corrects its percentiles for requests that a slow
  answer kept from being sent.
- Which build of Python it is counts: by one that was made with profile-guided optimisation, as those of
  distributions and of the images are, torchrelay answered 1.09 to 1.15 times as much (batch 16, 1 to 64
  connections, in pairs) as by one that was made without, which is what pyenv does unless told otherwise.
  By Python 3.14.7, made as 3.11.2 was, it answered 0.98, 0.92 and 0.94 times as much (batch 16; 1, 16 and 64
  connections, 10 pairs).
- With one connection no batch can fill. TorchServe waits out `max_batch_delay` each time; torchrelay stops
  waiting once nobody has shared a few batches.
- TorchServe logs several lines for each request unless it is told not to; "logs off" is TorchServe with a
  log configuration that writes errors alone. torchrelay logs no requests.
- Servers were measured in turns, forwards and backwards. The spread is the slowest and the fastest run;
  two medians closer than their spreads are equal.
- CPU time comes from the kernel's counters, in steps of 10 ms per process."""


def write(results: Results, raw: Path, report: Path) -> None:
    """Write the results as JSON and as a report.

    It has a section on each other benchmark whose figures lie beside these.
    """
    for path in (raw, report):
        path.parent.mkdir(parents=True, exist_ok=True)
    raw.write_bytes(as_json(results))
    encryption = _beside(raw, encryption_report.RESULTS, EncryptionResults)
    peers = _beside(raw, peers_report.RESULTS, PeerResults)
    fleets = _beside(raw, fleets_report.RESULTS, FleetResults)
    arrivals = _beside(raw, arrivals_report.RESULTS, ArrivalResults)
    startup = _beside(raw, startup_report.RESULTS, StartupResults)
    gpu = _beside(raw, gpu_report.RESULTS, GpuResults)
    report.write_text(render(results, encryption, peers, fleets, arrivals, startup, gpu))


def _beside(raw: Path, file: Path, kind: type[Found]) -> Found | None:
    found = raw.with_name(file.name)
    return msgspec.json.decode(found.read_bytes(), type=kind) if found.exists() else None


def render(
    results: Results,
    encryption: EncryptionResults | None = None,
    peers: PeerResults | None = None,
    fleets: FleetResults | None = None,
    arrivals: ArrivalResults | None = None,
    startup: StartupResults | None = None,
    gpu: GpuResults | None = None,
) -> str:
    """Write the whole report."""
    sections = [_top(results), _load(results), _cpu(results),
                arrivals_report.render(arrivals) if arrivals else "",
                startup_report.render(startup) if startup else _starts(results), _memory(results),
                gpu_report.render(gpu) if gpu else "",
                encryption_report.render(encryption) if encryption else "", _loops(results),
                fleets_report.render(fleets) if fleets else "", WHAT_A_REQUEST_COSTS, HOW_TO_READ,
                peers_report.render(peers) if peers else ""]  # fmt: skip
    return "\n\n".join(section for section in sections if section) + "\n"


def summarise(loads: Sequence[Load]) -> tuple[str, str, str, str, str]:
    """Write the runs of one point: median rate, its spread, median p50 and p99, and errors of all runs."""
    rates = [load.rate for load in loads]
    errors, requests = sum(load.errors for load in loads), sum(load.requests for load in loads)
    return (
        _count(median(rates)),
        f"{_count(min(rates))} to {_count(max(rates))}",
        _ms(median(load.p50_us for load in loads)),
        _ms(median(load.p99_us for load in loads)),
        "0" if errors == 0 else f"{errors} of {requests}",
    )


def ratio(ours: Sequence[Load], theirs: Sequence[Load]) -> str:
    """Write how many times as many requests a second the first ones answer, by their medians."""
    return f"{median(load.rate for load in ours) / median(load.rate for load in theirs):.2f}"


def _top(results: Results) -> str:
    machine, plan = results.machine, results.plan
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    facts = [
        ("CPU", f"{machine.cpu}, {machine.cores} cores for everything, load generator included"),
        ("memory", f"{machine.memory_bytes / 2**30:.1f} GiB"),
        ("kernel", machine.kernel),
        ("Python", machine.python),
        ("versions", versions),
        ("commit", results.revision),
        ("taken at", results.taken_at),
    ]
    return f"""\
# Performance

Written by

    {results.command}

The figures behind it are in `{RESULTS}`; `benchmarks/README.md` tells how it is
done, and how to do it on another machine. The handler only returns what it was given, so these are the
costs of the servers themselves; a model's own time comes on top of them.

{table(("machine", ""), facts)}

One model with one worker; `batch_size` {plan.batch_size}, `max_batch_delay` {plan.max_batch_delay_ms} ms,
`job_queue_size` {plan.job_queue_size}, torchrelay with `--gateway-processes {plan.gateway_processes}`.
The archive and `config.properties` are the same for all, everything else is default."""


def _load(results: Results) -> str:
    ours, *others = results.servers
    head = ["connections", results.servers[ours], *(results.servers[key] for key in others)]
    head += [f"torchrelay / {results.servers[key]}" for key in others]
    short, long = [], []
    for connections in results.plan.connections:
        loads = {key: [point.load for point in _points(results, key, connections)] for key in results.servers}
        rows = {key: summarise(loads[key]) for key in results.servers}
        ratios = [f"**{ratio(loads[ours], loads[key])}**" for key in others]
        short.append([str(connections), *(row[0] for row in rows.values()), *ratios])
        long += [[results.servers[key], str(connections), *row] for key, row in rows.items()]
    details = ("server", "connections", "requests/s", "spread", "p50 ms", "p99 ms", "errors")
    return f"""\
## Echo under load

64-byte body, `POST /predictions/echo`, kept-alive connections, each with one request at a time. Requests
per second, medians of {results.plan.rounds} runs of {results.plan.seconds:g} s:

{table(head, short)}

{table(details, long)}

{_checks(results)}"""


def _checks(results: Results) -> str:
    answers = sum(check.answers for check in results.checks)
    wrong = sum(check.wrong for check in results.checks)
    return f"""\
Before each block of timed runs every server was sent bodies that were all different. Of {answers:,} answers
{wrong:,} were anything else than status 200 with the body of an open request."""


def _cpu(results: Results) -> str:
    connections = min(results.plan.connections, key=lambda count: abs(count - CPU_CONNECTIONS))
    rows = []
    for key, label in results.servers.items():
        spent = cpu_by_role(_points(results, key, connections))
        rows += [[f"{label}: {role}", f"{us:.1f}"] for role, us in spent.items() if us >= 0.05]
        rows.append([f"{label}: **all**", f"**{sum(spent.values()):.1f}**"])
    return f"""\
## CPU time per request

At {connections} connections, user and system time of each process in microseconds per request:

{table(("process", "us/request"), rows)}"""


def _starts(results: Results) -> str:
    found = startup_report.starts(results.starts, results.servers, results.plan.start_rounds)
    return f"## Start-up\n\n{found}"


def _memory(results: Results) -> str:
    rows = []
    for key, label in results.servers.items():
        facts = [fact for fact in results.processes if fact.server == key]
        rows += [[f"{label}: {fact.role}", *_memory_cells([fact])] for fact in facts]
        if facts:
            rows.append([f"{label}: **all**", *_memory_cells(facts)])
    return f"""\
## Memory when idle

After one prediction, in MiB. RSS counts pages that processes share in each of them, PSS by share: the sum
of PSS is what a server takes. `libtorch` tells whether any library of torch is mapped into the process:
torchrelay loads it under the node alone.

{table(("process", "RSS", "PSS", "libtorch"), rows)}"""


def _memory_cells(facts: Sequence[ProcessFacts]) -> list[str]:
    shares = [fact.pss_bytes for fact in facts if fact.pss_bytes is not None]
    pss = _mib(sum(shares)) if len(shares) == len(facts) else "unreadable"
    return [_mib(sum(f.rss_bytes for f in facts)), pss, "yes" if any(f.has_torch for f in facts) else "no"]


def _loops(results: Results) -> str:
    if not results.loops:
        return ""
    rows = [
        [loop.what, str(loop.jobs_per_call), f"{loop.us_per_job:.2f}", _count(1e6 / loop.us_per_job)]
        for loop in results.loops
    ]
    return f"""\
## Without sockets

The broker's core with its codec (`python -m benchmarks.core`), by the number of jobs that a message
carries; and the echo handler called in a plain loop, by the number of rows:

{table(("what", "jobs at once", "us/job", "jobs/s"), rows)}"""


def _points(results: Results, server: str, connections: int) -> list[Point]:
    return [point for point in results.points if (point.server, point.connections) == (server, connections)]


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _ms(us: float) -> str:
    return f"{us / 1000:.2f}"


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f}"


def publish(results: Record, file: Path, section: str, published: Path) -> None:
    """Write figures and print their section; put it into the report if they are to be published."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(as_json(results))
    print(section)
    if file.resolve() == published.resolve():
        main()


def main() -> None:
    write(msgspec.json.decode(RESULTS.read_bytes(), type=Results), RESULTS, REPORT)
    print(f"Wrote {REPORT}")


if __name__ == "__main__":
    main()
