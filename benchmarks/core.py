"""How many jobs a second the broker's core handles in one process: codec and machine, no sockets.

`python -m benchmarks.core` prints it. A turn is what the server's loop does for `k` jobs: unpack Submit,
hand out the batch and pack Assign; then unpack Completed and pack Answered. What the peers do in between
is not timed.
"""

import argparse
import gc
from collections.abc import Sequence
from typing import TypeVar

from benchmarks.results import Loop
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

JOBS_PER_MESSAGE = (1, 8, 32)
GATEWAY, NODE, WORKER = b"gateway", b"node", b"worker"
ARCHIVE = "0" * 64
EPOCH = 1
#: Virtual seconds that pass in a turn: housekeeping takes its usual share, nobody is ever late.
TURN_S = 0.0001
BODY = b"torchrelay-64-by" * 4

MessageT = TypeVar("MessageT", bound=m.Message)


class Bench:
    """A core with a gateway, a node and one ready worker, all played here."""

    def __init__(self, batch_size: int) -> None:
        record = VersionRecord("echo", "1.0", "echo.mar", ARCHIVE, 1, "handler", "python", 1, 1,
                               batch_size, 0, 120, 120, loaded_at_startup=False)  # fmt: skip
        # Peers don't beat here, so silence must not count.
        settings = BrokerSettings(state_dir="/nowhere", peer_timeout_s=1e9, job_queue_size=10_000)
        built_in = metrics_config.parse(BUILT_IN_METRICS.read_bytes())
        self._now = 0.0
        self._core = BrokerCore(
            settings, Snapshot((record,), (("echo", "1.0"),)), metrics=Metrics(built_in),
            epoch=EPOCH, now=self._now, wall_ms=0,
            new_sequence_id=lambda: "", claims=Claims(b"secret"),
        )  # fmt: skip
        self._say(GATEWAY, m.HelloGateway(m.PROTOCOL_VERSION, "gateway", 1), 0)
        hello = m.HelloNode(m.PROTOCOL_VERSION, "node", (m.Device("cpu", "cpu"),), 1, ())
        orders = self._say(NODE, hello, 0)
        start = next(order for order in orders if isinstance(order, m.StartWorker))
        self._say(WORKER, m.HelloWorker(m.PROTOCOL_VERSION, start.worker_id, "node", "echo", "1.0", ARCHIVE,
                                        "cpu", 2, start.claim), 0)  # fmt: skip
        meta, _ = codec.pack_request("0" * 36, (("content-type", "application/octet-stream"),),
                                    (("body", "application/octet-stream", BODY),))  # fmt: skip
        self._meta = meta
        self._answer = codec.pack_response(codec.Response(200, "OK", (), BODY))[0]

    def turn(self, jobs: Sequence[int]) -> float:
        """Take jobs through the broker; return the seconds that the broker worked."""
        submit = self._head(
            m.Submit(tuple(m.SubmitItem(job, "echo", None, False, self._meta) for job in jobs))
        )
        sent, submitting_s = self._work(GATEWAY, submit)
        lease = _only(sent, m.Assign)
        completed = self._head(
            m.Completed(lease.lease, 10, tuple(m.CompletedItem(200, self._answer) for _ in lease.items))
        )
        sent, completing_s = self._work(WORKER, completed)
        answered = _only(sent, m.Answered)
        assert len(answered.items) == len(jobs)
        return submitting_s + completing_s

    def _head(self, message: m.Message) -> bytes:
        return codec.encode(message, EPOCH)

    def _work(self, peer: bytes, head: bytes) -> tuple[list[bytes], float]:
        """Do one turn of the server's loop: the part that is timed."""
        self._now += TURN_S
        started = clock.monotonic()
        message, epoch = codec.decode(head)
        effects = self._core.handle((Received(peer, message, epoch),), now=self._now)
        sent = [codec.encode(effect.message, EPOCH) for effect in effects if isinstance(effect, Send)]
        return sent, clock.monotonic() - started

    def _say(self, peer: bytes, message: m.Message, epoch: int) -> list[m.Message]:
        self._now += TURN_S
        event: Event = Received(peer, message, epoch)
        effects = self._core.handle((event,), now=self._now)
        return [effect.message for effect in effects if isinstance(effect, Send)]


def measure(jobs_per_message: int, seconds: float) -> Loop:
    """Run turns for about `seconds` after a tenth of that to warm up."""
    bench = Bench(jobs_per_message)
    jobs = range(jobs_per_message)  # a job's number is free again once it was answered
    with collecting.seldom():  # as in the broker's server
        _turns(bench, jobs, seconds / 10)
        turns, worked_s = _turns(bench, jobs, seconds)
    gc.unfreeze()
    return Loop(
        what="broker core",
        jobs_per_call=jobs_per_message,
        us_per_job=worked_s / turns / jobs_per_message * 1e6,
    )


def _turns(bench: Bench, jobs: Sequence[int], seconds: float) -> tuple[int, float]:
    turns, worked_s = 0, 0.0
    ends_at = clock.monotonic() + seconds
    while turns == 0 or clock.monotonic() < ends_at:
        worked_s += bench.turn(jobs)
        turns += 1
    return turns, worked_s


def _only(sent: list[bytes], kind: type[MessageT]) -> MessageT:
    found = [message for message, _ in map(codec.decode, sent) if isinstance(message, kind)]
    assert len(found) == 1, f"{len(found)} {kind.__name__}"
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the broker's core without sockets.")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each size (default: 2)")
    parser.add_argument("--jobs", type=int, nargs="+", default=JOBS_PER_MESSAGE, help="jobs per message")
    parser.add_argument(
        "--turns",
        type=int,
        metavar="N",
        help="do N turns and time nothing, for tools that count instructions",
    )
    options = parser.parse_args()
    for jobs in options.jobs:
        if options.turns is not None:
            bench = Bench(jobs)
            for _ in range(options.turns):
                bench.turn(range(jobs))
            continue
        loop = measure(jobs, options.seconds)
        print(f"{jobs:3} jobs/message  {loop.us_per_job:7.2f} us/job  {1e6 / loop.us_per_job:9,.0f} jobs/s")


if __name__ == "__main__":
    main()
