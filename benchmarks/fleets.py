"""How long a turn of the broker's core takes in large fleets: `python -m benchmarks.fleets`.

A fleet is played here, without sockets: its nodes join, its workers load, jobs run one after the other and
many at a time, everybody beats, questions are asked, and a host is cut off and comes back with what it holds.
What is timed is the CPU time of the broker's turns, codec and machine: none may take long, since all wait
for it, and a job must cost much the same however many workers and models there are.
"""

import argparse
import gc
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks import fleets_report, hardware, report
from benchmarks.core import ARCHIVE, BODY, EPOCH
from benchmarks.results import FleetResults, FleetRow, as_json
from torchrelay.broker import collecting
from torchrelay.broker.core import metrics_config
from torchrelay.broker.core.effects import Send
from torchrelay.broker.core.events import Event, Received
from torchrelay.broker.core.machine import BrokerCore
from torchrelay.broker.core.torchserve_metrics import Metrics
from torchrelay.broker.fleet.worker_claims import Claims
from torchrelay.broker.models.records import Snapshot, VersionRecord
from torchrelay.broker.server import BUILT_IN_METRICS
from torchrelay.shared import clock
from torchrelay.shared.settings import BrokerSettings
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

#: Models, and workers of each.
FLEETS = ("1x1", "1x1000", "1000x1", "10x1000", "10000x1")
SLOTS_PER_NODE = 1000
GATEWAY = b"gateway"
#: Virtual seconds that pass in a turn with a message.
TURN_S = 0.0001
_WHERE = f"for docs/performance.md as {fleets_report.RESULTS}"
#: Turns in which nothing comes until the core must have come to rest.
TURNS_LIMIT = 100_000


class PlayedFleet:
    """A core with a gateway, nodes and workers that say what those would."""

    def __init__(self, models: int, workers_each: int) -> None:
        self._names = [f"model{number}" for number in range(models)]
        self._total = models * workers_each
        records = tuple(
            VersionRecord(name, "1.0", f"{name}.mar", ARCHIVE, 1, "handler", "python", workers_each,
                          workers_each, 1, 0, 120, 120, loaded_at_startup=False) for name in self._names
        )  # fmt: skip
        settings = BrokerSettings(state_dir="/nowhere", job_queue_size=10_000, own_metrics=True)
        self._now = 0.0
        self._core = BrokerCore(
            settings, Snapshot(records, tuple((name, "1.0") for name in self._names)),
            metrics=Metrics(metrics_config.parse(BUILT_IN_METRICS.read_bytes())),
            epoch=EPOCH, now=self._now, wall_ms=0, new_sequence_id=lambda: "", claims=Claims(b"secret"),
        )  # fmt: skip
        self._meta, _ = codec.pack_request(
            "0" * 36, (("content-type", "application/octet-stream"),),
            (("body", "application/octet-stream", BODY),),
        )  # fmt: skip
        self._answer = codec.pack_response(codec.Response(200, "OK", (), BODY))[0]
        self._collections = collecting.Collections(self._now)
        #: What the broker did last, in seconds of CPU, turn by turn.
        self._turns: list[float] = []
        #: Of these, what it took to decide.
        self._deciding: list[float] = []
        #: Workers that run, with what they were started by; and what each of them was given.
        self._workers: dict[bytes, m.StartWorker] = {}
        self._node_of: dict[bytes, bytes] = {}
        self._starting: deque[tuple[bytes, m.StartWorker]] = deque()
        self._assigned: deque[tuple[bytes, m.Assign]] = deque()
        self._answered = 0
        self._replies: list[m.Message] = []
        self._beat = 0
        self._nodes = [b"node%d" % number for number in range(-(-self._total // SLOTS_PER_NODE))]

    def rows(self, name: str, jobs: int) -> Iterator[FleetRow]:
        """Go through a fleet's life."""
        on_a_host = min(self._total, SLOTS_PER_NODE)
        questions: tuple[m.Question, ...] = (
            m.ReadMetrics(1), m.ReadFleet(1), m.ReadHealth(1), m.ReadReadiness(1),
            m.ListModels(1, 100, 0), m.DescribeModel(1, self._names[-1], None, False),
        )  # fmt: skip
        parts: list[tuple[str, Callable[[], None], int]] = [
            ("all start", self._start, self._total),
            ("jobs, one at a time", partial(self._jobs, jobs, 1), jobs),
            ("jobs, half of the workers busy", partial(self._jobs, jobs, self._total // 2 or 1), jobs),
            ("three seconds of beats", partial(self._beats, 3), 3 * self._total),
            *((type(question).__name__, partial(self._ask, question), 1) for question in questions),
            ("a host is cut off", self._lose_a_host, on_a_host),
            ("it comes back", self._return_the_host, on_a_host),
        ]
        for what, work, per in parts:
            if self._workers:
                self._beats(1)  # nobody is silent for long, though it takes no time to say so here
                self._collections.go_on(self._now)  # as the broker's server does when there is nothing to do
            yield self._row(name, what, work, per)

    def _row(self, fleet: str, what: str, work: Callable[[], None], per: int) -> FleetRow:
        self._turns, self._deciding = [], []
        work()

        def each(turns: list[float]) -> float:
            # What a sweep or beats take is no job's, and has a row of its own.
            return 1e6 * (2 * median(turns) if what.startswith("jobs") else sum(turns) / per)

        return FleetRow(
            fleet=fleet, what=what, turns=len(self._turns), us_each=each(self._turns),
            deciding_us_each=each(self._deciding), longest_ms=max(self._turns) * 1e3,
        )  # fmt: skip

    # What is played

    def _start(self) -> None:
        self._say(GATEWAY, m.HelloGateway(m.PROTOCOL_VERSION, "gateway", 1))
        for node in self._nodes:
            self._join(node, ())
        self._load()
        assert len(self._workers) == self._total, f"{len(self._workers)} of {self._total} workers"

    def _join(self, node: bytes, held: Iterable[m.HeldWorker]) -> None:
        self._say(node, m.HelloNode(m.PROTOCOL_VERSION, node.decode(), (m.Device("cpu", "cpu"),),
                                    SLOTS_PER_NODE, tuple(held)))  # fmt: skip

    def _load(self) -> None:
        """Let the workers that were ordered be ready, until no more are."""
        self._rest()
        while self._starting:
            node, start = self._starting.popleft()
            peer = b"worker%d" % start.worker_id
            self._workers[peer], self._node_of[peer] = start, node
            self._hello(peer)
            self._rest()

    def _hello(self, peer: bytes) -> None:
        start = self._workers[peer]
        self._say(peer, m.HelloWorker(
            m.PROTOCOL_VERSION, start.worker_id, self._node_of[peer].decode(), start.model, start.version,
            start.archive, "cpu", 2, start.claim,
        ))  # fmt: skip

    def _jobs(self, count: int, at_a_time: int) -> None:
        at_a_time = min(at_a_time, count // 2)
        answered = self._answered
        for number in range(count):
            name = self._names[number % len(self._names)]
            item = m.SubmitItem(number, name, None, False, self._meta)
            self._say(GATEWAY, m.Submit((item,)))
            if number + 1 >= at_a_time:
                self._answer_one()
        while self._assigned:
            self._answer_one()
        assert self._answered == answered + count

    def _answer_one(self) -> None:
        peer, lease = self._assigned.popleft()
        item = m.CompletedItem(200, self._answer)
        self._say(peer, m.Completed(lease.lease, 10, (item,) * len(lease.items)))

    def _beats(self, seconds: int) -> None:
        """Let everybody beat once a second, each at its own time."""
        for _ in range(seconds):
            ends_at = self._now + 1.0
            peers = [GATEWAY, *self._nodes, *self._workers]
            for peer in peers:
                self._say_beat(peer, (ends_at - self._now) / len(peers))
            self._pass(ends_at)

    def _say_beat(self, peer: bytes, passing_s: float) -> None:
        self._pass(self._now + passing_s)
        if peer == GATEWAY:
            self._say(peer, m.GatewayBeat({"2xx": 1}))
        elif peer in self._workers:
            self._say(peer, m.WorkerBeat((), self._beat))
        else:
            held = [
                start.worker_id for worker, start in self._workers.items() if self._node_of[worker] == peer
            ]
            self._say(peer, m.NodeBeat(tuple((number, 1 << 24) for number in held)))

    def _ask(self, question: m.Question) -> None:
        self._replies.clear()
        self._say(GATEWAY, question)
        self._rest()
        assert self._replies, question
        assert getattr(self._replies[-1], "is_last", True), question

    def _lose_a_host(self) -> None:
        """Let a host's node and workers be silent while all others beat."""
        lost = self._nodes[0]
        peers = [peer for peer in (GATEWAY, *self._nodes, *self._workers)
                 if lost not in (peer, self._node_of.get(peer))]  # fmt: skip
        for _ in range(5):
            ends_at = self._now + 1.0
            for peer in peers:
                self._say_beat(peer, (ends_at - self._now) / len(peers))
            self._pass(ends_at)
        self._starting.clear()
        assert self._core.fleet.nodes.get(lost) is None

    def _return_the_host(self) -> None:
        node = self._nodes[0]
        mine = [peer for peer in self._workers if self._node_of[peer] == node]
        self._join(node, [m.HeldWorker(start.worker_id, start.model, start.version, start.archive, "cpu", 2,
                                       start.claim, devices=("cpu",))
                          for start in map(self._workers.__getitem__, mine)])  # fmt: skip
        self._rest()
        for peer in mine:
            self._hello(peer)
        self._load()
        ready = sum(len(self._core.fleet.ready((name, "1.0"))) for name in self._names)
        assert ready == self._total, f"{ready} of {self._total} workers"

    # The broker's loop

    def _say(self, peer: bytes, message: m.Message) -> None:
        self._now += TURN_S
        self._turn(peer, codec.encode(message, EPOCH))

    def _pass(self, until: float) -> None:
        """Let time pass in which nothing comes."""
        while (wake := self._core.next_wake()) < until:
            self._now = max(self._now, wake)
            self._turn()
        self._now = max(self._now, until)

    def _rest(self) -> None:
        """Have the turns that the core wants at once."""
        for _ in range(TURNS_LIMIT):
            if self._core.next_wake() > self._now:
                return
            self._turn()
        raise AssertionError("the core does not come to rest")

    def _turn(self, peer: bytes = b"", head: bytes = b"") -> None:
        began = time.thread_time()
        came: tuple[Event, ...] = ()
        if head:
            message, epoch = codec.decode(head)
            came = (Received(peer, message, epoch),)
        decides = time.thread_time()
        effects = self._core.handle(came, now=self._now)
        self._deciding.append(time.thread_time() - decides)
        sent = [effect for effect in effects if isinstance(effect, Send)]
        for effect in sent:
            codec.encode(effect.message, EPOCH)
        self._turns.append(time.thread_time() - began)
        for effect in sent:
            self._take(effect)

    def _take(self, sent: Send) -> None:
        match sent.message:
            case m.StartWorker():
                self._starting.append((sent.peer, sent.message))
            case m.Assign():
                self._assigned.append((sent.peer, sent.message))
            case m.Answered(items):
                self._answered += len(items)
            case m.Beat(number):
                self._beat = number
            case m.Welcome() | m.StopWorker():
                pass
            case _:
                self._replies.append(sent.message)


def measure(fleet: str, jobs: int) -> Iterator[FleetRow]:
    """Play a fleet of so many models x workers."""
    models, workers = map(int, fleet.split("x"))
    with collecting.seldom():  # as in the broker's server
        yield from PlayedFleet(models, workers).rows(fleet, jobs)
    gc.unfreeze()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleets", description=__doc__)
    parser.add_argument("--fleet", nargs="+", default=FLEETS, metavar="MODELSxWORKERS")
    parser.add_argument("--jobs", type=int, default=2000, help="jobs of each kind (default: 2000)")
    parser.add_argument("--results", type=Path, metavar="FILE", help=f"write the figures, {_WHERE}")
    options = parser.parse_args()
    rows: list[FleetRow] = []
    for fleet in options.fleet:
        for row in measure(fleet, options.jobs):
            print(f"{row.fleet:>8}  {row.what:32} {row.us_each:10.1f} us each  {row.turns:7} turns, "
                  f"the longest {row.longest_ms:8.2f} ms", flush=True)  # fmt: skip
            rows.append(row)
    if options.results:
        results = FleetResults(
            taken_at=clock.iso(clock.wall_ms()),
            command=shlex.join(["python", "-m", "benchmarks.fleets", *sys.argv[1:]]),
            revision=hardware.revision(),
            machine=hardware.look(None),
            rows=tuple(rows),
        )
        options.results.write_bytes(as_json(results))
        if options.results.resolve() == fleets_report.RESULTS.resolve():
            report.main()


if __name__ == "__main__":
    main()
