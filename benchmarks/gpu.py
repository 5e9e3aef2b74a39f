"""A network as large as ResNet-18 on a GPU, behind the server and in a loop: `python -m benchmarks.gpu`.

Requests are raw images of 224 x 224; a batch is copied to the GPU once from pinned memory, its classes back
once, and waited for once, in the server's handler as in the loop. Ends with status 3 where there is no GPU;
`--device cpu` runs a small network, to see that everything works.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import httpx2
import msgspec

from benchmarks import gpu_report, hardware, interruption, processes, report, servers, wrk
from benchmarks.peers.started import THREADS
from benchmarks.results import GpuPlan, GpuPoint, GpuResults, Load, RunPlan
from benchmarks.run import FAILURES
from torchrelay.shared import clock
from torchrelay.shared.archives import model_archive
from torchrelay.shared.settings import environment

PROGRAMS = Path(__file__).parent / "peers" / "programs"
#: Where the figures of a part go unless it is said: those that are published are of a whole run on a GPU.
PART = Path("build/gpu.json")
CPU_PLAN = GpuPlan(seconds=1.0, warmup_seconds=1.0, rounds=1, batch_sizes=(4,), size=32, width=8, classes=10)
#: Clients for each row of a batch: one batch runs, and others wait.
CLIENTS_PER_ROW = 4
#: Images that are looked at before anything is timed.
CHECKED_IMAGES = 32
NO_GPU = 3
LOOK = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
LOOK_LIMIT_S = 120.0
ARCHIVE = "images.mar"
HEADERS = {"Content-Type": "application/octet-stream"}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batch-sizes", type=int, nargs="+", metavar="N")
    parser.add_argument("--seconds", type=float, help="of each timed run")
    parser.add_argument("--rounds", type=int, help="timed runs of each point")
    where = f"{gpu_report.RESULTS}, or {PART} unless all is measured as published"
    parser.add_argument("--results", type=Path, metavar="FILE", help=where)
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> GpuPlan:
    """Make the plan that the options describe."""
    plan = GpuPlan() if options.device == "cuda" else CPU_PLAN
    said = {name: getattr(options, name) for name in ("seconds", "rounds") if getattr(options, name)}
    if options.batch_sizes:
        said["batch_sizes"] = tuple(options.batch_sizes)
    return msgspec.structs.replace(plan, **said)


def file_of(options: argparse.Namespace) -> Path:
    """Return where the figures go; to those that are published only if all is measured as planned."""
    where: Path = options.results or (gpu_report.RESULTS if plan_of(options) == GpuPlan() else PART)
    return where


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    interruption.interrupt_by_signals()
    device = gpu_name() if options.device == "cuda" else "CPU"
    if not device:
        print(
            "There is no GPU here that torch can use, so nothing is measured."
            " `python -m benchmarks.gpu --device cpu` runs a small network on the CPU.",
            file=sys.stderr,
        )
        return NO_GPU
    try:
        wrk.require()
        results = measure(options, device, sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return interruption.INTERRUPTED
    except (*FAILURES, httpx2.HTTPError, msgspec.DecodeError) as error:
        print(error, file=sys.stderr)
        return 1
    report.publish(results, file_of(options), gpu_report.render(results), gpu_report.RESULTS)
    errors = sum(point.load.errors for point in results.points)
    if results.wrong or errors:
        print(f"{results.wrong} answers were wrong, {errors} requests failed", file=sys.stderr)
    return 1 if results.wrong or errors else 0


def gpu_name() -> str:
    """Return what the GPU is called that torch would use; nothing where there is none."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK], capture_output=True, text=True, check=False, timeout=LOOK_LIMIT_S
    )
    return done.stdout.strip()


def measure(options: argparse.Namespace, device: str, arguments: Sequence[str]) -> GpuResults:
    """Measure each batch size with a server and a loop of its own."""
    plan = plan_of(options)
    load_before = os.getloadavg()[0]
    points: list[GpuPoint] = []
    wrong = 0
    for batch_size in plan.batch_sizes:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu-")))
            config = folder / "images.json"
            fields = {"size": plan.size, "width": plan.width, "classes": plan.classes}
            config.write_bytes(msgspec.json.encode(fields | {"batch_size": batch_size}))
            loop = stack.enter_context(_loop(config, options.device, folder))
            server = stack.enter_context(_server(config, options.device, batch_size, folder))
            wrong += _count_wrong(server, loop, plan)
            body = folder / "body"
            body.write_bytes(images(1, plan.size)[0])
            _load(server, body, batch_size, plan.warmup_seconds)
            for turn in range(plan.rounds):
                points += _round(server, loop, body, batch_size, turn, plan)
    return GpuResults(
        taken_at=clock.iso(clock.wall_ms()),
        command=shlex.join(["python", "-m", "benchmarks.gpu", *arguments]),
        revision=hardware.revision(),
        machine=hardware.look(None),
        device=device,
        plan=plan,
        load_before=round(load_before, 2),
        wrong=wrong,
        points=tuple(points),
    )


def images(count: int, size: int) -> list[bytes]:
    """Return the first images of `image_network.image`."""
    return [Random(number).randbytes(size * size * 3) for number in range(count)]


@contextmanager
def _loop(config: Path, device: str, folder: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """Start the loop, which waits for what it is to do."""
    command = [sys.executable, str(PROGRAMS / "image_network.py"), str(config), device]
    with (folder / "loop.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**environment(), **THREADS},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # as the server: a kernel shares its time out among sessions
        )
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != b"ready":
                words = (folder / "loop.log").read_text(errors="replace")[-servers.LAST_WORDS_BYTES :]
                raise servers.ServerFailed(f"the loop did not start:\n{words}")
            yield process
        finally:
            process.kill()
            process.wait()


def _told(loop: "subprocess.Popen[bytes]", words: str) -> bytes:
    """Have the loop do something, and return what it says of it."""
    assert loop.stdin is not None
    assert loop.stdout is not None
    loop.stdin.write(f"{words}\n".encode())
    loop.stdin.flush()
    return loop.stdout.readline()


@contextmanager
def _server(config: Path, device: str, batch_size: int, folder: Path) -> Iterator[servers.StartedServer]:
    """Start the server with one worker of the network."""
    store = folder / "store"
    store.mkdir()
    model_archive.create(
        store / ARCHIVE,
        model_name=servers.MODEL,
        version="1.0",
        handler=f"{PROGRAMS / 'image_network.py'}:handle",
        extra_files=[PROGRAMS / "raw_loop.py", PROGRAMS / "served_models.py", config],
    )
    plain = servers.torchrelay(1)
    devices = ("--device", "cpu" if device == "cpu" else "cuda:0")
    contestant = replace(plain, command=(*plain.command, *devices))
    with servers.running(contestant, folder / "home", store, RunPlan(), loads_model=False) as server:
        server.await_started()
        server.register(RunPlan(batch_size=batch_size), archive=ARCHIVE)
        yield server


def _count_wrong(server: servers.StartedServer, loop: "subprocess.Popen[bytes]", plan: GpuPlan) -> int:
    """Compare the server's answers with the loop's; return how many differ."""
    expected = msgspec.json.decode(_told(loop, f"classes {CHECKED_IMAGES}"), type=list[int])
    with httpx2.Client(timeout=servers.ANSWER_LIMIT_S, headers=HEADERS) as http:
        found = [
            http.post(server.prediction_url, content=body).text for body in images(CHECKED_IMAGES, plan.size)
        ]
    return sum(one != str(other) for one, other in zip(found, expected, strict=True))


def _load(server: servers.StartedServer, body: Path, batch_size: int, seconds: float) -> Load:
    return wrk.measure(
        server.prediction_url, CLIENTS_PER_ROW * batch_size, seconds, body_file=body, headers=HEADERS
    )


def _round(
    server: servers.StartedServer,
    loop: "subprocess.Popen[bytes]",
    body: Path,
    batch_size: int,
    turn: int,
    plan: GpuPlan,
) -> Iterator[GpuPoint]:
    for what in ("server", "bytes", "device")[:: 1 if turn % 2 == 0 else -1]:
        cpu_s: dict[str, float] = {}
        if what == "server":
            root, role_of = server.process.pid, server.contestant.role_of
            before = processes.cpu_seconds(root, role_of)
            load = _load(server, body, batch_size, plan.seconds)
            after = processes.cpu_seconds(root, role_of)
            cpu_s = {role: round(spent - before.get(role, 0.0), 2) for role, spent in after.items()}
        else:
            load = msgspec.json.decode(_told(loop, f"{what} {batch_size} {plan.seconds}"), type=Load)
        print(f"batch {batch_size:3}  {what:6}  {load.rate:9,.0f} images/s", file=sys.stderr, flush=True)
        yield GpuPoint(batch_size=batch_size, turn=turn, what=what, load=load, cpu_s=cpu_s)


if __name__ == "__main__":
    sys.exit(main())
