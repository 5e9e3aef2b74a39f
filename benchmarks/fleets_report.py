"""Makes the section on large fleets of the report."""

from pathlib import Path

from benchmarks.results import FleetResults
from benchmarks.tables import table

RESULTS = Path(__file__).parent / "results" / "fleets.json"


def render(results: FleetResults) -> str:
    """Write the section."""
    fleets = list(dict.fromkeys(row.fleet for row in results.rows))
    rows = {(row.what, row.fleet): row for row in results.rows}
    head = ("", *(f"{fleet}" for fleet in fleets))
    what = list(dict.fromkeys(row.what for row in results.rows))
    each = [[one, *(_us(rows[one, fleet].us_each) for fleet in fleets)] for one in what]
    deciding = [
        [one, *(_us(rows[one, fleet].deciding_us_each) for fleet in fleets)]
        for one in what
        if one.startswith("jobs")
    ]
    longest = [[one, *(f"{rows[one, fleet].longest_ms:.1f}" for fleet in fleets)] for one in what]
    return f"""\
## Large fleets

`{results.command}`, commit {results.revision}, {results.taken_at},
{results.machine.in_words}. The broker's core
with its codec and without sockets, in fleets of so many models x workers of each, on nodes of 1,000; CPU
time. Microseconds for each job, worker, beat or question:

{table(head, each)}

Of a job's, those in which the core decides, without reading and writing messages:

{table(head, deciding)}

The longest turn in milliseconds, in which nobody else is served, with whatever the garbage collector did:

{table(head, longest)}"""


def _us(us: float) -> str:
    return f"{us:,.0f}" if us >= 100 else f"{us:.1f}"
