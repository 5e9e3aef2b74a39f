"""What 10,000 requests that wait on a slow model cost, and how fast the surplus is refused.

`python -m benchmarks.overload` starts `torchrelay serve` on 127.0.0.1, fills the queue of a model whose
handler waits until it is let go, and prints, as docs/overload.md has it: the memory of each process before,
while all wait, and after; how long refusals take, of requests that come evenly and of many at once; how soon
the places of clients that left are free, one by one and thousands at once; whether all that were accepted got
their own answers; and how late this program was itself, and each process for want of a CPU.
"""

import argparse
import asyncio
import gc
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import processes, servers
from benchmarks.results import RunPlan
from benchmarks.timed_clients import TimedClient
from torchrelay.shared import clock
from torchrelay.shared.archives import model_archive

#: Batches while the gate is open take this long; while it is shut the one that runs waits for it.
HANDLER = """
import os, time

def handle(data, context):
    if data is None:
        return None
    time.sleep(float("0.2"))
    while os.path.exists({gate!r}):
        time.sleep(float("0.02"))
    return [bytes(row["body"]) for row in data]
"""
#: Batches that a worker has at a time, since they are short: one that runs, one that is sent ahead.
HELD_BATCHES = 2
#: Batches that show how long one takes before the queue is filled.
SHOWN_BATCHES = 3
#: Requests a second that fill the queue.
FILL_PER_S = 800
#: Of the surplus that comes evenly.
SURPLUS_PER_S = 200
#: How soon another request is tried after one was refused, while the place of a client that left is awaited.
RETRY_S = 0.002
#: Clients that leave between two looks of this program at what has come.
LEAVERS_AT_A_TIME = 50
#: A refusal comes sooner than this by far; who has heard nothing by then has been accepted.
REFUSED_WITHIN_S = 0.5
SETTLED_WITHIN_S = 10 * REFUSED_WITHIN_S
REPLACED_WITHIN_S = 10.0
ANSWERED_WITHIN_S = 300.0
#: Longer than the gate is shut.
RESPONSE_TIMEOUT_S = 3600
CONNECTIONS_AT_A_TIME = 200
#: The page that shows the figures, and the lines that they stand between.
PAGE = Path(__file__).parent.parent / "docs" / "overload.md"
FIGURES, END = "<!-- figures -->\n", "<!-- end of figures -->\n"
#: This program, among the processes that may want for a CPU.
LOAD_GENERATOR = "this program"


@dataclass(frozen=True)
class OverloadPlan:
    """How many come; the defaults are the ones to publish."""

    #: They wait, which is all that the queue takes.
    requests: int = 10_000
    #: They come when it is full, evenly.
    surplus: int = 1_000
    #: They come when it is full, at once.
    burst: int = 300
    #: They leave while they wait, one after the other.
    leavers: int = 20
    #: They leave at once.
    leave_at_once: int = 5_000
    batch_size: int = 100
    gateway_processes: int = 2

    @property
    def of_server(self) -> RunPlan:
        """What the server is started with: room for all that come, but in the queue."""
        all_that_come = 2 * (self.requests + self.surplus + self.burst + self.leavers + self.leave_at_once)
        return RunPlan(
            batch_size=self.batch_size,
            job_queue_size=self.requests,
            gateway_processes=self.gateway_processes,
            properties=(f"connection_limit={all_that_come}", f"in_flight_limit_jobs={all_that_come}"),
        )


@dataclass
class Figures:
    """What was measured; times in seconds."""

    accepted: int = 0
    answered: int = 0
    wrong: int = 0
    #: Of the accepted, those of the surplus: a process of the server had been held up.
    above_limit: int = 0
    refusals_s: list[float] = field(default_factory=list)
    burst_refusals_s: list[float] = field(default_factory=list)
    retry_after_s: set[int] = field(default_factory=set)
    places_s: list[float] = field(default_factory=list)
    #: Of those that left at once, for each.
    places_at_once_s: list[float] = field(default_factory=list)
    #: How many came for these places, one for each, and were refused.
    refused_places: int = 0
    answered_in_s: float = 0.0
    #: How late this program sent what was to come evenly, and read refusals that it had.
    sent_late_s: list[float] = field(default_factory=list)
    read_late_s: list[float] = field(default_factory=list)
    #: How long the surplus came, and by role how long processes were without a CPU meanwhile.
    surplus_came_s: float = 0.0
    without_cpu_s: dict[str, float] = field(default_factory=dict)
    #: By moment and role, the process with the most.
    memory: dict[str, dict[str, int]] = field(default_factory=dict)


def freed_after_s(
    left_ns: Sequence[int], seen: Iterable[tuple[int, int]], waiting_before: int
) -> list[float]:
    """Tell for each of those that left how long its place counted as taken.

    `seen`: when an answer came that told how many waited, and how many that was. The first that left has its
    place freed when one less waits.
    """
    freed: list[int] = []
    for came_ns, waiting in seen:
        freed += [came_ns] * (waiting_before - waiting - len(freed))
    return [(at - left) / 1e9 for left, at in zip(left_ns, freed, strict=False)]


@dataclass
class Run:
    """One run against a server that is up."""

    server: servers.StartedServer
    #: While this file is there, the handler waits.
    gate: Path
    load: OverloadPlan
    figures: Figures = field(default_factory=Figures)
    _numbers: int = 0

    async def measure(self) -> Figures:
        """Fill the queue, refuse the surplus, let clients leave, and have the others answered."""
        self._depth_client = await TimedClient.connected(*_place(self.server.management))
        await self._warm_up()
        self._look("before")
        self.gate.touch()
        clients = await self._connect(self.load.requests + HELD_BATCHES * self.load.batch_size)
        await self._ask_evenly(clients, FILL_PER_S)
        await self._until_waiting(self.load.requests)
        self._look("while all wait")
        clients += await self._refuse()
        # Of those in the middle all wait, and none was let in above the limit.
        middle = len(clients) // 2
        for _ in range(self.load.leavers):
            clients.append(await self._leave(clients.pop(middle)))
        clients = await self._leave_at_once(clients)
        self.gate.unlink()
        await self._be_answered(clients)
        self._look("after")
        for client in (*clients, self._depth_client):
            client.leave()
        return self.figures

    async def _warm_up(self) -> None:
        for _ in range(SHOWN_BATCHES):
            clients = await self._connect(self.load.batch_size)
            for client in clients:
                _ask(client)
            await asyncio.gather(*(client.ended for client in clients))
            for client in clients:
                client.leave()

    async def _refuse(self) -> list[TimedClient]:
        """Send more than there is room for, evenly and at once, and time each refusal.

        Return those that wait all the same: what a process of the server that was held up takes in may be
        let in above the limit.
        """
        evenly = await self._connect(self.load.surplus)
        at_once = await self._connect(self.load.burst)
        root, role_of = self.server.process.pid, self.server.contestant.role_of
        before = processes.seconds_without_cpu(root, role_of)
        own_before = processes.own_seconds_without_cpu()
        began = clock.monotonic()
        self.figures.sent_late_s = await self._ask_evenly(evenly, SURPLUS_PER_S)
        await asyncio.wait([client.ended for client in evenly], timeout=SETTLED_WITHIN_S)
        for client in at_once:
            _ask(client)
        await asyncio.wait([client.ended for client in at_once], timeout=SETTLED_WITHIN_S)
        self.figures.surplus_came_s = clock.monotonic() - began
        after = processes.seconds_without_cpu(root, role_of)
        self.figures.without_cpu_s = {role: after[role] - before.get(role, 0) for role in after} | {
            LOAD_GENERATOR: processes.own_seconds_without_cpu() - own_before
        }
        self.figures.refusals_s = _took_s(evenly)
        self.figures.burst_refusals_s = _took_s(at_once)
        answers = [client.answer for client in (*evenly, *at_once) if client.answer is not None]
        self.figures.retry_after_s = {answer.retry_after_s for answer in answers}
        self.figures.read_late_s = [answer.read_late_s for answer in answers]
        waiting = [client for client in (*evenly, *at_once) if client.status == 0]
        self.figures.above_limit = len(waiting)
        return waiting

    async def _leave(self, leaver: TimedClient) -> TimedClient:
        """Let a client go, and return the one that got its place."""
        leaver.leave()
        left_at = clock.monotonic()
        while clock.monotonic() < left_at + REPLACED_WITHIN_S:
            (client,) = await self._connect(1)
            _ask(client)
            asked_at = clock.monotonic()
            await asyncio.wait((client.ended,), timeout=REFUSED_WITHIN_S)
            if not client.ended.done():
                self.figures.places_s.append(asked_at - left_at)
                return client
            client.leave()
            await asyncio.sleep(RETRY_S)
        raise servers.ServerFailed("nobody got the place of a client that left")

    async def _leave_at_once(self, clients: list[TimedClient]) -> list[TimedClient]:
        """Let many clients go at once, see their places freed, and fill these; return all that wait then."""
        if not self.load.leave_at_once:
            return clients
        # The first are with the worker, and have no place in the queue.
        first = (HELD_BATCHES + 1) * self.load.batch_size
        waiting = [client for client in clients[first:] if client.status == 0]
        leavers = waiting[: self.load.leave_at_once]
        going = set(leavers)
        before = await self._depth()
        seen: list[tuple[int, int]] = []
        looking = asyncio.ensure_future(self._see_freed(before - len(leavers), seen))
        left_ns = []
        for start in range(0, len(leavers), LEAVERS_AT_A_TIME):
            for client in leavers[start : start + LEAVERS_AT_A_TIME]:
                left_ns.append(time.time_ns())
                client.leave()
            await asyncio.sleep(0)
        await looking
        self.figures.places_at_once_s = freed_after_s(left_ns, seen, before)
        # As many as left, but for those that had been let in above the limit.
        others = await self._connect(len(leavers) - max(0, before - self.load.requests))
        await self._ask_evenly(others, FILL_PER_S)
        await self._until_waiting(self.load.requests)
        self.figures.refused_places = sum(client.status == 503 for client in others)
        return [client for client in clients if client not in going] + others

    async def _see_freed(self, waiting_then: int, seen: list[tuple[int, int]]) -> None:
        """Note how many wait, again and again, until no more do than that."""
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            while not seen or seen[-1][1] > waiting_then:
                waiting = await self._depth()
                assert self._depth_client.answer is not None
                seen.append((self._depth_client.answer.came_ns, waiting))

    async def _be_answered(self, clients: Sequence[TimedClient]) -> None:
        """Wait for the answers of all that were accepted, and look at them."""
        began = clock.monotonic()
        # Some of the first may have found the queue full; they were many at once, so they aren't timed.
        accepted = [client for client in clients if client.status != 503]
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            await asyncio.gather(*(client.ended for client in accepted))
        self.figures.answered_in_s = clock.monotonic() - began
        good = [client for client in accepted if client.status == 200]
        self.figures.accepted, self.figures.answered = len(accepted), len(good)
        self.figures.wrong = sum(
            client.answer is None or client.answer.body != _body(client.number) for client in good
        )

    async def _ask_evenly(self, clients: Sequence[TimedClient], per_s: int) -> list[float]:
        """Send requests, so many a second; return how late each was sent, for which nothing is caught up."""
        late_s = []
        due = clock.monotonic()
        for client in clients:
            if (left_s := due - clock.monotonic()) > 0:
                await asyncio.sleep(left_s)
            now = clock.monotonic()
            late_s.append(max(0.0, now - due))
            due = max(due + 1 / per_s, now)
            _ask(client)
        return late_s

    async def _connect(self, count: int) -> list[TimedClient]:
        place = _place(self.server.inference)
        clients: list[TimedClient] = []
        while count > 0:
            some = range(self._numbers, self._numbers + min(count, CONNECTIONS_AT_A_TIME))
            self._numbers += len(some)
            count -= len(some)
            clients += await asyncio.gather(*(TimedClient.connected(*place, number) for number in some))
        return clients

    async def _depth(self) -> int:
        """Ask how many jobs wait in the queue."""
        self._depth_client.ask(f"GET /models/{servers.MODEL} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await self._depth_client.ended
        assert self._depth_client.answer is not None
        (version,) = json.loads(self._depth_client.answer.body)
        return int(version["jobQueueStatus"]["pendingRequests"])

    async def _until_waiting(self, jobs: int) -> None:
        """Wait until so many jobs are in the queue, or those that don't come have been refused."""
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            while await self._depth() < jobs:
                await asyncio.sleep(0.1)

    def _look(self, moment: str) -> None:
        most: dict[str, int] = {}
        for process, role in processes.tree(self.server.process.pid, self.server.contestant.role_of):
            most[role] = max(most.get(role, 0), process.memory_info().rss)
        self.figures.memory[moment] = most


def _place(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def _body(number: int) -> bytes:
    return b"%012d" % number


def _ask(client: TimedClient) -> None:
    """Have a client send a body of its own."""
    body = _body(client.number)
    lines = (
        f"POST /predictions/{servers.MODEL} HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(body)}",
    )
    client.ask("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def _took_s(clients: Iterable[TimedClient]) -> list[float]:
    """Return how long the refusals took."""
    return [client.answer.took_s for client in clients if client.answer and client.answer.status == 503]


def table(figures: Figures) -> str:
    """Write what was measured as Markdown."""
    moments = list(figures.memory)
    rows = [f"| process, RSS in MiB | {' | '.join(moments)} |", f"| --- |{' ---: |' * len(moments)}"]
    for role in figures.memory[moments[0]]:
        cells = [f"{figures.memory[moment].get(role, 0) / 2**20:.0f}" for moment in moments]
        rows.append(f"| {role} | {' | '.join(cells)} |")
    said = sorted(figures.retry_after_s) or [0]
    answers = f"{figures.accepted:,}, {figures.answered:,}, {figures.wrong}"
    freed = len(figures.places_at_once_s)
    return "\n".join([
        *rows,
        "",
        "| what | figure |",
        "| --- | ---: |",
        f"| accepted, answered, wrong answers | {answers} |",
        f"| all of them answered after | {figures.answered_in_s:.1f} s |",
        f"| refused, let in above `job_queue_size` "
        f"| {len(figures.refusals_s) + len(figures.burst_refusals_s):,}, {figures.above_limit:,} |",
        f"| Retry-After | {said[0]} to {said[-1]} s |",
        "",
        "| median, 99 %, most | figures |",
        "| --- | ---: |",
        f"| a refusal takes, {SURPLUS_PER_S} a second | {_spread(figures.refusals_s)} |",
        f"| a refusal takes, {len(figures.burst_refusals_s)} at once | {_spread(figures.burst_refusals_s)} |",
        f"| the place of a client that left is another's after | {_spread(figures.places_s)} |",
        f"| a place is free after, {freed:,} clients having left at once "
        f"| {_spread(figures.places_at_once_s)} |",
        f"| this program was late: with sending | {_spread(figures.sent_late_s)} |",
        f"| this program was late: with reading | {_spread(figures.read_late_s)} |",
        "",
        f"{figures.refused_places:,} of those that came for the {freed:,} places were refused. In the "
        f"{figures.surplus_came_s:.1f} s in which the surplus came, processes that could have run waited "
        f"for a CPU for: {_waits(figures.without_cpu_s)}.",
    ])  # fmt: skip


def with_figures(page: str, shown: str) -> str:
    """Return a page with these figures in the place of its own."""
    before, _, rest = page.partition(FIGURES)
    _, found, behind = rest.partition(END)
    assert found, "the page has no place for figures"
    return f"{before}{FIGURES}{shown}\n{END}{behind}"


def _waits(without_cpu_s: dict[str, float]) -> str:
    return ", ".join(
        f"{role} {seconds:.2f} s"
        for role, seconds in without_cpu_s.items()
        if role in ("broker", "gateway process", LOAD_GENERATOR)
    )


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    values = statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))], ordered[-1]
    return ", ".join(f"{1000 * value:.1f}" for value in values) + " ms"


def measure(folder: Path, load: OverloadPlan) -> Figures:
    """Start a server in a folder, and measure."""
    gate = folder / "gate"
    source = folder / "slow.py"
    source.write_text(HANDLER.format(gate=str(gate)))
    config = folder / "model-config.yaml"
    config.write_text(f"responseTimeout: {RESPONSE_TIMEOUT_S}\n")
    store = folder / "store"
    store.mkdir()
    model_archive.create(
        store / servers.ARCHIVE, model_name=servers.MODEL, version="1.0", handler=f"{source}:handle",
        config_file=config,
    )  # fmt: skip
    torchrelay = servers.torchrelay(load.gateway_processes)
    with servers.running(torchrelay, folder / "home", store, load.of_server, loads_model=False) as server:
        server.await_started()
        server.register(load.of_server)
        return asyncio.run(Run(server, gate, load).measure())


def main() -> None:
    """Run it and print the table."""
    plan = OverloadPlan()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=plan.requests, help="how many wait")
    parser.add_argument("--surplus", type=int, default=plan.surplus, help="how many more come, evenly")
    parser.add_argument("--burst", type=int, default=plan.burst, help="how many more come, at once")
    parser.add_argument("--leavers", type=int, default=plan.leavers, help="how many leave one by one")
    parser.add_argument(
        "--leave-at-once", type=int, default=plan.leave_at_once, help="how many leave at once"
    )
    parser.add_argument("--gateway-processes", type=int, default=plan.gateway_processes)
    parser.add_argument("--write", action="store_true", help=f"write the figures into {PAGE.name}")
    asked = vars(parser.parse_args())
    is_written = asked.pop("write")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.disable()  # looking for cycles among thousands of clients would make this program late
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        shown = table(measure(Path(folder), OverloadPlan(**asked)))
    shown += (
        f"\n\n{os.cpu_count()} CPUs; load average {load_before:.1f} before, {os.getloadavg()[0]:.1f} after."
    )
    print(shown)
    if is_written:
        PAGE.write_text(with_figures(PAGE.read_text(), shown))


if __name__ == "__main__":
    main()
