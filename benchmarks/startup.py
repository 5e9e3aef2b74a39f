"""How long starts take, and what replicas cost: `python -m benchmarks.startup`.

Starts torchrelay and TorchServe from an empty folder and again from what that left, until the first
prediction. Then has each start many replicas of a small torch model at once, and reads the memory of every
worker; torchrelay gets a second model with other weights beside the first.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx2
import msgspec
import psutil

from benchmarks import (
    environments,
    hardware,
    interruption,
    processes,
    replica_handler,
    report,
    run,
    servers,
    startup_report,
)
from benchmarks.results import ReplicaRun, RunPlan, StartupPlan, StartupResults
from torchrelay.shared import clock
from torchrelay.shared.archives import model_archive

#: Where the figures of a part go unless it is said: those that are published are of a whole run.
PART = Path("build/startup.json")
QUICK_PLAN = StartupPlan(start_rounds=1, replicas=12)
#: Models, each with weights of its own.
MODELS = ("first", "second")
OURS = "torchrelay"
WORKER = "model worker"
FAILURES = (*run.FAILURES, httpx2.HTTPError)
#: A process of TorchServe's that holds a torch model takes so much, about.
TORCHSERVE_WORKER_BYTES = 250 << 20
#: Of the memory that is there, what replicas may take.
MEMORY_SHARE = 0.8
#: Makes a model's weights in the environment that has torch.
MAKE_WEIGHTS = """
import sys, torch
torch.manual_seed(int(sys.argv[1]))
model = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512))
torch.save(model.state_dict(), sys.argv[2])
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one start of each kind, 12 replicas")
    parser.add_argument("--without-torchserve", action="store_true", help="measure torchrelay alone")
    parser.add_argument("--start-rounds", type=int, help="cold and warm starts")
    parser.add_argument("--replicas", type=int, help="of each model")
    where = f"{startup_report.RESULTS}, or {PART} unless all is measured as published"
    parser.add_argument("--results", type=Path, metavar="FILE", help=where)
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> StartupPlan:
    """Make the plan that the options describe."""
    said = {name: getattr(options, name) for name in ("start_rounds", "replicas")}
    plan = QUICK_PLAN if options.quick else StartupPlan()
    return msgspec.structs.replace(plan, **{name: value for name, value in said.items() if value is not None})


def file_of(options: argparse.Namespace) -> Path:
    """Return where the figures go; to those that are published only if all is measured as planned."""
    is_whole = plan_of(options) == StartupPlan() and not options.without_torchserve
    where: Path = options.results or (startup_report.RESULTS if is_whole else PART)
    return where


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    interruption.interrupt_by_signals()
    try:
        results = measure(options, sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return interruption.INTERRUPTED
    except FAILURES as error:
        print(error, file=sys.stderr)
        return 1
    report.publish(results, file_of(options), startup_report.render(results), startup_report.RESULTS)
    return 0


def measure(options: argparse.Namespace, arguments: Sequence[str]) -> StartupResults:
    """Start everything, one server after the other."""
    plan = plan_of(options)
    load_before = os.getloadavg()[0]
    contestants = [servers.torchrelay(1)]
    python = None
    if not options.without_torchserve:
        servers.require_java()
        venv = environments.make("torchserve")
        contestants.append(servers.torchserve(venv.path, is_quiet=True))
        python = venv.python
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        folder = Path(name)
        store = run.make_store(folder)
        starts, _ = run.measure_starts(contestants, RunPlan(start_rounds=plan.start_rounds), folder, store)
        for number, model in enumerate(MODELS):
            make_archive(store, model, seed=number)
        replicas: list[ReplicaRun] = []
        for contestant in contestants:
            try:
                replicas += _measure_replicas(contestant, folder, store, plan)
            except FAILURES as error:
                if contestant is contestants[0]:
                    raise
                print(f"{contestant.label} is left out: {error}", file=sys.stderr, flush=True)
    return StartupResults(
        taken_at=clock.iso(clock.wall_ms()),
        command=shlex.join(["python", "-m", "benchmarks.startup", *arguments]),
        revision=hardware.revision(),
        machine=hardware.look(python),
        plan=plan,
        load_before=round(load_before, 2),
        servers={contestant.key: contestant.label for contestant in contestants},
        starts=tuple(starts),
        replicas=tuple(replicas),
    )


def make_archive(store: Path, model: str, seed: int) -> None:
    """Write an archive with weights of its own."""
    weights = store.parent / "weights.pt"
    subprocess.run(
        [sys.executable, "-c", MAKE_WEIGHTS, str(seed), str(weights)],
        check=True,
        timeout=servers.START_LIMIT_S,
    )
    model_archive.create(
        store / f"{model}.mar",
        model_name=model,
        version="1.0",
        handler=f"{replica_handler.__file__}:handle",
        extra_files=[weights],
    )


def replicas_that_fit(wanted: int, key: str, free_bytes: int) -> int:
    """Return how many replicas are started: fewer than wanted where there is no memory for TorchServe's."""
    if key == OURS:
        return wanted
    return max(1, min(wanted, int(MEMORY_SHARE * free_bytes / TORCHSERVE_WORKER_BYTES)))


def _measure_replicas(
    contestant: servers.Contestant, folder: Path, store: Path, plan: StartupPlan
) -> list[ReplicaRun]:
    """Start a server and replicas of each model; of TorchServe's one model, since nothing of it is shared."""
    models: tuple[str, ...] = MODELS[:1]
    if contestant.key == OURS:
        models = MODELS
        # More than a node offers by itself.
        slots = str(len(MODELS) * plan.replicas + 1)
        contestant = replace(contestant, command=(*contestant.command, "--slots", slots))
    home = folder / f"replicas-{contestant.key}"
    with servers.running(contestant, home, store, RunPlan(), loads_model=False) as server:
        server.await_started()
        # It has imported what it needs by the time it answers.
        server.register(RunPlan(batch_size=1))
        server.await_prediction()
        return [_start_replicas(server, model, plan) for model in models]


def _start_replicas(server: servers.StartedServer, model: str, plan: StartupPlan) -> ReplicaRun:
    """Have a server start replicas of a model, see that one answers, and read their memory."""
    key, role_of = server.contestant.key, server.contestant.role_of
    replicas = replicas_that_fit(plan.replicas, key, psutil.virtual_memory().available)
    before = {process.pid for process, _ in processes.tree(server.process.pid, role_of)}
    began = clock.monotonic()
    server.register(RunPlan(batch_size=1), model, f"{model}.mar", replicas)
    ready_s = clock.monotonic() - began
    answer = httpx2.post(
        f"{server.inference}/predictions/{model}", content=b"x", timeout=servers.ANSWER_LIMIT_S
    )
    if answer.status_code != httpx2.codes.OK:
        raise servers.ServerFailed(f"{server.contestant.label} answered {answer.status_code}: {answer.text}")
    servers.pause(run.IDLE_S)
    workers = [
        process.pid
        for process, role in processes.tree(server.process.pid, role_of)
        if role == WORKER and process.pid not in before
    ]
    found = ReplicaRun(
        server=key,
        model=model,
        replicas=replicas,
        ready_s=ready_s,
        private_bytes=tuple(processes.memory_of(pid, "Private_Clean", "Private_Dirty") for pid in workers),
        pss_bytes=tuple(processes.memory_of(pid, "Pss") for pid in workers),
    )
    print(
        f"{server.contestant.label:22} {replicas} replicas of the {model} model in {ready_s:.2f} s",
        flush=True,
    )
    return found


if __name__ == "__main__":
    sys.exit(main())
