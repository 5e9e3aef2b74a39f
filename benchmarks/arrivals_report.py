"""Makes the section on batching and latency of the report. Pure."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from benchmarks.results import ArrivalPoint, ArrivalResults
from benchmarks.tables import table

RESULTS = Path(__file__).parent / "results" / "arrivals.json"
NONE = "-"
#: What is within these is equal: two runs of the same server differ by as much.
LATENCY_TOLERANCE, RATE_TOLERANCE = 1.1, 0.97


def load_label(percent: int, clients: int) -> str:
    """Name a load."""
    if percent:
        return f"{percent} %"
    return "1 client" if clients == 1 else f"{clients} clients"


def render(results: ArrivalResults) -> str:
    """Write the section."""
    plan = results.plan
    ours, *others = results.servers
    head = ["requests come", "delay ms"]
    head += [f"{label} {what}" for label in results.servers.values() for what in ("/s", "p50 ms", "p99 ms")]
    head += [f"p50 / p50 of {results.servers[key]}" for key in others]
    rows, worse = [], []
    for percent, clients, delay_ms in _cases(results):
        found = {key: _medians(results, key, percent, clients, delay_ms) for key in results.servers}
        cells = [load_label(percent, clients), str(delay_ms)]
        for rate, p50_ms, p99_ms in found.values():
            cells += [f"{rate:,.0f}", f"{p50_ms:.2f}", f"{p99_ms:.2f}"]
        for key in others:
            cells.append(f"**{found[ours][1] / found[key][1]:.2f}**" if found[key][1] else NONE)
            if _is_worse(found[ours], found[key]):
                worse.append(f"{cells[0]} with {delay_ms} ms ({results.servers[key]})")
        rows.append(cells)
    full = 1000 * plan.batch_size / (plan.batch_ms + plan.row_ms * plan.batch_size)
    late_ms = max((point.late_p99_us for point in results.points), default=0.0) / 1000
    lost = sum(point.asked - point.answered for point in results.points)
    verdict = "In no row is torchrelay worse" if not worse else f"torchrelay is worse at {', '.join(worse)}"
    compared = f"{verdict}, within the spread of runs." if others else ""
    asked = sum(point.asked for point in results.points)
    return f"""\
## Batching and latency

`{results.command}`, commit {results.revision}, {results.taken_at},
{results.machine.in_words}; the load average was
{results.load_before} at the beginning. One worker; a batch takes {plan.batch_ms:g} ms, and
{plan.row_ms:g} ms for each request, without the CPU, so that full batches of {plan.batch_size} are
{full:,.0f} requests/s. Requests come by a Poisson process at a part of that, the same ones to each server,
or from clients that ask again when they are answered; delay is `max_batch_delay`. Medians of
{plan.rounds} runs of {plan.seconds:g} s:

{table(head, rows)}

{compared} Of {asked:,} requests {lost} had no right answer. The load
generator was late by {late_ms:.1f} ms at most, for 99 of 100 of a run."""


def _cases(results: ArrivalResults) -> list[tuple[int, int, int]]:
    """Return percent, clients and delay of each row."""
    found = [(point.load_percent, point.clients, point.delay_ms) for point in results.points]
    return list(dict.fromkeys(found))


def _medians(
    results: ArrivalResults, server: str, percent: int, clients: int, delay_ms: int
) -> tuple[float, float, float]:
    """Return answers a second, p50 and p99 in milliseconds."""
    points = [
        point
        for point in results.points
        if (point.server, point.load_percent, point.clients, point.delay_ms)
        == (server, percent, clients, delay_ms)
    ]
    return (
        _median(points, lambda point: point.answered / point.seconds),
        _median(points, lambda point: point.p50_us / 1000),
        _median(points, lambda point: point.p99_us / 1000),
    )


def _median(points: Sequence[ArrivalPoint], value: Callable[[ArrivalPoint], float]) -> float:
    return median(map(value, points)) if points else 0.0


def _is_worse(ours: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    return (
        ours[0] < RATE_TOLERANCE * other[0]
        or ours[1] > LATENCY_TOLERANCE * other[1]
        or ours[2] > LATENCY_TOLERANCE * other[2]
    )
