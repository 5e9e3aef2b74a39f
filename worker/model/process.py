"""The worker process: loads one model, runs what it is assigned, and answers.

One thread does it all. While a handler runs, zmq's own thread takes in what comes, and nothing beats: the
broker knows the lease's deadline, and the node sees the process end. Only async handlers run beside the
link, on one event loop with it.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType, TracebackType

import msgspec

from torchrelay.shared import clock, settings
from torchrelay.shared.containment import first_fault
from torchrelay.shared.processes.patient_threads import PatientThreads
from torchrelay.shared.processes.returned_memory import give_back_free_memory, keep_some_free_memory
from torchrelay.shared.quoting import quoted
from torchrelay.shared.recent_mean import recent_mean
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m
from torchrelay.worker.common import broker_keys_file
from torchrelay.worker.common.broker_socket import BrokerSocket, Received
from torchrelay.worker.common.handler_errors import is_out_of_memory, one_line
from torchrelay.worker.common.measuring import POINTS_PER_MESSAGE, Measuring
from torchrelay.worker.common.peer_session import PeerSession
from torchrelay.worker.launcher.launcher_protocol import LastWords, LoadingPhase, WorkerSpec
from torchrelay.worker.model import launcher_traces, loaded_torch, ranks
from torchrelay.worker.model.async_engine import Engine, engine_for
from torchrelay.worker.model.coalescing import Coalescing
from torchrelay.worker.model.engines import Share, ended_sequences
from torchrelay.worker.model.held_leases import HeldLeases, batches_of
from torchrelay.worker.model.loading import LoadedModel, hide_our_modules, load, server_config
from torchrelay.worker.model.readiness import Readiness
from torchrelay.worker.model.runner import Runner
from torchrelay.worker.model.streaming import Part
from torchrelay.worker.model.warmup import warm_up

logger = logging.getLogger(__name__)

#: How long the last answer and the Bye, or the last part of a stream, have to leave.
LAST_SENDS_S = 1.0
#: Parts of answers in one message: with all that may be inline they are far below the limit of a head.
PARTS_PER_MESSAGE = 64
#: How often it looks for messages between batches that are here, and between parts of an answer. PERF: a look
#: takes 4 us between batches, the short ones of which take 40, and 12 between parts, which take 30.
RECEIVE_INTERVAL_S = 0.0001

#: A service manager may send either to every process of a service.
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """SIGTERM or SIGINT, as an fd to wait on: whatever waits wakes at once."""

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe()
        self.is_set = False
        #: What they do without us, and do again in what a handler forks: it has this pipe, too.
        self._before = {number: signal.signal(number, self._set) for number in _STOP_SIGNALS}
        # Nor is one lost that comes before it has let go.
        hold = partial(signal.pthread_sigmask, signal.SIG_BLOCK, _STOP_SIGNALS)
        self._release = partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, _STOP_SIGNALS)
        os.register_at_fork(before=hold, after_in_parent=self._release, after_in_child=self._let_go)

    def _let_go(self) -> None:
        for number, before in self._before.items():
            if signal.getsignal(number) == self._set:  # else it is the handler's own
                signal.signal(number, before)
        self._release()

    def _set(self, *_: object) -> None:
        if not self.is_set:
            self.is_set = True
            os.write(self._writer, b"x")


class WorkerLoop:
    """The loop of a worker: receives batches, has its engine run them, sends answers and beats."""

    def __init__(
        self,
        spec: WorkerSpec,
        runner: Runner,
        socket: BrokerSocket,
        stop: StopSignal,
        readiness: Readiness | None = None,
    ) -> None:
        self._spec = spec
        self._socket = socket
        self._stop = stop
        #: Of a handler that says whether it is ready.
        self._readiness = readiness
        #: Set by `serve`.
        self._engine: Engine | None = None
        self._session = PeerSession(clock.monotonic())
        self.leases = HeldLeases()
        self._coalescing = Coalescing()
        self._patient_threads = PatientThreads()
        #: How long the handler takes over a batch; before the first, long.
        self._handler_s = 1.0
        #: When to look at the socket though there is a batch to begin.
        self._receive_at = 0.0
        self._measuring: Measuring = runner.measuring
        self._end_header = runner.sequence_headers.end
        #: False once the broker has said that it has no use for this worker.
        self._is_wanted = True
        #: Set on an event loop alone: what came, or was sent, must be looked after.
        self._woken: asyncio.Event | None = None

    def serve(self, engine: Engine) -> None:
        """Run what comes until told to stop; then send Bye, so that others get what has not begun."""
        self._engine = engine
        while self._is_wanted and (not self._stop.is_set or self.leases.has_begun):
            self._turn()
            if self._is_wanted and not engine.work():
                self._socket.wait(self._next_wake() - clock.monotonic())
        self._leave()

    async def serve_async(self, engine: Engine) -> None:
        """Do the same beside what the engine runs on the event loop."""
        self._engine = engine
        loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._socket.watch(loop, self._woken.set)
        loop.add_reader(self._stop.fd, self._see_stop)
        while self._is_wanted and (not self._stop.is_set or self.leases.has_begun):
            # First: what comes from here on must not be missed.
            self._woken.clear()
            self._turn()
            if not self._stop.is_set:
                engine.work()
            try:
                async with asyncio.timeout(max(0.0, self._next_wake() - clock.monotonic())):
                    await self._woken.wait()
            except TimeoutError:
                continue
        self._socket.stop_watching()
        engine.forget()
        self._leave()

    def send_parts(self, parts: list[Part]) -> None:
        """Send parts of answers to the broker at once."""
        by_lease: dict[int, tuple[list[m.StreamedItem], list[codec.PayloadOrPiece]]] = {}
        for (lease, index), part in parts:
            items, frames = by_lease.setdefault(lease, ([], []))
            if len(items) == PARTS_PER_MESSAGE:
                self.leases.streamed(lease, tuple(items), frames)
                items, frames = by_lease[lease] = [], []
            meta, own_frames = codec.pack_response(part)
            items.append(m.StreamedItem(index, meta, len(own_frames)))
            frames += own_frames
        for lease, (items, frames) in by_lease.items():
            self.leases.streamed(lease, tuple(items), frames)
        self._flush()

    def send_answers(self, lease: int, handler_us: int, replies: list[codec.Response], *ends: str) -> None:
        """Answer a lease; `ends` are sequences that parts of it have closed."""
        items: list[m.CompletedItem] = []
        frames: list[codec.PayloadOrPiece] = []
        room = codec.HEAD_FILL_BYTES
        for idx, reply in enumerate(replies):
            meta, own_frames = codec.pack_response(reply, codec.INLINE_LIMIT_BYTES if room > 0 else 0)
            room -= len(meta)
            ended = (*ends, *ended_sequences(reply, self._end_header)) if reply.headers else ends
            items.append(m.CompletedItem(reply.status, meta, len(own_frames), ended))
            if own_frames:
                frames += self._lent(lease, idx, own_frames)
        self.leases.completed(lease, handler_us, tuple(items), frames)
        now = clock.monotonic()
        self._coalescing.answered(len(replies), handler_us, now)
        self._handler_s = recent_mean(self._handler_s, handler_us / 1e6)
        # What was measured goes first, so that who has an answer finds it in the metrics; see `_turn`.
        if not self._measuring.is_due(now):
            self._flush_if_due(now)
        elif self._woken is not None:
            self._woken.set()

    def _lent(self, lease: int, idx: int, frames: list[bytes]) -> Sequence[codec.PayloadOrPiece]:
        """Return what an answer's frames are sent as: where they lie, if its gateway reads our memory."""
        sharing = self._socket.sharing
        if not sharing.reads(self.leases.gateway_of(lease, idx)):
            return frames
        return [sharing.lend(frame) for frame in frames]

    def _see_stop(self) -> None:
        assert self._woken is not None
        asyncio.get_running_loop().remove_reader(self._stop.fd)
        self._woken.set()

    def _turn(self) -> None:
        """Receive what has come, send what waits, and say hello or beat if that is due."""
        now = clock.monotonic()
        if self._must_receive(now):
            self._receive_all()
            now = clock.monotonic()
        self._send_measured(now, is_idle=not self.leases.has_waiting)
        self._flush_if_due(now)
        if self._readiness is not None:
            self._readiness.ask_if_due(now)
        if now >= self._session.next_wake():
            self._send_what_is_due(now)

    def _must_receive(self, now: float) -> bool:
        """Tell whether to look for messages: on an event loop always, where that takes the wake-up away.

        Else not between any two short batches that are here, but before something is due to be said, since
        all that came must be told before, see `peer_session`.
        """
        if self._woken is not None or not self.leases.has_waiting:
            return True
        return now >= min(self._receive_at, self._session.next_wake())

    def receive_all(self) -> None:
        """Receive all messages that have come, while a handler runs, unless that has just been done."""
        if clock.monotonic() < self._receive_at:
            return
        self._receive_all()
        if self._woken is not None:
            self._woken.set()  # the wake-up for what came is taken

    def _receive_all(self) -> None:
        coming = iter(self._socket.receive, None)
        while fault := first_fault(coming, self._receive):
            (message, _, _), error = fault
            # A batch that was not taken in is not held: by that the broker knows that it is lost.
            logger.error("message.fault: %s", quoted(message), exc_info=error)
        self._receive_at = clock.monotonic() + RECEIVE_INTERVAL_S

    def _receive(self, received: Received) -> None:
        message, epoch, frames = received
        engine = self._engine
        assert engine is not None
        match self._session.heard(message, epoch, clock.monotonic()):
            case m.Assign() as assign:
                self._take_batches(assign, frames)
            case m.CancelJobs(lease, indexes):
                engine.cancelled(lease, indexes)
            case m.Missed(after):
                self.leases.missed(after)
            case m.AnswerAgain(leases):
                self.leases.answer_again(leases)
            case m.Welcome(is_new=True, keeps_leases=False):
                engine.forget()
                self.leases.forget()
            case m.Leave(reason):
                logger.info("worker.leaves: %s", reason)
                self._is_wanted = False
            case m.BrokerKeys(keys):
                self._socket.know(keys)
            case m.Misunderstood(reason):
                logger.error("worker.misunderstood: %s", reason)
            case None if isinstance(message, m.Beat) and epoch == self._session.epoch:
                self.leases.heard(message.serial)

    def _take_batches(self, assign: m.Assign, frames: Sequence[codec.PayloadOrPiece]) -> None:
        if self._stop.is_set:
            return  # Bye hands it back
        try:
            batches = batches_of(assign, frames, clock.monotonic())
        except codec.WireError as error:
            # Left unanswered: that this worker doesn't hold it tells the broker that it is lost.
            logger.error("batch.unreadable: %s", error)
            return
        for batch in batches:
            self.leases.assigned(batch)

    def send_held(self) -> None:
        """Send the answers that wait for those of the next batches."""
        self._flush()

    def _flush_if_due(self, now: float) -> None:
        """Send what is to be sent, unless it may wait for the answer to the next batch."""
        if not self.leases.has_unsent:
            return
        has_next = self.leases.has_waiting and self._woken is None  # else nobody knows what runs next
        if not self._coalescing.waits(now, has_waiting=has_next):
            self._flush()

    def _flush(self) -> None:
        while first := self.leases.first():
            if not self._socket.send(first[0], self._session.epoch, first[1]):
                return
            self.leases.sent()
            if self._woken is not None:
                self._woken.set()  # the send may have taken the wake-up for what came with it
        self._coalescing.sent()

    def _send_measured(self, now: float, *, is_idle: bool) -> None:
        measured = self._measuring.due(now, is_idle=is_idle)
        if measured is None:
            return
        messages = (
            m.Measured(measured.hostname, measured.points[start : start + POINTS_PER_MESSAGE])
            for start in range(0, len(measured.points), POINTS_PER_MESSAGE)
        )
        is_up = self._session.state == "welcomed"
        if is_up and all(self._socket.send(message, self._session.epoch) for message in messages):
            self._measuring.sent(now)
        else:
            self._measuring.put_off(now)

    def _send_what_is_due(self, now: float) -> None:
        match self._session.due(now):
            case "hello":
                if not self._socket.send(self._hello(), 0):
                    self._session.hello_unsent(now)
            case "beat":
                self._socket.sharing.look()
                self._patient_threads.look(self._handler_s, now)
                beat = m.WorkerBeat(
                    self.leases.held, self._session.heard_beat, self._why_not_ready, self.leases.serial
                )
                self._socket.send(beat, self._session.epoch)

    @property
    def _why_not_ready(self) -> str:
        return self._readiness.why_not if self._readiness else ""

    def _next_wake(self) -> float:
        return min(self._session.next_wake(), self._measuring.next_wake())

    def _leave(self) -> None:
        if not self._is_wanted:
            return
        self._send_measured(clock.monotonic(), is_idle=True)
        self._flush()
        self._socket.send(m.Bye(), self._session.epoch)

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
            claim=start.claim,
            why_not_ready=self._why_not_ready,
            held=self.leases.named,
            next_serial=self.leases.serial + 1,
        )


@contextlib.contextmanager
def _reporting_failure(status_fd: int) -> Iterator[None]:
    """Write what goes wrong inside to the node, and let it go on: Python prints the traceback."""
    try:
        yield
    finally:
        error = sys.exception()
        if error is not None and not isinstance(error, SystemExit):
            words = LastWords(one_line(error), is_out_of_memory(error))
            os.write(status_fd, msgspec.json.encode(words) + b"\n")
        os.close(status_fd)


def log_information() -> None:
    """Have what loggers say at the level INFO logged, too.

    PERF: a change of the level is told to all loggers there are, which made 0.6 MB of each worker its own
    before the launcher did it for all.
    """
    if logging.root.level != logging.INFO:
        logging.root.setLevel(logging.INFO)


def run(spec: WorkerSpec, status_fd: int, ours: Mapping[str, ModuleType]) -> int:
    """Load the model and serve it; return the exit code. Raises what the model's code raises on load.

    `ours` are our modules, which an archive does not see.
    """
    settings.add_to_environment(spec.variables)
    keep_some_free_memory()
    # As TorchServe has it, so that what handlers log, and what ends a worker, is found where it was.
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    log_information()
    sys.excepthook = _print_on_stdout
    model_dir = Path(spec.model_dir)
    os.chdir(model_dir)
    with _reporting_failure(status_fd):
        config = server_config(model_dir)
        start = spec.start
        if start.gpu_ids:
            ranks.see_only(start.gpu_ids)
        rank_role = ranks.gather(config) if config.has_ranks else None
        if start.gpu_ids:
            start = msgspec.structs.replace(start, gpu_id=rank_role.rank if rank_role else 0)
        if number := ranks.threads(config) if rank_role else spec.threads:
            loaded_torch.use_threads(number)
        launcher_traces.draw_own_randomness()
        hide_our_modules(ours, model_dir)
        program = launcher_traces.hide_program()
        model = load(start, model_dir)
        # PERF: weights are in memory twice while a handler copies those of a file into a model: with 2 MB of
        # them a worker has 1.7 MB less, for 0.2 ms.
        give_back_free_memory()
        runner = _runner(spec, model)
        readiness, share = None, None
        if not isinstance(rank_role, ranks.Follower):
            share = _share_of(model, rank_role)
            readiness = _get_ready(runner, share, model_dir, status_fd)
    if isinstance(rank_role, ranks.Follower):
        rank_role.follow(runner)
    else:
        _serve(spec, runner, share, readiness)
    del program  # kept alive until here
    return 0


def _print_on_stdout(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    traceback.print_exception(kind, error, trace, file=sys.stdout)


def _runner(spec: WorkerSpec, model: LoadedModel) -> Runner:
    return Runner(
        model=model,
        decode_input=spec.start.decode_input_request,
        response_limit_bytes=spec.start.max_response_bytes,
        sequence_headers=spec.sequence_headers,
    )


def _share_of(model: LoadedModel, leader: ranks.Leader | None) -> Share | None:
    """Return what passes requests on to the worker's other processes, if those get any."""
    # The other stages of a pipeline wait for rank 0's calls, and get no requests, as in TorchServe.
    return leader.share if leader is not None and model.config.parallel_type != "pp" else None


def _get_ready(runner: Runner, share: Share | None, model_dir: Path, status_fd: int) -> Readiness | None:
    """Warm a model, then wait until its handler says that it is ready, as far as there is any of this."""
    model = runner.model
    if model.config.warmup:
        _write_phase(status_fd, LoadingPhase("warming"))
        warm_up(runner, share, model_dir)
    if model.is_ready is None:
        return None
    _write_phase(status_fd, LoadingPhase("waiting"))
    readiness = Readiness(model.is_ready, model.loop)
    readiness.wait()
    return readiness


def _write_phase(status_fd: int, phase: LoadingPhase) -> None:
    os.write(status_fd, msgspec.json.encode(phase) + b"\n")


def _serve(spec: WorkerSpec, runner: Runner, share: Share | None, readiness: Readiness | None) -> None:
    model = runner.model
    stop = StopSignal()
    others_keys = partial(broker_keys_file.read, Path(spec.broker_keys_file))
    socket = BrokerSocket(
        spec.broker, "worker", wake_fd=stop.fd, others_keys=others_keys,
        shares_memory=share is None,  # else what it reads is passed on to the other ranks, too
    )  # fmt: skip
    worker = WorkerLoop(spec, runner, socket, stop, readiness)
    engine = engine_for(runner, worker.leases, worker, share)
    try:
        if model.loop is not None:
            model.loop.run_until_complete(worker.serve_async(engine))
        else:
            worker.serve(engine)
    finally:
        # Also where a handler ends the process: what it has answered before arrives.
        worker.send_held()
        socket.close(LAST_SENDS_S)
