"""The worker process: loads one model, runs batches one after another, and answers.

One thread does it all. While it runs a batch, zmq's own thread takes in the next, and nothing beats: the
broker knows the lease's deadline, and the node sees the process end.
"""

import logging
import os
import signal
import sys
from pathlib import Path
from types import TracebackType

import msgspec
import torch

from shared import clock, wire
from shared import messages as m
from worker.faults import is_out_of_memory, one_line
from worker.link import Link
from worker.loader import load, make_room
from worker.orders import LastWords, WorkerSpec
from worker.runner import Runner
from worker.session import Batch, Leases, Payload, Session

logger = logging.getLogger(__name__)

#: How long the last answer and the goodbye have to leave.
FAREWELL_S = 0.5


class StopSignal:
    """SIGTERM, as an fd to wait on: whatever waits wakes at once."""

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe()
        self.is_set = False
        signal.signal(signal.SIGTERM, self._set)

    def _set(self, *_: object) -> None:
        if not self.is_set:
            self.is_set = True
            os.write(self._writer, b"x")


class Worker:
    """A loaded model and its link to the broker."""

    def __init__(self, spec: WorkerSpec, runner: Runner, link: Link, stop: StopSignal) -> None:
        self._spec = spec
        self._runner = runner
        self._link = link
        self._stop = stop
        self._session = Session(clock.monotonic())
        self._leases = Leases()
        self._batches_done = 0

    def serve(self) -> None:
        """Run batches until told to stop; then say goodbye, which hands back what is held."""
        while not self._stop.is_set:
            if not self._take_in():
                return
            self._send_answers()
            self._keep_in_touch()
            batch = self._leases.next_batch()
            if batch is not None:
                self._run(batch)
            else:
                self._link.wait(self._session.next_wake() - clock.monotonic())
        self._send_answers()
        self._link.send(m.Bye("told to stop"), self._session.epoch)

    def _take_in(self) -> bool:
        """Take in every message that came; return False if the broker has no use for this worker."""
        while received := self._link.receive():
            message, epoch, frames = received
            match self._session.heard(message, epoch, clock.monotonic()):
                case m.Assign() as batch:
                    self._accept(batch, frames)
                case m.Welcome(is_new=True):
                    self._leases.forget()
                case m.Leave(reason):
                    logger.info("worker.leaves: %s", reason)
                    return False
                case m.Misunderstood(reason):
                    logger.error("worker.misunderstood: %s", reason)
        return True

    def _accept(self, batch: m.Assign, frames: list[memoryview]) -> None:
        try:
            parts = wire.split_frames([item.frames for item in batch.items], frames)
        except wire.WireError as error:
            # Left unanswered: that this worker is idle tells the broker that the batch is lost.
            logger.error("batch.unreadable: %s", error)
            return
        jobs = [(item.meta, part) for item, part in zip(batch.items, parts, strict=True)]
        self._leases.assigned(Batch(batch.lease, batch.is_describe, jobs))

    def _run(self, batch: Batch) -> None:
        responses, handler_us = self._runner.run(batch.jobs, is_describe=batch.is_describe)
        items, answer_frames = [], list[Payload]()
        for response in responses:
            meta, own_frames = wire.pack_response(response)
            items.append(m.CompletedItem(response.status, meta, len(own_frames)))
            answer_frames += own_frames
        self._leases.completed(m.Completed(batch.lease, handler_us, tuple(items)), answer_frames)
        self._batches_done += 1
        self._send_answers()

    def _send_answers(self) -> None:
        while answer := self._leases.next_answer():
            if not self._link.send(answer[0], self._session.epoch, answer[1]):
                return
            self._leases.answer_sent()

    def _keep_in_touch(self) -> None:
        now = clock.monotonic()
        match self._session.due(now):
            case "hello":
                if not self._link.send(self._hello(), 0):
                    self._session.hello_unsent(now)
            case "beat" if self._leases.is_idle:
                self._link.send(m.WorkerBeat(self._batches_done), self._session.epoch)

    def _hello(self) -> m.HelloWorker:
        start = self._spec.start
        return m.HelloWorker(
            protocol=m.PROTOCOL_VERSION,
            worker_id=start.worker_id,
            node=self._spec.node,
            model=start.model,
            version=start.version,
            archive=start.archive,
            device=start.device,
            pid=os.getpid(),
        )


class _ReportsFailure:
    """Writes what goes wrong inside it to the node, and lets it go on: Python prints the traceback."""

    def __init__(self, status_fd: int) -> None:
        self._status_fd = status_fd

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            words = LastWords(one_line(error), is_out_of_memory(error))
            os.write(self._status_fd, msgspec.json.encode(words))
        os.close(self._status_fd)


def is_cuda_initialized() -> bool:
    """Tell whether this process has touched a GPU, after which no fork of it could."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]  # torch's


def run(spec: WorkerSpec, status_fd: int) -> int:
    """Load the model and serve it; return the exit code. Raises what the model's code raises on load."""
    # As TorchServe has it, so that what handlers log looks the same.
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    torch.set_num_threads(spec.threads)
    model_dir = Path(spec.model_dir)
    os.chdir(model_dir)
    start = spec.start
    with _ReportsFailure(status_fd):
        ours = make_room(model_dir)
        model = load(start, model_dir)
    runner = Runner(
        model, decode_input=start.decode_input_request, response_limit_bytes=start.max_response_bytes
    )
    stop = StopSignal()
    link = Link(spec.broker_address, "worker", wake_fd=stop.fd)
    Worker(spec, runner, link, stop).serve()
    link.close(FAREWELL_S)
    del ours  # our modules, kept alive until here
    return 0
