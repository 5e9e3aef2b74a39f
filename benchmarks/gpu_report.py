"""Makes the section on a GPU of the report. Pure."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.results import GpuPoint, GpuResults
from benchmarks.tables import table

RESULTS = Path(__file__).parent / "results" / "gpu.json"
HEAD = ("batch size", "server images/s", "p50 ms", "p99 ms", "loop images/s", "server / loop",
        "network alone images/s")  # fmt: skip


def render(results: GpuResults) -> str:
    """Write the section."""
    plan = results.plan
    rows = []
    for batch_size in plan.batch_sizes:
        server, loop, alone = (_points(results, batch_size, what) for what in ("server", "bytes", "device"))
        rates = {point.turn: point.load.rate for point in loop}
        ratios = [point.load.rate / rates[point.turn] for point in server if point.turn in rates]
        rows.append([
            str(batch_size),
            _rate(server),
            f"{median(point.load.p50_us for point in server) / 1000:.2f}",
            f"{median(point.load.p99_us for point in server) / 1000:.2f}",
            _rate(loop),
            f"**{median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})",
            _rate(alone),
        ])  # fmt: skip
    return f"""\
## On a GPU

`{results.command}`, commit {results.revision}, {results.taken_at},
{results.device}, {results.machine.in_words}; the load average was
{results.load_before} at the beginning. A network of ResNet-18's layers, width {plan.width}, on images of
{plan.size} x {plan.size} that come as bytes; one worker. The loop makes the same batches of bytes, without a
server; the network alone has them on the device already. Four clients for each row of a batch; medians of
{plan.rounds} rounds of {plan.seconds:g} s, the ratio within rounds:

{table(HEAD, rows)}

{results.wrong} answers differed from the loop's."""


def _points(results: GpuResults, batch_size: int, what: str) -> list[GpuPoint]:
    return [point for point in results.points if (point.batch_size, point.what) == (batch_size, what)]


def _rate(points: Sequence[GpuPoint]) -> str:
    return f"{median(point.load.rate for point in points):,.0f}"
