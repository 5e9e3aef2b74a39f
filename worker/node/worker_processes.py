"""The worker processes of a node: started through the launcher, watched, stopped, and their ends reported.

Runs on the node's event loop. Messages for the broker go to `send`.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import msgspec
import psutil

from torchrelay.shared import clock, host
from torchrelay.shared.archives.reader import ArchiveReader
from torchrelay.shared.errors import RelayError
from torchrelay.shared.locks import SharedLock
from torchrelay.shared.logs import logs
from torchrelay.shared.settings import NodeSettings
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.curve import KeyPair
from torchrelay.shared.wire.fields import SAID_LIMIT_CHARS
from torchrelay.shared.wire.redial_policy import BrokerPlace
from torchrelay.shared.wire.sockets import new_key_pair
from torchrelay.worker.common import broker_keys_file, worker_environment
from torchrelay.worker.common.measuring import PrintedMetrics
from torchrelay.worker.launcher.launcher_protocol import (
    Exited,
    Forked,
    NotPreloaded,
    SequenceHeaders,
    WorkerSpec,
)
from torchrelay.worker.node.archive_cache import ArchiveCache, Phase
from torchrelay.worker.node.dependencies import Environment, Installer, InstallFailed, requirements
from torchrelay.worker.node.eviction import Eviction
from torchrelay.worker.node.launcher_handle import Launcher, executed
from torchrelay.worker.node.model_dirs import ModelDirs, SharedDir
from torchrelay.worker.node.model_log import ModelLog
from torchrelay.worker.node.unpacked_copies import UnpackedCopies
from torchrelay.worker.node.worker_output import Output, OutputReader, StatusPipe, Stream

logger = logging.getLogger(__name__)

#: Progress of a download goes out no more often.
PROGRESS_INTERVAL_S = 0.5
#: How long the launcher may take to end by itself.
LAUNCHER_CLOSE_S = 1.0
#: How long the last output of workers may take to be logged when the node ends.
OUTPUT_CLOSE_S = 2.0


class ForkedProcess(msgspec.Struct, eq=False):
    """A process that the launcher was told to fork; `pid` is 0 until it has."""

    launcher: Launcher
    output: Output
    status: StatusPipe
    oom_kills_before: int
    pid: int = 0


class StartedWorker(msgspec.Struct, eq=False):
    """A worker, from the broker's order to start it until its process has ended."""

    start: m.StartWorker
    #: Provides the archive and orders the process.
    startup: asyncio.Task[None] | None = None
    process: ForkedProcess | None = None
    memory_bytes: int = 0
    #: Why it was told to stop; empty while it is wanted.
    stop_reason: str = ""
    is_unregistered: bool = False
    progress_at: float = 0.0
    #: The folder of its model, which it has until its process has ended.
    model_dir: SharedDir | None = None
    #: By which it comes to the broker, where that asks for keys; it never has its node's.
    own: KeyPair | None = None
    #: Keeps the environment that it uses.
    lock: SharedLock | None = None


class WorkerProcesses:
    """All workers of a node, by id."""

    def __init__(
        self,
        settings: NodeSettings,
        environment: Mapping[str, str],
        send: Callable[[m.Message], None],
        broker: Callable[[], BrokerPlace],
        launcher: Launcher | None = None,
    ) -> None:
        """Have messages sent by `send`; `broker` tells where workers find theirs, with the node's own key."""
        self._settings = settings
        self._broker = broker
        self._send = send
        self._variables = worker_environment.of_settings(environment, settings)
        if withheld := worker_environment.withheld_credentials(environment, settings.credential_env_vars):
            logger.warning("node.credentials_withheld", extra={"variables": withheld})
        self._sequence_headers = SequenceHeaders(
            settings.header_key_sequence_id,
            settings.header_key_sequence_start,
            settings.header_key_sequence_end,
        )
        self._loop = asyncio.get_running_loop()
        self._workers: dict[int, StartedWorker] = {}
        self._launcher = launcher
        #: Launchers that don't obey, while they have workers.
        self._hung: list[Launcher] = []
        root = Path(settings.cache_dir).resolve()
        self._output = OutputReader(self._wait_for_logs)
        self._eviction = Eviction(root, settings.cache_limit_bytes)
        self._reader = ArchiveReader(settings.archive_time_limit_s, settings.archive_memory_limit_bytes)
        copies = UnpackedCopies(root, self._reader, is_kept=settings.keep_models)
        self.cache = ArchiveCache(root, self._eviction, copies, send, self._on_progress)
        self._model_dirs = ModelDirs(self.cache, copies, is_kept=settings.keep_models)
        variables = worker_environment.for_installer(self._variables, settings.install_env_vars)
        self._installer = Installer(root, variables, self._output, settings.install_timeout_s)
        self._model_log = (
            ModelLog(Path(settings.model_log), settings.log_limits) if settings.model_log else None
        )
        self._metrics = PrintedMetrics(send)

    async def open(self) -> None:
        """Remove what nodes that were killed have left; have modules imported before a worker is wanted."""
        await self._model_dirs.open()
        if self._launcher is None:
            self._start_launcher()
        else:
            self._watch(self._launcher)

    def _start_launcher(self) -> Launcher:
        launcher = self._launcher = Launcher(partial(executed, self._variables))
        launcher.preload(self._settings.preload)
        self._watch(launcher)
        return launcher

    def _watch(self, launcher: Launcher) -> None:
        self._loop.add_reader(launcher.fd, self._on_report, launcher)

    def start(self, order: m.StartWorker) -> None:
        """Start a worker; its progress and its end are sent."""
        if order.worker_id in self._workers:
            return  # the order was repeated
        worker = StartedWorker(order)
        self._workers[order.worker_id] = worker
        if self._broker().secret_key:
            worker.own = new_key_pair()
            # Its archive takes longer to come, and its process to start, than this to arrive.
            self._tell_key(worker)
        worker.startup = asyncio.create_task(self._start_up(worker))
        worker.startup.add_done_callback(partial(self._startup_ended, worker))

    def tell_keys(self) -> None:
        """Tell the broker the keys of all workers again: what was told before may have been lost."""
        for worker in self._workers.values():
            self._tell_key(worker)

    def _tell_key(self, worker: StartedWorker) -> None:
        if worker.own is not None:
            self._send(m.WorkerKey(worker.start.worker_id, worker.own.public))

    def stop(self, worker_id: int, reason: str, *, kill: bool, is_unregistered: bool) -> None:
        """Stop a worker: at once, or by SIGTERM, and by SIGKILL if that takes too long."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return
        worker.stop_reason = reason or "told to stop"
        worker.is_unregistered |= is_unregistered
        if worker.process is None:
            if worker.startup is not None:
                worker.startup.cancel()
            self._end(worker)
        elif kill:
            self._signal(worker, signal.SIGKILL)
        else:
            self._signal(worker, signal.SIGTERM)
            self._loop.call_later(self._settings.stop_grace_s, self._signal, worker, signal.SIGKILL)

    def stop_all(self, reason: str) -> None:
        """Let every worker finish its batch and end."""
        for worker_id in list(self._workers):
            self.stop(worker_id, reason, kill=False, is_unregistered=True)

    async def close(self) -> None:
        """End the launcher, which kills the workers left, the downloads and the installers."""
        await self.cache.stop_fetching()
        self._reader.close()  # there is no time left for those that wait for it
        await self._installer.close()
        for launcher in filter(None, (self._launcher, *self._hung)):
            self._loop.remove_reader(launcher.fd)
            launcher.close(0 if launcher in self._hung else LAUNCHER_CLOSE_S)
        for worker in list(self._workers.values()):
            self._end(worker)
        await asyncio.to_thread(self._output.close, OUTPUT_CLOSE_S)
        await self._model_dirs.close()
        await self.cache.close()
        self._metrics.flush()
        if self._model_log is not None:
            self._model_log.close()

    def held(self) -> tuple[m.HeldWorker, ...]:
        """List the workers for a hello."""
        return tuple(
            m.HeldWorker(
                worker_id=worker.start.worker_id,
                model=worker.start.model,
                version=worker.start.version,
                archive=worker.start.archive,
                device=worker.start.device,
                pid=worker.process.pid if worker.process else 0,
                claim=worker.start.claim,
                public_key=worker.own.public if worker.own else "",
                devices=worker.start.devices,
                reserved_bytes=worker.start.reserved_bytes,
            )
            for worker in self._workers.values()
        )

    def memory(self) -> tuple[tuple[int, int], ...]:
        """List every worker with its resident bytes, as last measured."""
        return tuple((worker_id, worker.memory_bytes) for worker_id, worker in self._workers.items())

    def tidy(self) -> None:
        """Have a thread drop unused entries of the cache where the disk has no room for them any more."""
        self._loop.run_in_executor(None, self._eviction.tidy)

    def measure_memory(self) -> None:
        """Read how much memory each worker has."""
        for worker in self._workers.values():
            if worker.process and worker.process.pid:
                try:
                    worker.memory_bytes = psutil.Process(worker.process.pid).memory_info().rss
                except psutil.Error:
                    continue  # it has just ended; the launcher will report it

    async def _start_up(self, worker: StartedWorker) -> None:
        start = worker.start
        try:
            worker.model_dir = self._model_dirs.share(start)
            folder = await self._model_dirs.folder_of(worker.model_dir, start)
            environment = await self._install(worker, folder) if start.install_dependencies else None
            if start.installs_only:
                worker.stop_reason = "what its archive requires is installed"
                self._end(worker, exit_code=0)
            else:
                self._fork(worker, folder, environment)
            await asyncio.to_thread(self._eviction.tidy)
        except InstallFailed as error:
            # TorchServe's words, then the installer's.
            reason = f"Custom pip package installation failed for model {start.model}: {error}"
            self._end(worker, reason=reason, last_lines=error.last_lines)
        except (RelayError, OSError) as error:
            self._end(worker, reason=str(error))

    def _startup_ended(self, worker: StartedWorker, startup: asyncio.Task[None]) -> None:
        """Report an unforeseen fault: else the broker would wait for the worker."""
        if startup.cancelled() or (fault := startup.exception()) is None:
            return
        logger.error("worker.not_started", exc_info=fault, extra={"worker": worker.start.worker_id})
        if worker.process is None and self._workers.get(worker.start.worker_id) is worker:
            self._end(worker, reason=f"{type(fault).__name__}: {fault}")

    async def _install(self, worker: StartedWorker, folder: Path) -> Environment | None:
        """Provide what the archive requires; its installer's output is the worker's."""
        start = worker.start
        wanted = await self.cache.in_thread(requirements, folder, start.archive, self._reader)
        if wanted is None:
            return None
        worker.lock = self._eviction.use("environments", wanted.key)
        progress = m.WorkerProgressed(start.worker_id, "installing")
        return await self._installer.provide(
            wanted,
            folder,
            on_lines=partial(self._on_lines, worker),
            on_progress=lambda: self._send(progress),
        )

    def _fork(self, worker: StartedWorker, folder: Path, environment: Environment | None) -> None:
        launcher = self._launcher or self._start_launcher()
        output, status = Output(self._output, partial(self._on_lines, worker)), StatusPipe()
        worker.process = ForkedProcess(launcher, output, status, host.oom_kills())
        packages = [Path(environment.packages)] if environment and environment.packages else []
        spec = WorkerSpec(
            start=worker.start,
            node=self._settings.name,
            broker=msgspec.structs.replace(
                self._broker(), secret_key=worker.own.secret if worker.own else ""
            ),
            model_dir=str(folder),
            threads=self._threads(),
            sequence_headers=self._sequence_headers,
            variables=worker_environment.for_worker(
                self._variables, worker.start, self._sequence_headers, folder, *packages
            ),
            interpreter=environment.interpreter if environment else "",
            packages=environment.packages if environment else "",
            broker_keys_file=str(broker_keys_file.path_of(self._settings)),
        )
        try:
            writers = (output.stdout.writer, output.stderr.writer, status.writer)
            launcher.fork(spec, *(writer.fileno() for writer in writers))
        finally:
            output.follow()
            status.writer.close()
            self._loop.add_reader(status.reader.fileno(), self._on_status, worker, status)

    def _threads(self) -> int:
        """Share the cpus among the workers, unless the settings or the environment say how many threads."""
        if self._settings.threads_per_worker or worker_environment.threads_asked_for(self._variables):
            return self._settings.threads_per_worker
        return max(1, host.cpu_count() // max(2, len(self._workers)))

    def _signal(self, worker: StartedWorker, number: int) -> None:
        process = worker.process
        if process is None or self._workers.get(worker.start.worker_id) is not worker:
            return
        if process.launcher not in self._hung:
            process.launcher.signal(worker.start.worker_id, number)
            return
        # As long as its launcher has not reported its end, its number is no one else's.
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if number == signal.SIGKILL else os.kill)(process.pid, number)

    def _wait_for_logs(self) -> None:
        logs.wait_for_room()
        if self._model_log is not None:
            self._model_log.wait_for_room()

    def _on_lines(self, worker: StartedWorker, stream: Stream, lines: list[str]) -> None:
        """Log printed lines and take the metrics among them; called by the thread that reads output."""
        shown = [line for line in lines if not self._metrics.take(line)]
        if not shown:
            return
        facts = {
            "model": worker.start.model,
            "version": worker.start.version,
            "worker": worker.start.worker_id,
            "lines": shown,
            "stream": stream,
        }
        logger.info("worker.output", extra=facts)
        if self._model_log is not None:
            self._model_log.write(facts)

    def _on_progress(self, archive: str, phase: Phase, done_bytes: int, total_bytes: int) -> None:
        now = clock.monotonic()
        for worker_id, worker in self._workers.items():
            if worker.start.archive != archive or worker.process is not None:
                continue
            if phase == "unpacking" or now - worker.progress_at >= PROGRESS_INTERVAL_S:
                worker.progress_at = now
                self._send(
                    m.WorkerProgressed(worker_id, phase, done_bytes=done_bytes, total_bytes=total_bytes)
                )

    def check_launchers(self, now: float) -> None:
        """Set a launcher aside that doesn't obey: its workers go on, new ones come from another.

        It is killed when its last worker has ended.
        """
        if self._launcher is not None and self._launcher.hangs(now):
            hung, self._launcher = self._launcher, None
            self._hung.append(hung)
            logger.error("launcher.hangs", extra={"pid": hung.pid, "workers": len(self._forked_by(hung))})
            for worker in self._forked_by(hung):
                if worker.process is None or not worker.process.pid:
                    self._end(worker, reason="its launcher hangs, and has not started it")
                elif worker.stop_reason:
                    self._signal(worker, signal.SIGKILL)
        for launcher in list(self._hung):
            for worker in self._forked_by(launcher):
                if worker.process is not None and _has_ended(worker.process.pid):
                    self._end(worker, reason="it ended while its launcher hung")
            if not self._forked_by(launcher):
                self._lose_launcher(launcher)

    def _forked_by(self, launcher: Launcher) -> list[StartedWorker]:
        return [one for one in self._workers.values() if one.process and one.process.launcher is launcher]

    def _on_report(self, launcher: Launcher) -> None:
        report = launcher.report()
        if report is None:
            self._lose_launcher(launcher)
            return
        if isinstance(report, NotPreloaded):
            facts = {"wanted": report.module, "reason": report.reason}
            logger.warning("node.not_preloaded", extra=facts)
            return
        worker = self._workers.get(report.worker_id)
        if worker is None or worker.process is None or worker.process.launcher is not launcher:
            if isinstance(report, Forked):  # it hung, and its worker was given up
                launcher.signal(report.worker_id, signal.SIGKILL)
            return
        match report:
            case Forked(worker_id, pid):
                worker.process.pid = pid
                self._send(m.WorkerProgressed(worker_id, "loading", pid=pid))
                logger.info(
                    "worker.forked", extra={"worker": worker_id, "model": worker.start.model, "pid": pid}
                )
            case Exited(_, exit_code, signal_number):
                self._end(worker, exit_code=exit_code, signal_number=signal_number)

    def _on_status(self, worker: StartedWorker, status: StatusPipe) -> None:
        """Tell the broker how far a worker has come that has loaded its model."""
        phases = status.phases()
        if phases is None:
            self._loop.remove_reader(status.reader.fileno())
        for said in phases or ():
            pid = worker.process.pid if worker.process else 0
            self._send(m.WorkerProgressed(worker.start.worker_id, said.phase, pid=pid))

    def _lose_launcher(self, launcher: Launcher) -> None:
        """Report every process as ended: the kernel kills them. The next start begins a new launcher."""
        self._loop.remove_reader(launcher.fd)
        exit_code = launcher.close(0 if launcher in self._hung else LAUNCHER_CLOSE_S)
        if launcher in self._hung:
            self._hung.remove(launcher)
        else:
            self._launcher = None
        logger.error("launcher.lost", extra={"exit_code": exit_code})
        for worker in self._forked_by(launcher):
            self._end(worker, signal_number=signal.SIGKILL, reason=f"its launcher exited with {exit_code}")

    def _end(
        self,
        worker: StartedWorker,
        *,
        exit_code: int | None = None,
        signal_number: int | None = None,
        reason: str = "",
        last_lines: tuple[str, ...] = (),
    ) -> None:
        """Remove a worker and report why it ended: as it wrote itself, or by its exit code or signal."""
        start = worker.start
        del self._workers[start.worker_id]
        if worker.model_dir is not None:
            was_stopped = bool(worker.stop_reason)
            self._model_dirs.leave(
                worker.model_dir, was_stopped=was_stopped, is_unregistered=worker.is_unregistered
            )
        if worker.lock is not None:
            worker.lock.release()
        # With a `reason` something else has ended the process, or there was none.
        of_itself = not (reason or worker.stop_reason)
        reason = reason or worker.stop_reason or _ending(exit_code, signal_number)
        out_of_memory = False
        if worker.process is not None:
            last_lines = worker.process.output.close()
            self._loop.remove_reader(worker.process.status.reader.fileno())
            words = worker.process.status.last_words()
            if words is not None:
                reason, out_of_memory = words.reason, words.out_of_memory
            elif signal_number == signal.SIGKILL and not worker.stop_reason:
                out_of_memory = host.oom_kills() > worker.process.oom_kills_before
                reason += " for lack of memory" if out_of_memory else ""
        said = reason[:SAID_LIMIT_CHARS]
        self._send(
            m.WorkerExited(
                start.worker_id,
                exit_code,
                signal_number,
                said,
                out_of_memory,
                last_lines,
                of_itself=of_itself,
            )
        )
        facts = {"worker": start.worker_id, "model": start.model, "version": start.version, "reason": reason}
        logger.log(logging.INFO if worker.stop_reason else logging.WARNING, "worker.exited", extra=facts)


def _has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _ending(exit_code: int | None, signal_number: int | None) -> str:
    return f"killed by signal {signal_number}" if signal_number else f"exited with {exit_code}"
