"""What 10,000 requests that wait on a slow model cost, and how fast the surplus is refused.

`python -m benchmarks.overload` starts `torchrelay serve` on 127.0.0.1, fills the queue of a model whose
handler waits until it is let go, and prints: the memory of each process before, while all wait, and after;
how long a refusal takes; how soon the place of a client that left is another's; and whether all that were
accepted got their own answers.
"""

import argparse
import asyncio
import resource
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx

from benchmarks import processes, servers
from benchmarks.results import RunPlan
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
#: Requests a second that fill the queue: where so many come at once that their gateway is held up, what it
#: took in meanwhile is let in above the limit.
FILL_PER_S = 800
#: Surplus requests a second: what is timed is a refusal, not how fast this program makes connections.
SURPLUS_PER_S = 200
#: How soon another request is tried after one was refused, while the place of a client that left is awaited.
RETRY_S = 0.002
#: A refusal comes sooner than this by far; who has heard nothing by then has been accepted.
REFUSED_WITHIN_S = 0.5
REPLACED_WITHIN_S = 10.0
ANSWERED_WITHIN_S = 300.0
#: Longer than the gate is shut.
RESPONSE_TIMEOUT_S = 3600
CONNECTIONS_AT_A_TIME = 200


class TimedClient(asyncio.Protocol):
    """A connection that asks for one thing."""

    def __init__(self, number: int) -> None:
        self.body = b"%012d" % number
        self.status = 0
        self.retry_after_s = 0
        self.is_own_answer = False
        self.took_s = 0.0
        self._asked_at = 0.0
        self._came = b""
        self.transport: asyncio.Transport
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection; nothing is asked yet."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self) -> None:
        """Send the request."""
        self._asked_at = clock.monotonic()
        lines = (
            f"POST /predictions/{servers.MODEL} HTTP/1.1",
            "Host: localhost",
            f"Content-Length: {len(self.body)}",
        )
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + self.body)

    def data_received(self, data: bytes) -> None:
        """Take the answer in; it ends with its body."""
        self._came += data
        head, found, body = self._came.partition(b"\r\n\r\n")
        if not found:
            return
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if len(body) < int(headers[b"content-length"]) or self.ended.done():
            return
        self.took_s = clock.monotonic() - self._asked_at
        self.status = int(head[9:12])
        self.retry_after_s = int(headers.get(b"retry-after", 0))
        self.is_own_answer = body == self.body
        self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count as ended without an answer."""
        if not self.ended.done():
            self.ended.set_result(None)


@dataclass(frozen=True)
class OverloadPlan:
    """How many come; the defaults are the ones to publish."""

    #: They wait, which is all that the queue takes.
    requests: int = 10_000
    #: They come when it is full.
    surplus: int = 1_000
    #: They leave while they wait.
    leavers: int = 20
    batch_size: int = 100
    gateway_processes: int = 2

    @property
    def of_server(self) -> RunPlan:
        """What the server is started with: room for all that come, but in the queue."""
        all_that_come = 2 * (self.requests + self.surplus + self.leavers)
        return RunPlan(
            batch_size=self.batch_size,
            job_queue_size=self.requests,
            gateway_processes=self.gateway_processes,
            properties=(f"connection_limit={all_that_come}", f"in_flight_limit_jobs={all_that_come}"),
        )


@dataclass
class Figures:
    """What was measured."""

    accepted: int = 0
    answered: int = 0
    wrong: int = 0
    refusals_s: list[float] = field(default_factory=list)
    retry_after_s: set[int] = field(default_factory=set)
    places_s: list[float] = field(default_factory=list)
    answered_in_s: float = 0.0
    #: By moment and role, the process with the most.
    memory: dict[str, dict[str, int]] = field(default_factory=dict)


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
        await self._warm_up()
        self._look("before")
        self.gate.touch()
        clients = await self._connect(self.load.requests + HELD_BATCHES * self.load.batch_size)
        for start in range(0, len(clients), FILL_PER_S // 20):
            _ask(clients[start : start + FILL_PER_S // 20])
            await asyncio.sleep(1 / 20)
        await self._until_waiting(self.load.requests)
        self._look("while all wait")
        clients += await self._refuse()
        # Of those in the middle all wait, and none was let in above the limit.
        middle = len(clients) // 2
        replaced = [await self._leave(clients.pop(middle)) for _ in range(self.load.leavers)]
        self.gate.unlink()
        began = clock.monotonic()
        # Some of the first may have found the queue full; they were many at once, so they aren't timed.
        accepted = [client for client in (*clients, *replaced) if client.status != 503]
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            await asyncio.gather(*(client.ended for client in accepted))
        self.figures.answered_in_s = clock.monotonic() - began
        self.figures.accepted = len(accepted)
        self.figures.answered = sum(client.status == 200 for client in accepted)
        self.figures.wrong = sum(client.status == 200 and not client.is_own_answer for client in accepted)
        self._look("after")
        for client in accepted:
            client.transport.close()
        return self.figures

    async def _warm_up(self) -> None:
        for _ in range(SHOWN_BATCHES):
            clients = await self._connect(self.load.batch_size)
            _ask(clients)
            await asyncio.gather(*(client.ended for client in clients))
            for client in clients:
                client.transport.close()

    async def _refuse(self) -> list[TimedClient]:
        """Send more than there is room for, evenly, and time each refusal.

        Return those that wait all the same: what a gateway that was held up has taken in is let in above
        the limit.
        """
        clients = await self._connect(self.load.surplus)
        for client in clients:
            client.ask()
            await asyncio.sleep(1 / SURPLUS_PER_S)
        await asyncio.wait([client.ended for client in clients], timeout=10 * REFUSED_WITHIN_S)
        refused = [client for client in clients if client.status == 503]
        self.figures.refusals_s = [client.took_s for client in refused]
        self.figures.retry_after_s = {client.retry_after_s for client in refused}
        return [client for client in clients if client.status != 503]

    async def _leave(self, leaver: TimedClient) -> TimedClient:
        """Let a client go, and return the one that got its place."""
        leaver.transport.abort()
        left_at = clock.monotonic()
        while clock.monotonic() < left_at + REPLACED_WITHIN_S:
            (client,) = await self._connect(1)
            client.ask()
            asked_at = clock.monotonic()
            await asyncio.wait((client.ended,), timeout=REFUSED_WITHIN_S)
            if not client.ended.done():
                self.figures.places_s.append(asked_at - left_at)
                return client
            await asyncio.sleep(RETRY_S)
        raise servers.ServerFailed("nobody got the place of a client that left")

    async def _connect(self, count: int) -> list[TimedClient]:
        loop = asyncio.get_running_loop()
        host, port = self.server.inference.removeprefix("http://").split(":")
        clients: list[TimedClient] = []
        while count > 0:
            some = range(self._numbers, self._numbers + min(count, CONNECTIONS_AT_A_TIME))
            self._numbers += len(some)
            count -= len(some)
            made = await asyncio.gather(
                *(loop.create_connection(partial(TimedClient, number), host, int(port)) for number in some)
            )
            clients += [client for _, client in made]
        return clients

    async def _until_waiting(self, jobs: int) -> None:
        """Wait until so many jobs are in the queue; a gateway that was held up is let in with some more."""
        async with asyncio.timeout(ANSWERED_WITHIN_S), httpx.AsyncClient() as http:
            while True:
                answer = await http.get(f"{self.server.management}/models/{servers.MODEL}")
                status = answer.json()[0]["jobQueueStatus"]
                if status["pendingRequests"] >= jobs:
                    return
                await asyncio.sleep(0.1)

    def _look(self, moment: str) -> None:
        most: dict[str, int] = {}
        for process, role in processes.tree(self.server.process.pid, self.server.contestant.role_of):
            most[role] = max(most.get(role, 0), process.memory_info().rss)
        self.figures.memory[moment] = most


def _ask(clients: Sequence[TimedClient]) -> None:
    for client in clients:
        client.ask()


def table(figures: Figures) -> str:
    """Write what was measured as Markdown."""
    moments = list(figures.memory)
    rows = [f"| process, RSS in MiB | {' | '.join(moments)} |", f"| --- |{' ---: |' * len(moments)}"]
    for role in figures.memory[moments[0]]:
        cells = [f"{figures.memory[moment].get(role, 0) / 2**20:.0f}" for moment in moments]
        rows.append(f"| {role} | {' | '.join(cells)} |")
    said = sorted(figures.retry_after_s) or [0]
    answers = f"{figures.accepted:,}, {figures.answered:,}, {figures.wrong}"
    return "\n".join([
        *rows,
        "",
        "| what | figure |",
        "| --- | ---: |",
        f"| accepted, answered, wrong answers | {answers} |",
        f"| all of them answered after | {figures.answered_in_s:.1f} s |",
        f"| refused | {len(figures.refusals_s):,} |",
        f"| a refusal takes (median, 99 %, most) | {_spread(figures.refusals_s)} |",
        f"| Retry-After | {said[0]} to {said[-1]} s |",
        f"| the place of a client that left is another's after (median, 99 %, most) "
        f"| {_spread(figures.places_s)} |",
    ])  # fmt: skip


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
    parser.add_argument("--surplus", type=int, default=plan.surplus, help="how many more come")
    parser.add_argument("--leavers", type=int, default=plan.leavers, help="how many leave")
    parser.add_argument("--gateway-processes", type=int, default=plan.gateway_processes)
    asked = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder:
        print(table(measure(Path(folder), OverloadPlan(**vars(asked)))))


if __name__ == "__main__":
    main()
