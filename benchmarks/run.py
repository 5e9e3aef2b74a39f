"""Measures everything and writes the report: `python -m benchmarks.run`.

Servers are measured in turns, forwards and then backwards (A B B A ...), so that a machine that grows
slower over time is no one's advantage. Everything is bounded in time and stays on 127.0.0.1.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from benchmarks import bare, core, environments, hardware, processes, report, servers, wrk
from benchmarks.results import Check, Point, ProcessFacts, Results, RunPlan, StartUp
from torchrelay.shared import clock
from torchrelay.shared.archives import model_archive
from torchrelay.shared.errors import RelayError

DEFAULT_VENV = environments.ENVIRONMENTS["torchserve"].path
#: Before memory is read: start-up's last allocations and threads are done by then.
IDLE_S = 2.0
CHECK_S = 2.0
LOOP_S = 2.0
#: What ends a run with one line: a tool or a server that did not do what every run needs.
FAILURES = (
    wrk.WrkFailed,
    servers.ServerFailed,
    environments.Unavailable,
    RelayError,
    subprocess.SubprocessError,
    OSError,
)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    plan = RunPlan()
    made = f"environment that has TorchServe; made in build/{DEFAULT_VENV.name} unless given"
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--torchserve-venv", type=Path, metavar="DIR", help=made)
    parser.add_argument("--without-torchserve", action="store_true", help="measure torchrelay alone")
    parser.add_argument("--start-rounds", type=int, default=plan.start_rounds, help="cold and warm starts")
    add_load_options(parser, plan)
    parser.add_argument("--report", type=Path, default=report.REPORT, metavar="FILE")
    parser.add_argument("--results", type=Path, default=report.RESULTS, metavar="FILE")
    return parser.parse_args(arguments)


def add_load_options(parser: argparse.ArgumentParser, plan: RunPlan) -> None:
    """Add the options of every run under load; `plan` has the defaults."""
    parser.add_argument("--seconds", type=float, default=plan.seconds, help="of each timed run")
    parser.add_argument("--warmup-seconds", type=float, default=plan.warmup_seconds, help="of each server")
    parser.add_argument("--rounds", type=int, default=plan.rounds, help="timed runs of each point")
    parser.add_argument("--connections", type=int, nargs="+", default=list(plan.connections))
    parser.add_argument("--gateway-processes", type=int, default=plan.gateway_processes, help="of torchrelay")


def plan_of(options: argparse.Namespace) -> RunPlan:
    """Make the plan that the options of `add_load_options` describe."""
    return RunPlan(
        seconds=options.seconds,
        warmup_seconds=options.warmup_seconds,
        rounds=options.rounds,
        connections=tuple(options.connections),
        gateway_processes=options.gateway_processes,
    )


def main() -> int:
    options = parse()
    try:
        wrk.require()
        results = measure(options)
    except FAILURES as error:
        print(error, file=sys.stderr)
        return 1
    report.write(results, options.results, options.report)
    print(f"Wrote {options.report} and {options.results}")
    if wrong := sum(check.wrong for check in results.checks):
        print(f"{wrong} answers were wrong, which makes every rate here worthless", file=sys.stderr)
        return 1
    return 0


def measure(options: argparse.Namespace) -> Results:
    """Run all benchmarks."""
    plan = msgspec.structs.replace(plan_of(options), start_rounds=options.start_rounds)
    contestants = [servers.torchrelay(plan.gateway_processes)]
    python = None
    if not options.without_torchserve:
        servers.require_java()
        venv = (options.torchserve_venv or environments.make("torchserve").path).absolute()
        python = venv / "bin" / "python"
        contestants += [servers.torchserve(venv), servers.torchserve(venv, is_quiet=True)]
    results = Results(
        taken_at=clock.iso(clock.wall_ms()),
        command=shlex.join(["python", "-m", "benchmarks.run", *sys.argv[1:]]),
        revision=hardware.revision(),
        machine=hardware.look(python),
        plan=plan,
        servers={contestant.key: contestant.label for contestant in contestants},
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        store = make_store(Path(folder))
        starts, facts = measure_starts(contestants[:2], plan, Path(folder), store)
        checks, points = measure_load(contestants, plan, Path(folder), store)
    print("loops without a server")
    loops = [core.measure(jobs, LOOP_S) for jobs in core.JOBS_PER_MESSAGE]
    loops += [bare.measure(rows, LOOP_S / 4) for rows in (1, plan.batch_size)]
    return msgspec.structs.replace(
        results,
        starts=tuple(starts),
        processes=tuple(facts),
        checks=tuple(checks),
        points=tuple(points),
        loops=tuple(loops),
    )


def make_store(folder: Path) -> Path:
    """Make a model store with the archive that every server under test gets."""
    store = folder / "store"
    store.mkdir()
    model_archive.create(
        store / servers.ARCHIVE,
        model_name=servers.MODEL,
        version="1.0",
        handler=f"{Path(__file__).parent / 'echo_handler.py'}:handle",
    )
    return store


def measure_starts(
    contestants: Sequence[servers.Contestant], plan: RunPlan, folder: Path, store: Path
) -> tuple[list[StartUp], list[ProcessFacts]]:
    """Start each server from an empty folder and again from what that left; read its memory once."""
    starts: list[StartUp] = []
    facts: list[ProcessFacts] = []
    for turn in range(plan.start_rounds):
        for contestant in _in_turn(contestants, turn):
            home = folder / f"start-{contestant.key}-{turn}"
            for is_cold in (True, False):
                with servers.running(contestant, home, store, plan, loads_model=True) as server:
                    predicted_s = server.await_prediction()
                    cpu_s = processes.cpu_seconds(server.process.pid, contestant.role_of)
                    started_s = server.await_started()
                    if turn == 0 and not is_cold:
                        servers.pause(IDLE_S)
                        facts += processes.look(contestant.key, server.process.pid, contestant.role_of)
                starts.append(StartUp(server=contestant.key, is_cold=is_cold, started_s=started_s,
                                      predicted_s=predicted_s, cpu_s=cpu_s))  # fmt: skip
                print(f"start  {contestant.label:22} {'cold' if is_cold else 'warm'}  {predicted_s:.2f} s")
    return starts, facts


def measure_load(
    contestants: Sequence[servers.Contestant], plan: RunPlan, folder: Path, store: Path
) -> tuple[list[Check], list[Point]]:
    """Start all servers, check their answers, and time them in turns."""
    checks: list[Check] = []
    points: list[Point] = []
    with ExitStack() as stack:
        up: dict[str, servers.StartedServer] = {}
        for contestant in contestants:
            home = folder / f"load-{contestant.key}"
            server = stack.enter_context(servers.running(contestant, home, store, plan, loads_model=False))
            server.await_started()
            server.register(plan)
            server.await_prediction()
            wrk.measure(server.prediction_url, max(plan.connections), plan.warmup_seconds)
            up[contestant.key] = server
        for connections in plan.connections:
            checks += [_check(server, connections) for server in up.values()]
            for turn in range(plan.rounds):
                for contestant in _in_turn(contestants, turn):
                    points.append(_time(up[contestant.key], connections, turn, plan))
    return checks, points


def _check(server: servers.StartedServer, connections: int) -> Check:
    verdict = wrk.check(server.prediction_url, connections, CHECK_S)
    return Check(
        server=server.contestant.key, connections=connections, answers=verdict.answers, wrong=verdict.wrong
    )


def _time(server: servers.StartedServer, connections: int, turn: int, plan: RunPlan) -> Point:
    role_of = server.contestant.role_of
    before = processes.cpu_seconds(server.process.pid, role_of)
    load = wrk.measure(server.prediction_url, connections, plan.seconds)
    after = processes.cpu_seconds(server.process.pid, role_of)
    print(f"load   {server.contestant.label:22} {connections:4} connections  {load.rate:9,.0f} requests/s")
    spent = {role: round(seconds - before.get(role, 0.0), 2) for role, seconds in after.items()}
    return Point(server=server.contestant.key, connections=connections, turn=turn, load=load, cpu_s=spent)


def _in_turn(contestants: Sequence[servers.Contestant], turn: int) -> Sequence[servers.Contestant]:
    return contestants if turn % 2 == 0 else contestants[::-1]


if __name__ == "__main__":
    sys.exit(main())
