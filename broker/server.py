"""The broker's shell: threads, clock and signals around `machine`, and `peer_sockets`.

One loop: receive all there is (up to a budget), decode, have the core handle it, do what it says, sleep until
the next message or the core's next wake. Nothing in it blocks: disk and network work is done by threads,
which put their result into a queue and wake the loop.
"""

import contextlib
import logging
import os
import queue
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, TypeVar, cast

from torchrelay.broker import collecting
from torchrelay.broker.archives import store
from torchrelay.broker.archives.limited_threads import PlacedThreads
from torchrelay.broker.collecting import Collections
from torchrelay.broker.core import effects, events, metrics_config
from torchrelay.broker.core.early_requests import default_versions_first
from torchrelay.broker.core.keyring import Keyring
from torchrelay.broker.core.machine import BrokerCore
from torchrelay.broker.core.torchserve_metrics import Line, Metrics
from torchrelay.broker.fleet.worker_claims import Claims
from torchrelay.broker.models.origins import InStore
from torchrelay.broker.models.records import Snapshot
from torchrelay.broker.network import unix_sockets
from torchrelay.broker.network.chunk_credit import ChunkCredit
from torchrelay.broker.network.connections import Connections, Kernel
from torchrelay.broker.network.kernel import Linux, raise_fd_limit
from torchrelay.broker.network.peer_sockets import PeerSockets
from torchrelay.broker.network.unix_sockets import BindFailed as BindFailed
from torchrelay.broker.storage import curve_keys, invitation_files, key_file, snapshots
from torchrelay.broker.storage.metrics_log import MetricsLog
from torchrelay.broker.storage.registry import Registry
from torchrelay.shared import clock, host, ids, locks, private_files
from torchrelay.shared.archives.reader import ArchiveReader
from torchrelay.shared.containment import first_fault
from torchrelay.shared.errors import InternalError, RelayError, StoreFailed
from torchrelay.shared.logs import logs
from torchrelay.shared.processes.patient_threads import PatientThreads
from torchrelay.shared.processes.returned_memory import keep_some_free_memory
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import BrokerSettings, LoadAtStart, StartupModel, is_open_to_others
from torchrelay.shared.wire import codec, presence, sockets
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.memory_sharing import message_parts

logger = logging.getLogger(__name__)

#: The pause after a turn that failed, so that a loop that fails again and again leaves the CPU to others.
FAULT_PAUSE_S = 0.05
#: Memory that the broker may need beside what its queues may hold.
ROOM_BESIDE_QUEUES_BYTES = 1 << 30
#: Threads that read chunks for nodes; more would only make the disk seek.
DISK_THREADS = 2
#: Archives that are here already, hashed and checked so many at once, and so many of one name: one that takes
#: all the time that it may have, again and again, leaves places to others.
PREPARE_THREADS = 4
PREPARATIONS_PER_ARCHIVE_LIMIT = 2
#: Archives that are fetched at once, so many of one origin (a host, a bucket, or this host's files): one that
#: drips, or hangs, keeps neither those of others waiting nor those that are here.
DOWNLOADS_LIMIT = 16
DOWNLOADS_PER_ORIGIN_LIMIT = 4
#: How long a stop waits for archives on their way: the supervisor gives the broker 0.8 s in all.
CLOSE_S = 0.4

#: Of the secret for workers' claims, as `ids.secret` draws it.
SECRET_BYTES_MIN = 32
#: TorchServe's metrics, where no other file is named.
BUILT_IN_METRICS = Path(__file__).with_name("metrics.yaml")

ResultT = TypeVar("ResultT")


def run(settings: BrokerSettings) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code."""
    server = None
    try:
        check_addresses(settings)
        snapshots.check(settings)
        lock = lock_state(Path(settings.state_dir))
        server = BrokerServer(settings, Registry(Path(settings.state_dir) / "registry.sqlite"))
        server.bind()
    except (RelayError, OSError) as error:
        logger.error("broker.not_started", extra={"reason": str(error)})
        if server:
            server.close()
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.leave)
    try:
        server.serve()
    finally:
        server.close()
        lock.close()
    return 0


def lock_state(folder: Path) -> IO[bytes]:
    """Keep other brokers off a state folder while the file returned is open.

    Raises BindFailed for a folder that another broker has, StoreFailed for one that can't be written.
    """
    try:
        private_files.make_folder(folder)
        private_files.make_file(folder / "lock")
        lock = (folder / "lock").open("wb")
    except OSError as error:
        raise StoreFailed(
            f"The state folder {folder} can't be used: {error.strerror}: {error.filename}",
            "let the broker's user write there, or choose another --state-dir",
        ) from error
    if not locks.try_flock(lock):
        lock.close()
        raise BindFailed(f"Another broker uses {folder}", "stop it, or choose another --state-dir")
    return lock


def check_addresses(settings: BrokerSettings) -> None:
    """Raise BindFailed for an address that other users or hosts can reach, unless the operator insists."""
    open_ones = [
        address for address in settings.addresses
        if is_open_to_others(address) and not address.startswith("tcp://")
    ]  # fmt: skip
    if open_ones and not settings.insecure:
        raise BindFailed(
            f"Whoever reaches {open_ones[0]} can run code on every node, other users of this host as well",
            "listen on ipc://PATH or tcp://HOST:PORT, or say --insecure if you trust all who reach it",
        )


class BrokerServer:
    """One broker: its sockets, threads and core."""

    def __init__(self, settings: BrokerSettings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry
        self._store = store.ArchiveStore(Path(settings.state_dir) / "archives")
        now, wall_ms = clock.monotonic(), clock.wall_ms()
        self._curve_keys_path = Path(settings.state_dir) / "broker_curve_keys.json"
        own_keys = curve_keys.open_at_start(self._curve_keys_path) if settings.asks_for_curve_keys else None
        if own_keys is not None:
            invitation_files.keep(settings, own_keys, registry, wall_ms)
        snapshot = registry.load()
        keys = Keyring(settings, clock.wall_of(now, wall_ms))
        self._open_keys(keys, snapshot, now)
        self._metrics_log = _open_metrics_log(settings)
        #: Archives of the versions that are registered when it starts; others are left-overs.
        self._archives = {record.archive for record in snapshot.versions}
        self._epoch = registry.begin_epoch()
        self._core = BrokerCore(
            settings, snapshot, keys, _metrics(settings), epoch=self._epoch, now=now,
            wall_ms=wall_ms, new_sequence_id=ids.sequence_id,
            claims=Claims(worker_secret(Path(settings.state_dir) / "worker_claims")),
            own_keys=own_keys, new_key_pair=sockets.new_key_pair,
        )  # fmt: skip
        self._kernel = Linux() if sys.platform == "linux" else Kernel()
        self._connections = Connections(
            self._kernel,
            raise_fd_limit(),
            memory_limit_bytes(settings, host.memory_bytes()),
            self._core.held_bytes,
            self._core.peers.knows,
        )
        # One thread for the registry: changes become durable in the order they were made.
        self._registry_thread = ThreadPoolExecutor(1, "registry")
        self._disk_threads = ThreadPoolExecutor(DISK_THREADS, "disk")
        # Apart, so that a slow origin of archives keeps no node from fetching those that are here.
        self._reader = ArchiveReader(settings.archive_time_limit_s, settings.archive_memory_limit_bytes)
        self._preparations = PlacedThreads(PREPARE_THREADS, PREPARATIONS_PER_ARCHIVE_LIMIT, "prepare")
        self._downloads = PlacedThreads(DOWNLOADS_LIMIT, DOWNLOADS_PER_ORIGIN_LIMIT, "download")
        self._results: queue.SimpleQueue[events.Event] = queue.SimpleQueue()
        self._address_locks: list[IO[bytes]] = []
        self._chunks = ChunkCredit(self._read_chunk)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._peers = PeerSockets(
            self._connections, None if own_keys is None else own_keys.present, self._core.why_not_admitted,
            self._wake_reader.fileno(),
        )  # fmt: skip
        self._patient_threads = PatientThreads()
        #: What the core takes in with the next turn: what was not sent, and that the broker has started.
        self._unsent: list[events.Event] = []
        #: How long the loop waits after a turn that failed, which may well fail again.
        self._pause_s = 0.0
        #: Limits of lines about faults, by their log event: what raises does so again, and soon.
        self._fault_lines = {
            event: logs.LogRateLimit() for event in ("broker.turn_failed", "broker.effect_failed")
        }
        self._is_stopping = False
        #: When it stops at the latest; None while nobody has told it to.
        self._leaves_at: float | None = None

    def bind(self) -> None:
        """Listen on all addresses. Raises BindFailed."""
        for address in self._settings.addresses:
            if lock := unix_sockets.claim(address):
                self._address_locks.append(lock)
            self._peers.bind(address, is_open=self._settings.insecure)

    def leave(self, number: int = 0, frame: FrameType | None = None) -> None:
        """End `serve` once what runs has ended, or after leave_grace_s; told twice, at once.

        Safe in a signal handler.
        """
        if self._leaves_at is not None or not self._settings.leave_grace_s:
            self.stop()
            return
        self._leaves_at = clock.monotonic() + self._settings.leave_grace_s
        self._results.put(events.Leaving())
        self._wake()

    def stop(self) -> None:
        """End `serve` after its current turn."""
        self._is_stopping = True
        self._wake()

    def serve(self) -> None:
        """Run the loop until `stop`."""
        keep_some_free_memory()
        logger.info("broker.started", extra={"epoch": self._epoch,
                                             "addresses": ",".join(self._settings.addresses)})  # fmt: skip
        self._store.keep_only(self._archives)
        store.remove_leftovers(self._settings)
        self._unsent.append(events.Started(tuple(self._loads_at_start())))
        turns = self._turns()
        with collecting.seldom():
            while fault := first_fault(turns, self._turn):
                # Not a message's: the core contains those. What it wanted done comes with the next turn.
                self._log_fault("broker.turn_failed", fault[1], events=len(fault[0]))
                self._pause_s = FAULT_PAUSE_S
        last: list[events.Event] = [events.Stopping()]
        if fault := first_fault(iter([last]), self._have_handled):
            self._log_fault("broker.turn_failed", fault[1], events=len(last))

    def _turns(self) -> Iterator[list[events.Event]]:
        """Wait for the next turn and yield what it begins with, what the one before it could not send."""
        collections = Collections(clock.monotonic())
        while not self._is_stopping:
            came, self._unsent = self._unsent, []
            yield came
            if not came:  # the turn has found nothing to do
                collections.go_on(clock.monotonic())
            if self._leaves_at is not None and self._has_left(self._leaves_at):
                return
            wait_s, self._pause_s = self._pause_s or self._core.next_wake() - clock.monotonic(), 0.0
            if self._peers.wait(0 if self._unsent else max(0, int(wait_s * 1000 + 0.999))):
                self._drain_wakes()  # before the results are taken, so that none comes unnoticed

    def close(self) -> None:
        """Close sockets, threads and files; what is durable is so already, and peers notice by themselves."""
        self._is_stopping = True
        self._reader.close()  # what waits for it would keep us
        deadline = clock.monotonic() + CLOSE_S
        for threads in (self._downloads, self._preparations):
            if not threads.close(deadline):
                reason = "archives are still being read; what is left of them goes at the next start"
                logger.warning("broker.not_waited", extra={"reason": reason})
        self._disk_threads.shutdown(cancel_futures=True)
        self._registry_thread.shutdown()
        self._registry.close()
        if self._metrics_log is not None:
            self._metrics_log.close()
        self._peers.close()
        self._kernel.close()
        for lock in self._address_locks:
            lock.close()
        self._wake_reader.close()
        self._wake_writer.close()
        logger.info("broker.stopped")

    def _has_left(self, at_latest: float) -> bool:
        """Tell whether a broker that was told to stop may: nothing that has begun would be lost."""
        if self._unsent or not self._results.empty():
            return False  # it has not heard of that yet
        return self._core.is_at_rest() or clock.monotonic() >= at_latest

    def _loads_at_start(self) -> list[LoadAtStart | StartupModel]:
        if self._settings.snapshot is not None:
            return [*default_versions_first(self._settings.snapshot)]
        loads: list[LoadAtStart | StartupModel] = []
        for load in self._settings.load_models:
            if load.url.lower() == "all":
                loads += [LoadAtStart(url) for url in store.startup_urls(self._settings)]
            else:
                loads.append(load)
        return loads

    def _open_keys(self, keys: Keyring, snapshot: Snapshot, now: float) -> None:
        """Read or make access keys before any request. Raises StoreFailed where they can't be shown."""
        if self._settings.key_file is None or not keys.makes_keys:
            return
        path = Path(self._settings.key_file)
        made = keys.open(snapshot.keys, key_file.read(path), now)
        key_file.keep(path, made, self._registry)
        keys.use(made)

    def _turn(self, came: list[events.Event]) -> None:
        """Have the core take in what came and what has arrived, and look at the connections."""
        self._receive(came)
        now = self._have_handled(came)
        self._chunks.go_on()
        self._connections.look(now)
        self._patient_threads.look(self._core.jobs.handler_s, now)
        for peer, message in self._peers.memories.told(now, self._core.peers.knows):
            self._peers.send(peer, (codec.encode(message, self._epoch),))

    def _have_handled(self, came: list[events.Event]) -> float:
        """Have the core take in what came, and do what it says; return the time that it was told."""
        now = clock.monotonic()
        to_do = iter(self._core.handle(came, now=now))
        while fault := first_fault(to_do, self._perform):
            self._not_performed(*fault)
        return now

    def _not_performed(self, effect: effects.Effect, error: Exception) -> None:
        """Report an effect that raised. Those that threads perform are answered there, whatever happens."""
        reason = quoted(f"{type(error).__name__}: {error}")
        kind = type(effect).__name__
        self._log_fault("broker.effect_failed", error, effect=kind, content=quoted(effect), reason=reason)
        if isinstance(effect, effects.Send):
            self._unsent.append(events.Unsendable(effect.peer, effect.message, reason))

    def _log_fault(self, event: str, error: Exception, **facts: object) -> None:
        """Log one of the faults of a second, and how many there were."""
        if count := self._fault_lines[event].count(clock.monotonic()):
            logger.error(event, exc_info=error, extra={**facts, "faults": count})

    # Receiving

    def _receive(self, came: list[events.Event]) -> None:
        """Take in what has arrived from peers, up to the turn's limits, and from threads."""
        if not self._peers.receive(came):
            self._wake()  # more waits, and the poller sees only what is whole
        while not self._results.empty():
            result = self._results.get_nowait()
            if isinstance(result, events.ChunkRead):
                self._chunks.was_read(result.peer)
            came.append(result)

    def _drain_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_reader.recv(4096):
                pass

    def _wake(self) -> None:
        # It is full of wakes already, or closed: a download may end after the broker has.
        with contextlib.suppress(OSError):
            self._wake_writer.send(b"\0")

    # Doing

    def _perform(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Send():
                self._send(effect)
            case effects.Store() | effects.KeepKeys() | effects.KeepBrokerKeys() | effects.WriteSnapshot():
                self._make_durable(effect)
            case effects.Prepare() | effects.PrepareWorkflow():
                self._prepare(effect)
            case effects.Cut(public_key):
                self._peers.cut(public_key)
            case effects.ShareMemory(peer, message):
                self._share_memory(peer, message)
            case effects.ReadChunk():
                self._chunks.ask(effect)
            case effects.DropArchive(archive, fetched_from, is_workflow):
                # Set aside at once, so that the same archive may come in anew meanwhile.
                if archive:
                    self._disk_threads.submit(self._store.set_aside(archive).unlink, missing_ok=True)
                found_by = store.of_workflows(self._settings) if is_workflow else self._settings
                if fetched_from and (copy := store.set_aside_download(fetched_from, found_by)):
                    self._disk_threads.submit(copy.unlink, missing_ok=True)
            case effects.WriteMetrics(lines):
                self._write_metrics(lines)
            case effects.Report(level, event, facts):
                logger.log(level, event, extra=facts)

    def _prepare(self, effect: effects.Prepare | effects.PrepareWorkflow) -> None:
        token, origin = effect.token, effect.origin
        if isinstance(effect, effects.Prepare):
            job = self._job(
                lambda: store.prepare(origin, self._store, self._settings, lambda: self._is_stopping,
                                      reader=self._reader, s3_sse_kms=effect.s3_sse_kms,
                                      is_wanted_now=effect.is_wanted_now),
                lambda outcome: events.ArchivePrepared(token, outcome),
            )  # fmt: skip
        else:
            job = self._job(
                lambda: store.prepare_workflow(origin, self._store, self._settings, lambda: self._is_stopping,
                                               reader=self._reader, s3_sse_kms=effect.s3_sse_kms),
                lambda outcome: events.WorkflowPrepared(token, outcome),
            )  # fmt: skip
        threads = self._preparations if isinstance(origin, InStore) else self._downloads
        threads.submit(origin.source, job)

    def _make_durable(self, effect: effects.Durable) -> None:
        match effect:
            case effects.Store(token, change):
                self._write(token, lambda: self._registry.apply(change))
            case effects.KeepKeys(token, made):
                path = Path(self._settings.key_file or "")
                self._write(token, lambda: key_file.keep(path, made, self._registry))
            case effects.KeepBrokerKeys(token, present, following):
                self._write(token, lambda: curve_keys.keep(self._curve_keys_path, present, following))
            case effects.WriteSnapshot(token, kind, models):
                self._write(token, lambda: snapshots.write(self._settings, kind, models))

    def _write(self, token: int, write: Callable[[], object]) -> None:
        """Have the registry's one thread write something, behind all that it was given before."""

        def stored(outcome: object) -> events.Stored:
            return events.Stored(token, outcome if isinstance(outcome, RelayError) else None)

        self._registry_thread.submit(self._job(write, stored))

    def _read_chunk(self, ask: effects.ReadChunk) -> None:
        def read(outcome: tuple[bytes, int] | RelayError | None) -> events.ChunkRead:
            data, total = (None, 0) if outcome is None or isinstance(outcome, RelayError) else outcome
            return events.ChunkRead(ask.peer, ask.archive, ask.offset, total, data)

        work = partial(self._store.read, ask.archive, ask.offset, ask.length)
        self._disk_threads.submit(self._job(work, read))

    def _write_metrics(self, lines: tuple[Line, ...]) -> None:
        if self._metrics_log is not None and not self._metrics_log.write(lines):
            self._results.put(events.MetricsNotWritten(len(lines)))

    def _send(self, effect: effects.Send) -> None:
        sent, lent = self._peers.memories.packed(effect.peer, effect.frames) if effect.frames else ((), ())
        parts = cast("list[sockets.Part]", message_parts(effect.message, self._epoch, sent, lent))
        if isinstance(effect.message, m.ArchiveChunk):
            parts[1] = chunk = sockets.tracked(cast("bytes", parts[1]))
            tracker = chunk.tracker  # the chunk itself must not be kept: it would never have left
            self._chunks.was_sent(effect.peer, lambda: tracker.done)
        ahead = presence.announcement(sent)
        if ahead is None:
            is_sent = self._peers.send(effect.peer, parts)
        else:
            is_sent = self._peers.send(effect.peer, (codec.encode(ahead, self._epoch),), parts)
        if not is_sent:
            self._chunks.forget(effect.peer)
            self._unsent.append(events.Unreachable(effect.peer, effect.message))

    def _share_memory(self, peer: bytes, message: m.OfferMemory | m.ReadsMemory) -> None:
        memories = self._peers.memories
        if isinstance(message, m.ReadsMemory):
            memories.confirmed(peer, message)
            return

        def job() -> None:
            memories.open(peer, message)
            self._wake()

        self._disk_threads.submit(job)

    def _job(
        self, work: Callable[[], ResultT], event: Callable[[ResultT | RelayError], events.Event]
    ) -> Callable[[], None]:
        def job() -> None:
            outcomes: list[ResultT | RelayError] = []
            if fault := first_fault(iter((work,)), lambda work: outcomes.append(work())):
                error = fault[1]
                if not isinstance(error, RelayError):  # it must be answered, not lost
                    logger.error("broker.thread_failed", exc_info=error)
                    error = InternalError("Internal error in the broker", f"{type(error).__name__}: {error}")
                outcomes.append(error)
            self._results.put(event(outcomes[0]))
            self._wake()

        return job


def worker_secret(path: Path) -> bytes:
    """Return the secret that is kept in a file that only this user reads, drawing it at the first start.

    One that is shorter, as a host that lost its power may leave it, is no secret and drawn anew.
    """
    if not path.exists() or path.stat().st_size < SECRET_BYTES_MIN:
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with open(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(ids.secret().encode())
        draft.rename(path)
    return path.read_bytes()


def memory_limit_bytes(settings: BrokerSettings, available: int) -> int:
    """Return the memory above which connections are cut: half of the host's, or room for full queues."""
    room = min(settings.queue_limit_bytes + ROOM_BESIDE_QUEUES_BYTES, 9 * available // 10)
    return settings.memory_limit_bytes or max(available // 2, room)


def _metrics(settings: BrokerSettings) -> Metrics:
    """Make the configured metrics; with a file that can't be used there are none, as in TorchServe."""
    path = Path(settings.metrics_config) if settings.metrics_config else BUILT_IN_METRICS
    config, content = metrics_config.MetricsConfig(), b""
    try:
        content = path.read_bytes()
        config = metrics_config.parse(content)
    except (OSError, metrics_config.MetricsConfigError) as error:
        logger.error("metrics.not_configured", extra={"file": str(path), "reason": str(error)})
    return Metrics(
        config,
        mode=settings.metrics_mode,
        auto_detect=settings.model_metrics_auto_detect,
        hostname=socket.gethostname(),
        file_content=content if settings.metrics_config else b"",
    )


def _open_metrics_log(settings: BrokerSettings) -> MetricsLog | None:
    if settings.metrics_log_dir is None:
        return None
    try:
        return MetricsLog(Path(settings.metrics_log_dir), settings.log_limits)
    except OSError as error:
        logger.error("metrics.no_log", extra={"folder": settings.metrics_log_dir, "reason": str(error)})
        return None
