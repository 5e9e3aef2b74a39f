"""The gateway's process: gunicorn with our settings, in this process, until a signal stops it.

gunicorn's arbiter forks the processes that serve and starts another where one dies. Nothing here reads
the environment or the command line: settings are handed down.
"""

import asyncio
import contextlib
import gc
import logging
import math
import os
import resource
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker
from setproctitle import setproctitle
from uvicorn_worker import UvicornWorker

from torchrelay.gateway.app import create_app
from torchrelay.gateway.grpc import listen_addresses
from torchrelay.gateway.http import addresses, certificates
from torchrelay.gateway.http.connection import GatewayProtocol
from torchrelay.gateway.http.uvicorn_server import Server
from torchrelay.gateway.link import Link
from torchrelay.gateway.listener_app import ListenerApp
from torchrelay.shared import clock, member_credentials
from torchrelay.shared.member_credentials import REFUSED_STATUS, CredentialsError
from torchrelay.shared.processes.parent_death import die_with_parent
from torchrelay.shared.settings import GatewaySettings, SettingsError, is_reachable_from_outside

logger = logging.getLogger(__name__)

#: Idle connections are kept longer than load balancers keep theirs, so that they never meet a closed one.
KEEP_ALIVE_S = 75
#: How often a process shows the arbiter that its loop runs.
NOTIFY_S = 0.5
#: The arbiter looks after its processes every second; so late, it stood still itself, and they may have.
LATE_LOOK_S = 2.5
#: After a process that couldn't be started, while others serve, the next try comes so much later.
START_AGAIN_S = 1.0
#: Open files beside connections: listeners, logs, what Python opens now and then.
SPARE_FILES = 128
#: New objects between two looks for cycles among them, and how many such looks there are between two at all
#: that have come meanwhile: nothing else is done until it has seen them, at half a microsecond each.
COLLECT_AFTER_OBJECTS = 5_000
COLLECT_MORE_AFTER = 2
#: Looks of that kind between two at everything, which take longest: while thousands wait, 50 ms.
COLLECT_ALL_AFTER = 400
#: Of the time to stop, what is kept for Bye after the last request.
BYE_S = 1


def run(config: GatewaySettings) -> int:
    """Serve until SIGINT or SIGTERM and return an exit status: 1 where it could not start or go on.

    It is REFUSED_STATUS where the broker doesn't know this host's key and the settings say to end then.
    """
    try:
        if config.credentials_file is not None:
            member_credentials.require(Path(config.credentials_file))
        encrypted = addresses.encrypted(config)
        certificate = certificates.context(config) if encrypted else None
        listeners = addresses.bind_all(config)
        require_grpc(config)
        held = listen_addresses.hold(config)
    except (SettingsError, CredentialsError, OSError) as error:
        logger.error("gateway.cannot_start", extra={"reason": str(error)})
        return 1
    config = with_open_files(config)
    listened_on = (*addresses.all_of(config).values(), *listen_addresses.all_of(config).values())
    facts = {"broker": config.broker_address, "addresses": ",".join(listened_on)}
    logger.info("gateway.started", extra=facts)
    pid = os.getpid()
    fds = [listener.detach() for listener in listeners]
    application = Application(config, fds, {key: certificate for key in encrypted if certificate})
    try:
        Master(application).run()
    except SystemExit as stop:
        if os.getpid() != pid:
            raise  # a forked process ends here
        for holder in held:
            holder.close()
        if stop.code == REFUSED_STATUS:
            return REFUSED_STATUS
        return 1 if stop.code else 0
    return 0


def require_grpc(config: GatewaySettings) -> None:
    """Raise SettingsError where gRPC is asked for, and can't be spoken."""
    if not config.enable_grpc:
        return
    if found := listen_addresses.faults(config):
        raise SettingsError("; ".join(found))
    if not listen_addresses.is_installed():
        raise SettingsError(listen_addresses.NOT_INSTALLED)


def with_open_files(config: GatewaySettings) -> GatewaySettings:
    """Raise the limit of open files to what connection_limit needs, or lower that to what there may be."""
    # TLS handshakes have a quarter to themselves.
    wanted = config.connection_limit * 5 // 4 + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            limit = max(1, (soft - SPARE_FILES) * 4 // 5)
            logger.warning("gateway.few_open_files", extra={"limit": soft, "connection_limit": limit})
            return msgspec.structs.replace(config, connection_limit=limit)
    return config


class Application(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """Our settings in gunicorn's words; `listeners` are the fds of bound sockets.

    `certificates` are for those that speak TLS.
    """

    def __init__(
        self,
        config: GatewaySettings,
        listeners: list[int],
        certificates: Mapping[addresses.Key, ssl.SSLContext],
    ) -> None:
        self.certificates = certificates
        self.connection_limit = config.connection_limit
        self.leave_lead_s = config.leave_lead_s
        self.config = config
        self._listeners = listeners
        super().__init__()

    @property
    def grpc_processes(self) -> int:
        """How many of the processes speak gRPC, and nothing else."""
        return self.config.grpc_processes if self.config.enable_grpc else 0

    def load_config(self) -> None:
        """Set what differs from gunicorn's defaults."""
        chosen = {
            "bind": [f"fd://{fd}" for fd in self._listeners],
            "workers": self.config.processes + self.grpc_processes,
            "worker_class": ServingProcess,
            "logger_class": PropagatingLogger,
            "graceful_timeout": self.config.graceful_timeout_s,
            "timeout": self.config.stuck_after_s,
            "keepalive": KEEP_ALIVE_S,
            "proc_name": "torchrelay gateway",
            "post_fork": _tie,
            "post_worker_init": _freeze,
            # A socket for gunicorn's own tools, which asks nobody for a key.
            "control_socket_disable": True,
        }
        for name, value in chosen.items():
            if name in self.cfg.settings:  # the last one came with gunicorn 25
                self.cfg.set(name, value)

    def load(self) -> ListenerApp:
        """Make the application, after the fork."""
        made = create_app(Link(self.config), self.config)
        made.add_own_name(socket.gethostname())
        if any(map(is_reachable_from_outside, addresses.all_of(self.config).values())):
            _learn_full_name(made)
        return made


class Master(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """The process that starts and watches those that serve."""

    _looked_at = _looks_since = _start_again_at = -math.inf

    def init_signals(self) -> None:
        """Handle signals as the base does; a hangup that `nohup` has us ignore stays so."""
        with _ignored_hangups():
            super().init_signals()

    def murder_workers(self) -> None:
        """Kill the processes whose event loops hang, unless this process itself was stopped meanwhile.

        At once: one that is stopped, or hangs, heeds no signal that could be caught, and its callers wait.
        """
        now = clock.monotonic()
        if not self.may_judge(now):
            return
        for pid, worker in list(self.WORKERS.items()):
            # Of one that is still starting, it is a time of day, and lies ahead.
            silent_s = now - worker.tmp.last_update()
            if silent_s > self.timeout:
                facts = {"pid": pid, "silent_s": round(silent_s, 1)}
                logger.error("gateway.process_stuck", extra=facts)
                self.kill_worker(pid, signal.SIGKILL)

    def manage_workers(self) -> None:
        """Start what is missing as the base does, which ends where there is no file for it."""
        if clock.monotonic() < self._start_again_at:
            return
        try:
            super().manage_workers()
        except OSError as error:
            if not self.is_serving():
                raise
            self._start_later(str(error))

    def reap_workers(self) -> None:
        """See who has ended as the base does, which ends all where one couldn't start."""
        try:
            super().reap_workers()
        except HaltServer as halt:
            if halt.exit_status != self.WORKER_BOOT_ERROR or not self.is_serving():
                raise
            self._start_later("it ended while it was being set up")

    def spawn_worker(self) -> int:
        """Start a process of the kind that is missing; those that speak HTTP first."""
        speaking_http = sum(isinstance(worker, ServingProcess) for worker in self.WORKERS.values())
        self.worker_class = ServingProcess if speaking_http < self.app.config.processes else GrpcProcess
        pid: int = super().spawn_worker()
        return pid

    def is_serving(self) -> bool:
        """Tell whether there is a process that serves; until one does, its last sign of life lies ahead."""
        now = clock.monotonic()
        return any(worker.tmp.last_update() <= now for worker in self.WORKERS.values())

    def _start_later(self, reason: str) -> None:
        self._start_again_at = clock.monotonic() + START_AGAIN_S
        facts = {"reason": reason, "processes": len(self.WORKERS), "retry_in_s": START_AGAIN_S}
        logger.error("gateway.process_not_started", extra=facts)

    def stop(self, graceful: bool = True) -> None:
        """Stop as the base does, but tell the processes first and keep the listeners open meanwhile.

        They say by themselves that they leave, and go on for `leave_lead_s`; see `Server`.
        """
        if graceful and self.WORKERS and self.app.leave_lead_s:
            self.kill_workers(signal.SIGTERM)
            graceful = self._wait(self.app.leave_lead_s)
        super().stop(graceful)

    def _wait(self, seconds: float) -> bool:
        """Wait while processes are left; return False if a signal asks for haste."""
        until = clock.monotonic() + seconds
        while self.WORKERS and (left_s := until - clock.monotonic()) > 0:
            if {signal.SIGINT, signal.SIGQUIT}.intersection(self.wait_for_signals(min(left_s, 0.1))):
                return False
            self.reap_workers()
        return True

    def may_judge(self, now: float) -> bool:
        """Tell whether this process has looked all the while in which others must have given a sign.

        After a pause of its own it hasn't: its host may have slept, and they with it.
        """
        if now - self._looked_at > LATE_LOOK_S:
            self._looks_since = now
        self._looked_at = now
        return now - self._looks_since > int(self.timeout)


class ServingProcess(UvicornWorker):  # type: ignore[misc]  # uvicorn-worker has no types
    """A process that serves: uvicorn on uvloop, with nothing in its answers that we didn't put there."""

    # gunicorn's signature, and its types.
    def __init__(self, age: Any, ppid: Any, sockets: Any, app: Any, timeout: Any, cfg: Any, log: Any) -> None:
        self.CONFIG_KWARGS = {
            "loop": "uvloop",
            "interface": "asgi3",
            "http": GatewayProtocol,
            "ws": "none",
            "lifespan": "on",
            "access_log": False,
            # Each process does this by itself, also while it stops.
            "callback_notify": None,
            # Who the client says it is behind a proxy is of no use here.
            "proxy_headers": False,
            "server_header": False,
            "date_header": False,
            "timeout_graceful_shutdown": max(1, cfg.graceful_timeout - BYE_S),
        }
        super().__init__(age, ppid, sockets, app, timeout, cfg, log)
        # The base leaves it no way but Python's last resort, which writes to stderr on the loop.
        logging.getLogger("uvicorn.error").propagate = True

    async def _serve(self) -> None:
        """Serve as the base does, with our server."""
        self.config.app = self.wsgi
        self.server = Server(
            self.config, self.app.certificates, self.wsgi.cors, self.app.connection_limit,
            leave=self.wsgi.leave, lead_s=self.app.leave_lead_s,
        )  # fmt: skip
        self._install_sigquit_handler()
        notifying = asyncio.create_task(self._keep_notifying())
        await self.server.serve(sockets=self.sockets)
        notifying.cancel()
        if not self.server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    async def _keep_notifying(self) -> None:
        while True:
            await self.callback_notify()
            await asyncio.sleep(NOTIFY_S)

    async def callback_notify(self) -> None:
        """Say that this process lives; stop if the arbiter doesn't, should the kernel not have seen to it."""
        if os.getppid() != self.ppid:
            signal.raise_signal(signal.SIGTERM)
        await super().callback_notify()

    def init_signals(self) -> None:
        """Handle signals as the base does, but for a hangup that is ignored."""
        with _ignored_hangups():
            super().init_signals()

    def handle_exit(self, sig: int, frame: object) -> None:
        """Stop as on SIGTERM, without its lead.

        On SIGINT gunicorn sends its processes SIGQUIT, which uvicorn doesn't know.
        """
        self.server.lead_s = 0
        signal.raise_signal(signal.SIGTERM)


class GrpcProcess(Worker):  # type: ignore[misc]  # gunicorn has no types
    """A process that speaks gRPC. Nothing of that is imported before it is forked: grpc starts threads."""

    def load_wsgi(self) -> None:
        """Load what speaks gRPC, where others have their application."""
        from torchrelay.gateway.grpc.gathering_link import GatheringLink
        from torchrelay.gateway.grpc.grpc_server import GrpcServer

        setproctitle("gunicorn: worker [torchrelay gateway, gRPC]")
        config = self.app.config
        self.server = partial(GrpcServer, GatheringLink(config), config, self.notify, NOTIFY_S)

    def init_signals(self) -> None:
        """Leave signals to the event loop, but for a hangup that is ignored."""
        with _ignored_hangups():
            for number in self.SIGNALS:
                signal.signal(number, signal.SIG_DFL)

    def run(self) -> None:
        """Serve until a signal stops it."""

        async def serve() -> None:
            await self.server().serve()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    def notify(self) -> None:
        """Say that this process lives; stop if the arbiter doesn't, should the kernel not have seen to it."""
        if os.getppid() != self.ppid:
            signal.raise_signal(signal.SIGTERM)
        super().notify()


class PropagatingLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Sends what gunicorn and uvicorn say to the process's own log, warnings and worse."""

    def setup(self, cfg: Any) -> None:
        """Set up gunicorn's two loggers."""
        self.error_log.setLevel(logging.WARNING)
        self.error_log.propagate = True
        self.access_log.propagate = False


def _learn_full_name(app: ListenerApp) -> None:
    """Find this host's full name in a thread: its DNS may take its time, or never answer."""
    threading.Thread(target=lambda: app.add_own_name(socket.getfqdn()), name="name", daemon=True).start()


def _tie(_arbiter: object, worker: ServingProcess) -> None:
    """Have the process end with its arbiter: it holds the listeners, which the next gateway needs."""
    die_with_parent(worker.ppid)


@contextlib.contextmanager
def _ignored_hangups() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, before)


def _freeze(_worker: object) -> None:
    """Keep the collector from walking all modules again and again: they stay.

    PERF: requests leave hardly a cycle behind, and looking for them every 700 objects took 6 % of the
    time; what there is can wait for more. But not for 400,000: those of 5,000 requests that wait took 88 ms,
    and more than a second on a busy machine.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS, COLLECT_MORE_AFTER, COLLECT_ALL_AFTER)
