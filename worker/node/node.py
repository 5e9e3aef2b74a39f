"""The node: offers this host to the broker, and starts, watches and stops workers for it.

One asyncio loop, no torch. Workers speak to the broker themselves: a node that hangs stops no batch.
"""

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torchrelay.shared import clock, host, member_credentials
from torchrelay.shared.containment import first_fault
from torchrelay.shared.member_credentials import CredentialsError
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import NodeSettings, environment
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.redial_policy import BrokerPlace
from torchrelay.worker.common import broker_keys_file
from torchrelay.worker.common.broker_socket import BrokerSocket, Received
from torchrelay.worker.common.peer_session import PeerSession
from torchrelay.worker.node import devices
from torchrelay.worker.node.host_metrics import HostMetricsReader
from torchrelay.worker.node.launcher_handle import Launcher
from torchrelay.worker.node.succession import Succession
from torchrelay.worker.node.worker_processes import WorkerProcesses

logger = logging.getLogger(__name__)

#: The resident memory of workers is for people to read, and costs a system call each.
MEMORY_INTERVAL_S = 2.0
#: How often it is checked whether the disk of the cache has been filled by others.
TIDY_INTERVAL_S = 60.0
#: Ends of workers kept while the broker is away; which workers live it learns from the next hello.
UNSENT_LIMIT = 256
#: After how long without a welcome a warning is logged, and how often it is repeated.
WARN_AFTER_S, WARN_INTERVAL_S = 5.0, 60.0
CLOSE_LINGER_S = 0.5
_ROOT = 0
_AS_ROOT = "handlers are root, too: they can read and change every file and process of this host or container"
#: How long the node waits after its Bye before it stops its workers, which send their own.
BYE_LEAD_S = 0.1
#: How often a node that waits for its workers to be replaced says so again, should a message have been lost.
LEAVES_INTERVAL_S = 1.0
#: The longest the loop waits while it stops, to see that all workers are gone.
CLOSING_POLL_S = 0.02


class Node:
    """Offers a host to the broker, and has its workers started, watched and stopped."""

    def __init__(
        self,
        settings: NodeSettings,
        measure: Callable[[], m.NodeMeasured] | None = None,
        launcher: Launcher | None = None,
    ) -> None:
        """Make a node; `measure` reads the host's metrics in place of `host_metrics`, and may block.

        It takes over the launcher, or starts its own. Raises CredentialsError.
        """
        self._settings = settings
        variables = environment()
        self._devices = devices.offered(settings.devices, variables)
        devices.warn_of_unsure_order(variables)
        self._loop = asyncio.get_running_loop()
        place = member_credentials.broker_place(settings.broker_address, settings.credentials_file)
        self._link = BrokerSocket(place, "node")
        self._link.call(
            complain=self._complain, keep_keys=partial(self._keep_keys, place), on_connected=self._connected
        )
        self._session = PeerSession(clock.monotonic())
        self._workers = WorkerProcesses(
            settings, variables, self._send_or_keep, lambda: self._link.place, launcher
        )
        self._unsent: deque[m.WorkerExited] = deque(maxlen=UNSENT_LIMIT)
        self._memory_at = 0.0
        self._tidy_at = clock.monotonic() + TIDY_INTERVAL_S
        self._measure = measure or HostMetricsReader(variables).read
        self._measure_at = 0.0
        self._is_measuring = False
        #: When to warn next that no broker has welcomed this node.
        self._warn_at = clock.monotonic() + WARN_AFTER_S
        #: Set when a signal or the broker ends this node; wakes the loop.
        self._stopping = asyncio.Event()
        #: A second signal has come: nothing is waited for.
        self._is_hurried = False
        self._exit_code = 0
        self._succession = Succession(Path(settings.cache_dir), settings.name)

    async def open(self) -> None:
        """Remove leftovers and have a launcher, before `run`. Raises OSError."""
        if self._settings.credentials_file is not None:
            await asyncio.to_thread(broker_keys_file.write, self._settings, self._link.place.broker_keys)
        await self._workers.open()

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT, or until the broker has no place for this node."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal)
        self._link.watch(self._loop, self._receive_all)
        if os.geteuid() == _ROOT:
            logger.warning("node.runs_as_root", extra={"consequence": _AS_ROOT})
        logger.info("node.started", extra={"node": self._settings.name, "broker": self._link.address})
        while not self._stopping.is_set():
            self._send_what_is_due()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._session.next_wake() - clock.monotonic())):
                    await self._stopping.wait()
        if self._exit_code == 0:
            await self._leave()
        await self._close()
        return self._exit_code

    def _on_signal(self) -> None:
        self._is_hurried = self._stopping.is_set()
        self._stopping.set()

    async def _leave(self) -> None:
        """Let the broker replace our workers elsewhere, and stop each when its successor is ready."""
        grace_s = self._settings.leave_grace_s
        until = clock.monotonic() + grace_s
        say_at = 0.0
        if self._session.state != "welcomed" or not self._workers.held() or not grace_s:
            return
        logger.info("node.leaving", extra={"workers": len(self._workers.held()), "grace_s": grace_s})
        while self._workers.held() and (now := clock.monotonic()) < until and not self._is_hurried:
            if self._link.is_refused:
                return  # there is nobody to replace them
            self._send_what_is_due()
            if now >= say_at and self._session.state == "welcomed":
                say_at = now + LEAVES_INTERVAL_S
                self._send(m.NodeLeaves(round((until - now) * 1000)), self._session.epoch)
            await asyncio.sleep(CLOSING_POLL_S)

    async def _close(self) -> None:
        """Stop in order; each step leaves less for the next one to lose."""
        # First, so that the broker sends our workers no more batches and starts none here.
        self._link.send(m.Bye(), self._session.epoch)
        logger.info("node.stopping", extra={"workers": len(self._workers.held())})
        # A worker's Bye that came before the node's would look like a worker that fails.
        await asyncio.sleep(BYE_LEAD_S)
        # Workers finish their batch and send Bye; a node without beats would be taken for lost.
        self._workers.stop_all("its node stops")
        deadline = clock.monotonic() + self._settings.stop_grace_s
        while self._workers.held() and clock.monotonic() < deadline:
            self._send_what_is_due()
            await asyncio.sleep(CLOSING_POLL_S)
        await self._workers.close()
        # Last, since every step before sends messages.
        self._link.stop_watching()
        self._link.close(CLOSE_LINGER_S)
        self._succession.close()

    def _complain(self, reason: str) -> None:
        logger.error("node.not_let_in", extra={"broker": self._link.address, "reason": reason})
        if self._link.is_refused and self._settings.ends_when_refused:
            self._exit_code = member_credentials.REFUSED_STATUS
            self._is_hurried = True
            self._stopping.set()

    def _keep_keys(self, place: BrokerPlace, broker_keys: tuple[str, ...]) -> None:
        """Have a thread write which keys the broker has, for the next start and for the workers."""
        if self._settings.credentials_file is not None:
            path = Path(self._settings.credentials_file)
            keep = partial(member_credentials.keep_broker_keys, path, place.secret_key, broker_keys)
            self._loop.run_in_executor(None, keep)
            self._loop.run_in_executor(None, broker_keys_file.write, self._settings, broker_keys)

    def _connected(self) -> None:
        """Say again what is in no beat; a broker that doesn't know this node gets it with the hello."""
        if self._session.state == "welcomed":
            self._workers.tell_keys()

    def _send_what_is_due(self) -> None:
        """Receive all messages; then send a hello or a beat, if one is due."""
        self._receive_all()
        now = clock.monotonic()
        state = self._session.state
        due = self._session.due(now)
        if state == "greeting" and now >= self._warn_at:
            self._warn_at = now + WARN_INTERVAL_S
            logger.warning("broker.awaited", extra={"broker": self._link.address})
        if self._session.state == "away" != state:
            logger.warning("broker.away", extra={"broker": self._link.address})
        if due == "hello":
            if not self._send(self._hello(), epoch=0):
                self._session.hello_unsent(now)
        elif due == "beat":
            self._workers.check_launchers(now)
            if now >= self._memory_at:
                self._memory_at = now + MEMORY_INTERVAL_S
                self._workers.measure_memory()
            if now >= self._tidy_at:
                self._tidy_at = now + TIDY_INTERVAL_S
                self._workers.tidy()
            self._send(m.NodeBeat(self._workers.memory()), self._session.epoch)
            self._measure_host(now)

    def _measure_host(self, now: float) -> None:
        """Have the host measured, if that is due, by a thread: a GPU's driver may hang."""
        if not self._settings.system_metrics or self._is_measuring or now < self._measure_at:
            return
        self._measure_at = now + self._settings.metric_time_interval_s
        self._is_measuring = True
        threading.Thread(target=self._read_metrics, daemon=True).start()

    def _read_metrics(self) -> None:
        measured: m.NodeMeasured | None = None
        try:
            measured = self._measure()
        finally:  # what can't be read now may be next time
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._send_metrics, measured)

    def _send_metrics(self, measured: m.NodeMeasured | None) -> None:
        self._is_measuring = False
        if measured is not None:
            self._send_or_keep(measured)

    def _hello(self) -> m.HelloNode:
        return m.HelloNode(
            protocol=m.PROTOCOL_VERSION,
            name=self._settings.name,
            devices=self._devices,
            slots=self._settings.slots,
            workers=self._workers.held(),
            labels=self._settings.labels,
            memory_bytes=host.memory_bytes(),
            mark=self._succession.mark,
        )

    def _send(self, message: m.Message, epoch: int) -> bool:
        # A send may take the fd's wake-up with it; what came meanwhile would lie there.
        self._loop.call_soon(self._receive_all)
        return self._link.send(message, epoch)

    def _send_or_keep(self, message: m.Message) -> None:
        """Send a message; while the broker is away, keep ends of workers, which no later message repeats."""
        is_sent = self._session.state == "welcomed" and self._send(message, self._session.epoch)
        if not is_sent and isinstance(message, m.WorkerExited):
            self._unsent.append(message)

    def _receive_all(self) -> None:
        coming = iter(self._link.receive, None)
        while fault := first_fault(coming, self._receive):
            (message, _, _), error = fault
            logger.error("message.fault", exc_info=error, extra={"content": quoted(message)})

    def _receive(self, received: Received) -> None:
        message, epoch, frames = received
        match self._session.heard(message, epoch, clock.monotonic()):
            case None:
                return
            case m.StartWorker() as order:
                self._workers.start(order)
            case m.StopWorker(first, kill, reason, is_unregistered, also):
                for worker_id in (first, *also):
                    self._workers.stop(worker_id, reason, kill=kill, is_unregistered=is_unregistered)
            case m.ArchiveChunk() as chunk if len(frames) == 1:
                self._workers.cache.arrived(chunk, codec.payload(frames[0]))
            case m.ArchiveMissing(archive):
                self._workers.cache.missing(archive)
            case m.Welcome() as welcome:
                self._welcomed(welcome)
            case m.BrokerKeys(keys):
                self._link.know(keys)
            case m.Leave(reason):
                logger.error("node.unwanted", extra={"reason": reason})
                self._exit_code = 1
                self._stopping.set()
            case _:
                logger.error("message.refused", extra={"content": quoted(message)})

    def _welcomed(self, welcome: m.Welcome) -> None:
        if welcome.is_new:
            logger.info("broker.joined", extra={"epoch": self._session.epoch})
            self._measure_at = 0.0  # a broker that doesn't know the host yet shall soon
        self._measure_host(clock.monotonic())
        self._workers.cache.reconnected()
        for _ in range(len(self._unsent)):
            self._send_or_keep(self._unsent.popleft())


def run(settings: NodeSettings, launcher: Launcher | None = None) -> int:
    """Run a node, which may have its launcher already, until it is told to stop; return its exit code.

    It is REFUSED_STATUS where the broker doesn't know this host's key and the settings say to end then.
    """

    async def serve() -> int:
        try:
            node = Node(settings, launcher=launcher)
            await node.open()
        except (OSError, CredentialsError) as error:  # its folders, the launcher's process
            logger.error("node.not_started", extra={"reason": str(error)})
            if launcher is not None:
                launcher.close(0)
            return 1
        return await node.run()

    return asyncio.run(serve())
