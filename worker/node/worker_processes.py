"""The workers of a node: started through the launcher, watched, stopped, and their ends reported.

Runs on the node's event loop. What the broker should hear goes to `tell`.
"""

import asyncio
import logging
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
from torchrelay.shared.wire.fields import SAID_LIMIT_CHARS
from torchrelay.worker.common import worker_environment
from torchrelay.worker.common.measuring import PrintedMetrics
from torchrelay.worker.launcher.launcher_protocol import Exited, Forked, SequenceHeaders, WorkerSpec
from torchrelay.worker.node.archive_cache import ArchiveCache, Phase
from torchrelay.worker.node.dependencies import Environment, Installer, InstallFailed, requirements
from torchrelay.worker.node.eviction import Shelf
from torchrelay.worker.node.launcher_handle import Launcher
from torchrelay.worker.node.model_dirs import ModelDirs, Use
from torchrelay.worker.node.model_log import ModelLog
from torchrelay.worker.node.unpacked_copies import Copies
from torchrelay.worker.node.worker_output import Output, OutputReader, StatusPipe, Stream

logger = logging.getLogger(__name__)

#: Progress of a download goes out no more often.
PROGRESS_INTERVAL_S = 0.5
#: How long a launcher may take to end by itself.
LAUNCHER_CLOSE_S = 1.0
#: How long what workers have printed last may take to be written down when the node ends.
OUTPUT_CLOSE_S = 2.0


class Process(msgspec.Struct, eq=False):
    """A worker's process, ordered from the launcher; `pid` is 0 until it has been forked."""

    output: Output
    status: StatusPipe
    oom_kills_before: int
    pid: int = 0


class Ward(msgspec.Struct, eq=False):
    """A worker in the node's care, from the order to start it until its process is gone."""

    start: m.StartWorker
    #: Provides the archive and orders the process.
    arrival: asyncio.Task[None] | None = None
    process: Process | None = None
    memory_bytes: int = 0
    #: Why it was told to stop; empty while it is wanted.
    stop_reason: str = ""
    is_unregistered: bool = False
    progress_at: float = 0.0
    #: Its share in the folder of its model.
    model_dir: Use | None = None
    #: On the environment that it uses.
    lock: SharedLock | None = None


class Nursery:
    """Every worker of a node, by id."""

    def __init__(
        self, settings: NodeSettings, environment: Mapping[str, str], tell: Callable[[m.Message], None]
    ) -> None:
        self._settings = settings
        self._tell = tell
        self._variables = worker_environment.inherited(
            environment,
            settings.blacklist_env_vars,
            secrets=settings.secret_env_vars,
            credentials=settings.credential_env_vars,
        )
        if withheld := worker_environment.withheld_credentials(environment, settings.credential_env_vars):
            logger.warning("node.credentials_withheld", extra={"variables": withheld})
        self._sequence_headers = SequenceHeaders(
            settings.header_key_sequence_id,
            settings.header_key_sequence_start,
            settings.header_key_sequence_end,
        )
        self._loop = asyncio.get_running_loop()
        self._wards: dict[int, Ward] = {}
        self._launcher: Launcher | None = None
        root = Path(settings.cache_dir).resolve()
        self._output = OutputReader(self._wait_for_logs)
        self._shelf = Shelf(root, settings.cache_limit_bytes)
        self._reader = ArchiveReader(settings.archive_time_limit_s, settings.archive_memory_limit_bytes)
        copies = Copies(root, self._reader, is_kept=settings.keep_models)
        self.cache = ArchiveCache(root, self._shelf, copies, tell, self._on_progress)
        self._model_dirs = ModelDirs(self.cache, copies, is_kept=settings.keep_models)
        self._installer = Installer(
            root,
            worker_environment.for_installer(self._variables, settings.install_env_vars),
            self._output,
            settings.install_timeout_s,
        )
        self._model_log = (
            ModelLog(Path(settings.model_log), settings.log_limits) if settings.model_log else None
        )
        self._metrics = PrintedMetrics(tell)

    async def clear(self) -> None:
        """Remove what earlier nodes should have removed."""
        await self._model_dirs.open()

    def open(self) -> None:
        """Start the launcher: by the time a worker is wanted, it has imported torch."""
        self._launcher = Launcher(self._variables)
        self._loop.add_reader(self._launcher.fd, self._on_report)

    @property
    def is_empty(self) -> bool:
        """Whether no worker is left."""
        return not self._wards

    def start(self, order: m.StartWorker) -> None:
        """Start a worker; what comes of it is told."""
        if order.worker_id in self._wards:
            return  # the order was repeated
        ward = Ward(order)
        self._wards[order.worker_id] = ward
        ward.arrival = asyncio.create_task(self._raise(ward))
        ward.arrival.add_done_callback(partial(self._arrived, ward))

    def stop(self, worker_id: int, reason: str, *, kill: bool, is_unregistered: bool) -> None:
        """Stop a worker: at once, or by SIGTERM, and by SIGKILL if that takes too long."""
        ward = self._wards.get(worker_id)
        if ward is None:
            return
        ward.stop_reason = reason or "told to stop"
        ward.is_unregistered |= is_unregistered
        if ward.process is None:
            if ward.arrival is not None:
                ward.arrival.cancel()
            self._end(ward)
        elif kill:
            self._signal(ward, signal.SIGKILL)
        else:
            self._signal(ward, signal.SIGTERM)
            self._loop.call_later(self._settings.stop_grace_s, self._signal, ward, signal.SIGKILL)

    def stop_all(self, reason: str) -> None:
        """Let every worker finish its batch and go."""
        for worker_id in list(self._wards):
            self.stop(worker_id, reason, kill=False, is_unregistered=True)

    async def close(self) -> None:
        """End the launcher, which kills what is left, the downloads and the installers."""
        await self.cache.stop_fetching()
        self._reader.close()  # whoever waits for it has no time left
        await self._installer.close()
        if self._launcher is not None:
            self._loop.remove_reader(self._launcher.fd)
            self._launcher.close(LAUNCHER_CLOSE_S)
        for ward in list(self._wards.values()):
            self._end(ward)
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
                worker_id=ward.start.worker_id,
                model=ward.start.model,
                version=ward.start.version,
                archive=ward.start.archive,
                device=ward.start.device,
                pid=ward.process.pid if ward.process else 0,
                claim=ward.start.claim,
            )
            for ward in self._wards.values()
        )

    def memory(self) -> tuple[tuple[int, int], ...]:
        """List every worker with its resident bytes, as last measured."""
        return tuple((worker_id, ward.memory_bytes) for worker_id, ward in self._wards.items())

    def tidy(self) -> None:
        """Have a thread drop what is kept unused where the disk has no room for it any more."""
        self._loop.run_in_executor(None, self._shelf.tidy)

    def measure_memory(self) -> None:
        """Read how much memory each worker has."""
        for ward in self._wards.values():
            if ward.process and ward.process.pid:
                try:
                    ward.memory_bytes = psutil.Process(ward.process.pid).memory_info().rss
                except psutil.Error:
                    continue  # it has just ended; the launcher is about to say so

    async def _raise(self, ward: Ward) -> None:
        start = ward.start
        try:
            ward.model_dir = self._model_dirs.enter(start)
            folder = await ward.model_dir.folder()
            environment = await self._install(ward, folder) if start.install_dependencies else None
            if start.installs_only:
                ward.stop_reason = "what its archive requires is installed"
                self._end(ward, exit_code=0)
            else:
                self._fork(ward, folder, environment)
            await asyncio.to_thread(self._shelf.tidy)
        except InstallFailed as error:
            # TorchServe's words, then the installer's.
            reason = f"Custom pip package installation failed for model {start.model}: {error}"
            self._end(ward, reason=reason, last_lines=error.last_lines)
        except (RelayError, OSError) as error:
            self._end(ward, reason=str(error))

    def _arrived(self, ward: Ward, arrival: asyncio.Task[None]) -> None:
        """Tell of a fault that nobody has foreseen: the broker would wait for the worker."""
        if arrival.cancelled() or (fault := arrival.exception()) is None:
            return
        logger.error("worker.not_started", exc_info=fault, extra={"worker": ward.start.worker_id})
        if ward.process is None and self._wards.get(ward.start.worker_id) is ward:
            self._end(ward, reason=f"{type(fault).__name__}: {fault}")

    async def _install(self, ward: Ward, folder: Path) -> Environment | None:
        """Provide what the archive requires; its installer's output is the worker's."""
        start = ward.start
        wanted = await self.cache.in_thread(requirements, folder, start.archive, self._reader)
        if wanted is None:
            return None
        ward.lock = self._shelf.use_environment(wanted.key)
        progress = m.WorkerProgressed(start.worker_id, "installing")
        return await self._installer.provide(
            wanted,
            folder,
            on_lines=partial(self._on_lines, ward),
            on_progress=lambda: self._tell(progress),
        )

    def _fork(self, ward: Ward, folder: Path, environment: Environment | None) -> None:
        if self._launcher is None:
            self.open()
        assert self._launcher is not None
        output, status = Output(self._output, partial(self._on_lines, ward)), StatusPipe()
        ward.process = Process(output, status, host.oom_kills())
        packages = [Path(environment.packages)] if environment and environment.packages else []
        spec = WorkerSpec(
            start=ward.start,
            node=self._settings.name,
            broker_address=self._settings.broker_address,
            model_dir=str(folder),
            threads=self._threads(),
            sequence_headers=self._sequence_headers,
            variables=worker_environment.for_worker(
                self._variables, ward.start, self._sequence_headers, folder, *packages
            ),
            interpreter=environment.interpreter if environment else "",
            packages=environment.packages if environment else "",
        )
        try:
            self._launcher.fork(spec, output.stdout.writer, output.stderr.writer, status.writer)
        finally:
            output.follow()
            status.close_writer()

    def _threads(self) -> int:
        """Share the cpus among the workers, unless the operator, or the environment, has said how many."""
        if self._settings.threads_per_worker or worker_environment.threads_asked_for(self._variables):
            return self._settings.threads_per_worker
        return max(1, host.cpu_count() // max(2, len(self._wards)))

    def _signal(self, ward: Ward, number: int) -> None:
        if self._launcher is not None and self._wards.get(ward.start.worker_id) is ward:
            self._launcher.signal(ward.start.worker_id, number)

    def _wait_for_logs(self) -> None:
        logs.wait_for_room()
        if self._model_log is not None:
            self._model_log.wait_for_room()

    def _on_lines(self, ward: Ward, stream: Stream, lines: list[str]) -> None:
        """Take what was printed; called by the thread that reads it."""
        shown = [line for line in lines if not self._metrics.take(line)]
        if not shown:
            return
        facts = {
            "model": ward.start.model,
            "version": ward.start.version,
            "worker": ward.start.worker_id,
            "lines": shown,
            "stream": stream,
        }
        logger.info("worker.output", extra=facts)
        if self._model_log is not None:
            self._model_log.write(facts)

    def _on_progress(self, archive: str, phase: Phase, done_bytes: int, total_bytes: int) -> None:
        now = clock.monotonic()
        for worker_id, ward in self._wards.items():
            if ward.start.archive != archive or ward.process is not None:
                continue
            if phase == "unpacking" or now - ward.progress_at >= PROGRESS_INTERVAL_S:
                ward.progress_at = now
                self._tell(
                    m.WorkerProgressed(worker_id, phase, done_bytes=done_bytes, total_bytes=total_bytes)
                )

    def _on_report(self) -> None:
        assert self._launcher is not None
        match self._launcher.report():
            case Forked(worker_id, pid):
                ward = self._wards[worker_id]
                assert ward.process is not None
                ward.process.pid = pid
                self._tell(m.WorkerProgressed(worker_id, "loading", pid=pid))
                logger.info(
                    "worker.forked", extra={"worker": worker_id, "model": ward.start.model, "pid": pid}
                )
            case Exited(worker_id, exit_code, signal_number):
                self._end(self._wards[worker_id], exit_code=exit_code, signal_number=signal_number)
            case None:
                self._lose_launcher()

    def _lose_launcher(self) -> None:
        """Report every process as ended, which the kernel sees to; the next start brings a new launcher."""
        assert self._launcher is not None
        self._loop.remove_reader(self._launcher.fd)
        exit_code = self._launcher.close(LAUNCHER_CLOSE_S)
        self._launcher = None
        logger.error("launcher.lost", extra={"exit_code": exit_code})
        for ward in [ward for ward in self._wards.values() if ward.process]:
            self._end(ward, signal_number=signal.SIGKILL, reason=f"its launcher exited with {exit_code}")

    def _end(
        self,
        ward: Ward,
        *,
        exit_code: int | None = None,
        signal_number: int | None = None,
        reason: str = "",
        last_lines: tuple[str, ...] = (),
    ) -> None:
        """Let a worker go and tell why it ended: in its own words, or by how it ended."""
        worker_id = ward.start.worker_id
        del self._wards[worker_id]
        if ward.model_dir is not None:
            ward.model_dir.leave(was_stopped=bool(ward.stop_reason), is_unregistered=ward.is_unregistered)
        if ward.lock is not None:
            ward.lock.release()
        # With a reason given here the process was ended by something else, or there was none.
        of_itself = not (reason or ward.stop_reason)
        reason = reason or ward.stop_reason or _ending(exit_code, signal_number)
        out_of_memory = False
        if ward.process is not None:
            last_lines = ward.process.output.close()
            words = ward.process.status.last_words()
            if words is not None:
                reason, out_of_memory = words.reason, words.out_of_memory
            elif signal_number == signal.SIGKILL and not ward.stop_reason:
                out_of_memory = host.oom_kills() > ward.process.oom_kills_before
                reason += " for lack of memory" if out_of_memory else ""
        self._tell(
            m.WorkerExited(
                worker_id,
                exit_code,
                signal_number,
                reason[:SAID_LIMIT_CHARS],
                out_of_memory,
                last_lines,
                of_itself=of_itself,
            )
        )
        logger.log(
            logging.INFO if ward.stop_reason else logging.WARNING,
            "worker.exited",
            extra={
                "worker": worker_id,
                "model": ward.start.model,
                "version": ward.start.version,
                "reason": reason,
            },
        )


def _ending(exit_code: int | None, signal_number: int | None) -> str:
    return f"killed by signal {signal_number}" if signal_number else f"exited with {exit_code}"
