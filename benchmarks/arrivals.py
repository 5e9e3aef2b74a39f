"""What `max_batch_delay` does to requests that come by themselves: `python -m benchmarks.arrivals`.

A model's batches take 4 ms and 1 ms for each request, without the CPU, as on an accelerator. Requests come to
it by a Poisson process, at several parts of what full batches can do, the same ones to each server; and from
one and from eight clients that ask again when they are answered. An answer is timed by the kernel, at the
client's socket.
"""

import argparse
import asyncio
import gc
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import msgspec

from benchmarks import (
    arrivals_report,
    batch_timed_handler,
    environments,
    hardware,
    interruption,
    report,
    servers,
)
from benchmarks.results import ArrivalPlan, ArrivalPoint, ArrivalResults, RunPlan
from benchmarks.run import FAILURES
from benchmarks.timed_clients import TimedClient
from torchrelay.shared import clock
from torchrelay.shared.archives import model_archive

#: Where the figures of a part go unless it is said: those that are published are of a whole run.
PART = Path("build/arrivals.json")
QUICK_PLAN = ArrivalPlan(seconds=1.5, settling_s=0.5, warmup_seconds=1.5, rounds=1)
#: Clients of the warm-up: full batches, and the JVM compiles what is hot.
WARMUP_CLIENTS = 32
ANSWER_LIMIT_S = 30.0
#: Connections that are there when a run begins; where all wait for answers, more are made.
CONNECTIONS = 128


@dataclass(frozen=True)
class OfferedLoad:
    """Who asks: a Poisson process, at so many percent of what full batches do, or so many clients."""

    percent: int = 0
    clients: int = 0

    @property
    def label(self) -> str:
        """What it is called."""
        return arrivals_report.load_label(self.percent, self.clients)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arrivals", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: a minute and a half")
    parser.add_argument("--without-torchserve", action="store_true", help="measure torchrelay alone")
    parser.add_argument("--seconds", type=float, help="of each timed run")
    parser.add_argument("--rounds", type=int, help="timed runs of each point")
    parser.add_argument("--delays-ms", type=int, nargs="+", metavar="MS", help="values of max_batch_delay")
    parser.add_argument("--loads-percent", type=int, nargs="*", metavar="N", help="of full batches")
    parser.add_argument("--clients", type=int, nargs="*", metavar="N", help="that wait for their answers")
    where = f"{arrivals_report.RESULTS}, or {PART} unless all is measured as published"
    parser.add_argument("--results", type=Path, metavar="FILE", help=where)
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> ArrivalPlan:
    """Make the plan that the options describe."""
    plan = QUICK_PLAN if options.quick else ArrivalPlan()
    names = ("seconds", "rounds", "delays_ms", "loads_percent", "clients")
    said = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return msgspec.structs.replace(
        plan, **{name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    )


def file_of(options: argparse.Namespace) -> Path:
    """Return where the figures go; to those that are published only if all is measured as planned."""
    is_whole = plan_of(options) == ArrivalPlan() and not options.without_torchserve
    where: Path = options.results or (arrivals_report.RESULTS if is_whole else PART)
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
    report.publish(results, file_of(options), arrivals_report.render(results), arrivals_report.RESULTS)
    lost = sum(point.asked - point.answered for point in results.points)
    if lost:
        print(f"{lost} requests had no right answer", file=sys.stderr)
    return 1 if lost else 0


def measure(options: argparse.Namespace, arguments: Sequence[str]) -> ArrivalResults:
    """Start the servers and time them in turns, forwards and backwards."""
    plan = plan_of(options)
    load_before = os.getloadavg()[0]
    contestants = [servers.torchrelay(1)]
    python = None
    if not options.without_torchserve:
        venv = environments.make("torchserve")
        contestants.append(servers.torchserve(venv.path, is_quiet=True))
        python = venv.python
    points: list[ArrivalPoint] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="arrivals-")))
        store = make_store(folder, plan)
        up = [stack.enter_context(_started(one, folder, store, plan)) for one in contestants]
        for load in loads(plan):
            for delay_ms in plan.delays_ms:
                for turn in range(plan.rounds):
                    in_turn = up[:: 1 if turn % 2 == 0 else -1]
                    points += [_time(server, delay_ms, load, turn, plan) for server in in_turn]
    return ArrivalResults(
        taken_at=clock.iso(clock.wall_ms()),
        command=shlex.join(["python", "-m", "benchmarks.arrivals", *arguments]),
        revision=hardware.revision(),
        machine=hardware.look(python),
        plan=plan,
        load_before=round(load_before, 2),
        servers={contestant.key: contestant.label for contestant in contestants},
        points=tuple(points),
    )


def loads(plan: ArrivalPlan) -> list[OfferedLoad]:
    """Return the loads that are measured."""
    return [OfferedLoad(percent=percent) for percent in plan.loads_percent] + [
        OfferedLoad(clients=clients) for clients in plan.clients
    ]


def full_rate(plan: ArrivalPlan) -> float:
    """Return how many requests a second one worker answers in full batches."""
    return 1000 * plan.batch_size / (plan.batch_ms + plan.row_ms * plan.batch_size)


def due_s(rate: float, seconds: float, seed: int) -> list[float]:
    """Return when requests come in so many seconds by a Poisson process."""
    chance = Random(seed)
    times: list[float] = []
    at = chance.expovariate(rate)
    while at < seconds:
        times.append(at)
        at += chance.expovariate(rate)
    return times


def make_store(folder: Path, plan: ArrivalPlan) -> Path:
    """Make a model store with the archive."""
    times = folder / "times_s"
    times.write_text(f"{plan.batch_ms / 1000} {plan.row_ms / 1000}\n")
    store = folder / "store"
    store.mkdir()
    model_archive.create(
        store / servers.ARCHIVE,
        model_name=servers.MODEL,
        version="1.0",
        handler=f"{batch_timed_handler.__file__}:handle",
        extra_files=[times],
    )
    return store


@dataclass
class Arrivals:
    """A run against one model of a server: who asks, and what came."""

    host: str
    port: int
    model: str
    #: When the window in which answers count begins and ends.
    counts_from: float
    counts_until: float
    asked: int = 0
    took_us: list[float] = field(default_factory=list)
    late_us: list[float] = field(default_factory=list)
    _idle: list[TimedClient] = field(default_factory=list)
    _all: list[TimedClient] = field(default_factory=list)
    _number: int = 0
    _waiting: int = 0

    async def by_themselves(self, times_s: Sequence[float], begins_at: float) -> None:
        """Ask at each of these times, whatever has become of what was asked before."""
        self._idle = [await self._connected() for _ in range(CONNECTIONS)]
        for at_s in times_s:
            due = begins_at + at_s
            if (left_s := due - clock.monotonic()) > 0:
                await asyncio.sleep(left_s)
            client = self._idle.pop() if self._idle else await self._connected()
            self._ask(client, due)
        await self._until_answered()

    async def by_clients(self, count: int) -> None:
        """Have so many clients ask again and again."""
        for client in [await self._connected() for _ in range(count)]:
            self._ask(client, clock.monotonic(), again=True)
        await asyncio.sleep(max(0.0, self.counts_until - clock.monotonic()))
        await self._until_answered()

    async def _connected(self) -> TimedClient:
        client = await TimedClient.connected(self.host, self.port)
        self._all.append(client)
        return client

    def _ask(self, client: TimedClient, due: float, *, again: bool = False) -> None:
        self._number += 1
        body = b"%012d" % self._number
        lines = (
            f"POST /predictions/{self.model} HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/octet-stream",
            f"Content-Length: {len(body)}",
        )
        now = clock.monotonic()
        counts = self.counts_from <= now < self.counts_until
        if counts:
            self.asked += 1
            self.late_us.append(1e6 * (now - due))
        client.ask("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        self._waiting += 1

        def ended(_: object) -> None:
            self._waiting -= 1
            answer = client.answer
            is_right = answer is not None and (answer.status, answer.body) == (200, body)
            if counts and is_right and answer is not None:
                self.took_us.append(1e6 * answer.took_s)
            if again and clock.monotonic() < self.counts_until:
                self._ask(client, clock.monotonic(), again=True)
            elif answer is not None:
                self._idle.append(client)

        client.ended.add_done_callback(ended)

    async def _until_answered(self) -> None:
        deadline = clock.monotonic() + ANSWER_LIMIT_S
        # What isn't answered by then has no right answer.
        while self._waiting and clock.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for client in self._all:
            client.leave()


def _model(delay_ms: int) -> str:
    return f"delay-{delay_ms}"


@contextmanager
def _started(
    contestant: servers.Contestant, folder: Path, store: Path, plan: ArrivalPlan
) -> Iterator[servers.StartedServer]:
    """Start a server with a model of one worker for each delay, and warm it up."""
    home = folder / contestant.key
    with servers.running(contestant, home, store, RunPlan(), loads_model=False) as server:
        server.await_started()
        for delay_ms in plan.delays_ms:
            batching = RunPlan(batch_size=plan.batch_size, max_batch_delay_ms=delay_ms)
            server.register(batching, _model(delay_ms))
        for delay_ms in plan.delays_ms:
            warm_up = msgspec.structs.replace(plan, settling_s=0.0, seconds=plan.warmup_seconds)
            asyncio.run(_run(server, delay_ms, warm_up, clients=WARMUP_CLIENTS))
        say(f"{contestant.label} is up")
        yield server


async def _run(
    server: servers.StartedServer,
    delay_ms: int,
    plan: ArrivalPlan,
    *,
    load_percent: int = 0,
    clients: int = 0,
) -> Arrivals:
    place = urlsplit(server.inference)
    assert place.hostname is not None
    assert place.port is not None
    begins_at = clock.monotonic() + 0.1
    counts_from = begins_at + plan.settling_s
    arrivals = Arrivals(place.hostname, place.port, _model(delay_ms), counts_from, counts_from + plan.seconds)
    if clients:
        await arrivals.by_clients(clients)
    else:
        rate = full_rate(plan) * load_percent / 100
        times_s = due_s(rate, plan.settling_s + plan.seconds, plan.seed)
        await arrivals.by_themselves(times_s, begins_at)
    return arrivals


def _time(
    server: servers.StartedServer, delay_ms: int, load: OfferedLoad, turn: int, plan: ArrivalPlan
) -> ArrivalPoint:
    gc.collect()
    gc.disable()  # looking for cycles would make this program late
    found = asyncio.run(_run(server, delay_ms, plan, load_percent=load.percent, clients=load.clients))
    gc.enable()
    point = ArrivalPoint(
        server=server.contestant.key,
        delay_ms=delay_ms,
        load_percent=load.percent,
        clients=load.clients,
        turn=turn,
        asked=found.asked,
        answered=len(found.took_us),
        seconds=plan.seconds,
        p50_us=percentile(found.took_us, 50),
        p99_us=percentile(found.took_us, 99),
        late_p99_us=percentile(found.late_us, 99),
    )
    p50_ms, p99_ms = point.p50_us / 1000, point.p99_us / 1000
    say(
        f"{server.contestant.label:22} {load.label:10} delay {delay_ms:4} ms"
        f"  {point.answered / plan.seconds:6.0f}/s  p50 {p50_ms:7.2f} ms  p99 {p99_ms:7.2f} ms"
    )
    return point


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that so many percent are not above, to a tenth; 0 of none."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 1) if ordered else 0.0


def say(words: str) -> None:
    """Tell the person who waits what goes on."""
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
