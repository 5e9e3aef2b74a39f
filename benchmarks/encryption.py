"""What encryption between hosts costs: `python -m benchmarks.encryption`.

Two fleets on hosts of their own, one in clear and one with keys, are loaded in turns (plain secured, secured
plain, ...), so that whatever else the machine does falls on both. What counts is the ratio within each pair.
"""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import encryption_report, hardware, paired_fleets, private_hosts, report, wrk
from benchmarks.paired_fleets import PairedFleet
from benchmarks.results import Check, EncryptionPoint, EncryptionResults, Load, RunPlan
from benchmarks.run import CHECK_S, FAILURES, add_load_options, make_store, plan_of
from torchrelay.shared import clock

BODIES_BYTES = (64, 150_000)
#: Many short pairs: what the machine does between two of them matters less.
PLAN = RunPlan(seconds=2.0, warmup_seconds=2.0, rounds=7, connections=(1, 16, 64))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encryption", description=__doc__)
    add_load_options(parser, PLAN)
    parser.add_argument("--bodies", type=int, nargs="+", default=BODIES_BYTES, metavar="BYTES")
    ways = list(paired_fleets.GATEWAYS)
    parser.add_argument("--gateways", nargs="+", choices=ways, default=ways, help="how it reaches the broker")
    parser.add_argument("--results", type=Path, default=encryption_report.RESULTS, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print the figures, and write no file")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    try:
        wrk.require()
        results = measure(options)
    except (*FAILURES, private_hosts.NoHosts) as error:
        print(error, file=sys.stderr)
        return 1
    text = msgspec.json.format(msgspec.json.encode(results), indent=1)
    if options.json:
        print(text.decode())
    else:
        print(encryption_report.render(results))
        options.results.write_bytes(text + b"\n")
        if options.results == encryption_report.RESULTS:
            report.main()
    wrong = sum(check.wrong for check in results.checks) + sum(one.load.errors for one in results.points)
    if wrong:
        print(f"{wrong} answers were wrong, which makes every rate here worthless", file=sys.stderr)
    return 1 if wrong else 0


def measure(options: argparse.Namespace) -> EncryptionResults:
    """Run both fleets side by side."""
    plan = plan_of(options)
    checks: list[Check] = []
    points: list[EncryptionPoint] = []
    with (
        tempfile.TemporaryDirectory(prefix="encryption-") as folder,
        private_hosts.made(*paired_fleets.HOSTS) as hosts,
        paired_fleets.running(hosts, Path(folder), make_store(Path(folder)), plan) as fleets,
    ):
        for gateway in options.gateways:
            for body_bytes in options.bodies:
                for fleet in fleets.values():
                    _put_load(fleet, gateway, body_bytes, max(plan.connections), plan.warmup_seconds)
                    checks.append(_check(fleet, gateway, body_bytes, max(plan.connections)))
                for connections in plan.connections:
                    for turn in range(plan.rounds):
                        order = [*fleets.values()][:: 1 if turn % 2 == 0 else -1]
                        points += [_time(one, gateway, body_bytes, connections, turn, plan) for one in order]
    return EncryptionResults(
        taken_at=clock.iso(clock.wall_ms()),
        command=shlex.join(["python", "-m", "benchmarks.encryption", *sys.argv[1:]]),
        revision=hardware.revision(),
        machine=hardware.look(None),
        plan=plan,
        checks=tuple(checks),
        points=tuple(points),
    )


def _put_load(fleet: PairedFleet, gateway: str, body_bytes: int, connections: int, seconds: float) -> Load:
    prefix = fleet.load_prefix(gateway)
    return wrk.measure(fleet.url, connections, seconds, body_bytes=body_bytes, prefix=prefix)


def _check(fleet: PairedFleet, gateway: str, body_bytes: int, connections: int) -> Check:
    prefix = fleet.load_prefix(gateway)
    verdict = wrk.check(fleet.url, connections, CHECK_S, body_bytes=body_bytes, prefix=prefix)
    return Check(server=fleet.kind, connections=connections, answers=verdict.answers, wrong=verdict.wrong)


def _time(
    fleet: PairedFleet, gateway: str, body_bytes: int, connections: int, turn: int, plan: RunPlan
) -> EncryptionPoint:
    before = fleet.cpu_seconds(gateway)
    load = _put_load(fleet, gateway, body_bytes, connections, plan.seconds)
    after = fleet.cpu_seconds(gateway)
    print(
        f"{gateway:4} {body_bytes:7} bytes {connections:3} connections {fleet.kind:8}"
        f" {load.rate:8,.0f} requests/s  p50 {load.p50_us / 1000:.2f} ms",
        file=sys.stderr,
    )
    return EncryptionPoint(
        server=fleet.kind,
        connections=connections,
        turn=turn,
        load=load,
        cpu_s={role: seconds - before.get(role, 0.0) for role, seconds in after.items()},
        gateway=gateway,
        body_bytes=body_bytes,
    )


if __name__ == "__main__":
    sys.exit(main())
