"""What the tables of all reports share. Pure."""

from collections.abc import Iterable, Sequence

from benchmarks.results import Point


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table; every column but the first is aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def cpu_by_role(points: Sequence[Point]) -> dict[str, float]:
    """Return each role's CPU time per request in microseconds, over all given runs together."""
    requests = sum(point.load.requests for point in points)
    roles = dict.fromkeys(role for point in points for role in point.cpu_s)
    return {role: sum(point.cpu_s.get(role, 0.0) for point in points) / requests * 1e6 for role in roles}
