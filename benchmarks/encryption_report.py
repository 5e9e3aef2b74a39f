"""Makes the tables of what encryption costs. Pure."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.results import EncryptionPoint, EncryptionResults
from benchmarks.tables import cpu_by_role, table

RESULTS = Path("benchmarks/results/encryption.json")
KINDS = ("plain", "secured")
#: How a gateway reaches the broker, in words.
GATEWAYS = {"unix": "beside the broker, by the unix socket", "tcp": "on a host of its own"}


def render(results: EncryptionResults) -> str:
    """Write the section."""
    machine, plan = results.machine, results.plan
    answers, wrong = (sum(getattr(one, what) for one in results.checks) for what in ("answers", "wrong"))
    return f"""\
## Encryption between hosts

`{results.command}`, commit {results.revision}, {results.taken_at}, {machine.in_words}.
Two fleets in network namespaces: the node is on a host of its own, with CURVE or in clear
(`--insecure`). They are loaded in turns, {plan.rounds} pairs of runs of {plan.seconds:g} s; the ratio and the
difference are the medians of those within each pair, in brackets the least and the most.

{_load(results)}

CPU time in microseconds per request at {_cpu_connections(results)} connections; libzmq's own threads, which
encrypt, apart:

{_cpu(results)}

Before the timed runs each fleet was sent bodies that were all different: of {answers:,} answers {wrong:,}
were wrong. The namespaces share the machine's cores with the load generator, so that what encryption takes
is taken from everybody; hosts of their own have a core for it."""


def _load(results: EncryptionResults) -> str:
    head = ("gateway", "body", "connections", "plain requests/s", "secured requests/s", "secured / plain",
            "plain p50 ms", "p50 more by ms")  # fmt: skip
    rows = []
    for gateway, body_bytes in _cases(results):
        for connections in results.plan.connections:
            plain, secured = (
                [
                    point.load
                    for point in _points(results, kind, gateway, body_bytes)
                    if point.connections == connections
                ]
                for kind in KINDS
            )
            ratios = [one.rate / other.rate for one, other in zip(secured, plain, strict=True)]
            more_ms = [(one.p50_us - other.p50_us) / 1000 for one, other in zip(secured, plain, strict=True)]
            rows.append([
                GATEWAYS[gateway],
                f"{body_bytes:,}",
                str(connections),
                *(f"{median(load.rate for load in loads):,.0f}" for loads in (plain, secured)),
                f"**{median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})",
                f"{median(load.p50_us for load in plain) / 1000:.2f}",
                f"{median(more_ms):.2f} ({min(more_ms):.2f} to {max(more_ms):.2f})",
            ])  # fmt: skip
    return table(head, rows)


def _cpu(results: EncryptionResults) -> str:
    connections = _cpu_connections(results)
    cases = _cases(results)
    columns = []
    for gateway, body_bytes in cases:
        for kind in KINDS:
            points = _points(results, kind, gateway, body_bytes)
            columns.append(cpu_by_role([point for point in points if point.connections == connections]))
    roles = [role for role in dict.fromkeys(role for column in columns for role in column)
             if any(column.get(role, 0.0) >= 0.05 for column in columns)]  # fmt: skip
    head = ["process", *(f"{gateway}, {body:,} bytes, {kind}" for gateway, body in cases for kind in KINDS)]
    rows = [[role, *(f"{column.get(role, 0.0):.1f}" for column in columns)] for role in roles]
    rows.append(["**all**", *(f"**{sum(column.values()):.1f}**" for column in columns)])
    return table(head, rows)


def _cpu_connections(results: EncryptionResults) -> int:
    return max(results.plan.connections)


def _cases(results: EncryptionResults) -> Sequence[tuple[str, int]]:
    return [*dict.fromkeys((point.gateway, point.body_bytes) for point in results.points)]


def _points(results: EncryptionResults, kind: str, gateway: str, body_bytes: int) -> list[EncryptionPoint]:
    """Return the runs of a case, in the order of their turns."""
    found = [point for point in results.points
             if (point.server, point.gateway, point.body_bytes) == (kind, gateway, body_bytes)]  # fmt: skip
    return sorted(found, key=lambda point: point.turn)
