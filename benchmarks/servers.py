"""Starts and stops the servers under test: each from its own folder, on free ports of 127.0.0.1.

Both read the same config.properties, so that neither has a setting the other lacks.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil

from benchmarks.processes import RoleOf, torchrelay_role, torchserve_role
from benchmarks.results import RunPlan
from torchrelay.shared import clock
from torchrelay.shared.settings import environment

#: Both servers print this once they answer.
STARTED = "Model server started."
MODEL = "echo"
ARCHIVE = "echo.mar"
BODY = b"torchrelay-64-by" * 4
START_LIMIT_S = 120.0
STOP_LIMIT_S = 20.0
ANSWER_LIMIT_S = 60.0
POLL_S = 0.01
LOG = "server.log"
LAST_WORDS_BYTES = 2000
#: Logs nothing below an error; TorchServe's own default writes several lines for each request. Not called
#: log4j2.xml, which TorchServe would find by itself: the folder it runs in is on its class path.
QUIET_CONFIG = "quiet.xml"
QUIET_LOG4J = '<Configuration><Loggers><Root level="error"/></Loggers></Configuration>\n'


class ServerFailed(RuntimeError):
    """A server under test did not do what every run needs; says which, and its last words."""


@dataclass(frozen=True)
class Contestant:
    """A server to be measured: how it is called in reports and on the command line."""

    key: str
    label: str
    command: tuple[str, ...]
    role_of: RoleOf
    #: Comes before everything else in PATH.
    path: str = ""
    #: Where Python looks for modules before anywhere else; empty for what is installed.
    python_path: str = ""


def require_java() -> None:
    """Make sure that TorchServe can run. Raises ServerFailed with the way to get there."""
    if shutil.which("java") is None:
        raise ServerFailed(
            "TorchServe needs Java, which is not installed:\n    apt-get install default-jre-headless\n"
            "or measure torchrelay alone: --without-torchserve"
        )


def torchrelay(gateway_processes: int) -> Contestant:
    """Describe `torchrelay serve` of this environment."""
    program = str(Path(sys.executable).parent / "torchrelay")
    return Contestant(
        "torchrelay",
        "torchrelay",
        (program, "serve", "--enable-model-api", "--gateway-processes", str(gateway_processes),
         "--state-dir", "state", "--cache-dir", "cache"),
        torchrelay_role,
    )  # fmt: skip


def torchrelay_at(tree: Path, key: str, gateway_processes: int) -> Contestant:
    """Describe `torchrelay serve` of the sources in a folder, run by this environment."""
    _, *options = torchrelay(gateway_processes).command
    sources = str(tree / "src")
    # A folder without them would run those that are installed, and compare them with themselves.
    start = f"from torchrelay.cli import main; assert main.__file__.startswith({sources!r}); main.main()"
    return Contestant(key, key, (sys.executable, "-c", start, *options), torchrelay_role, python_path=sources)


def torchserve(venv: Path, *, is_quiet: bool = False) -> Contestant:
    """Describe TorchServe in its environment, as it comes or with its logs switched off."""
    command = [str(venv / "bin" / "torchserve"), "--start", "--foreground", "--ncs"]
    command += ["--disable-token-auth", "--enable-model-api"]
    if is_quiet:
        command += ["--log-config", QUIET_CONFIG]
    key, label = ("torchserve-quiet", "TorchServe, logs off") if is_quiet else ("torchserve", "TorchServe")
    return Contestant(key, label, tuple(command), torchserve_role, str(venv / "bin"))


@dataclass
class StartedServer:
    """A server that runs, or is on its way to."""

    contestant: Contestant
    process: subprocess.Popen[bytes]
    inference: str
    management: str
    home: Path
    launched_at: float
    #: When it said STARTED; set by the thread that watches its output.
    started_at: float | None = field(default=None)

    @property
    def prediction_url(self) -> str:
        """Where requests go."""
        return f"{self.inference}/predictions/{MODEL}"

    def await_started(self) -> float:
        """Return the seconds from the command to STARTED."""
        self._until(lambda: self.started_at is not None)
        assert self.started_at is not None
        return self.started_at - self.launched_at

    def await_prediction(self) -> float:
        """Return the seconds from the command to the first good prediction."""
        with httpx2.Client(timeout=ANSWER_LIMIT_S) as http:
            self._until(lambda: self._predicts(http))
        return clock.monotonic() - self.launched_at

    def register(self, plan: RunPlan, model: str = MODEL, archive: str = ARCHIVE, workers: int = 1) -> None:
        """Register an archive as a model, by REST, and wait until its workers are ready."""
        parameters: dict[str, str | int] = {
            "url": archive,
            "model_name": model,
            "initial_workers": workers,
            "synchronous": "true",
            "batch_size": plan.batch_size,
            "max_batch_delay": plan.max_batch_delay_ms,
        }
        answer = httpx2.post(f"{self.management}/models", params=parameters, timeout=START_LIMIT_S)
        if answer.status_code != httpx2.codes.OK:
            raise ServerFailed(f"{self.contestant.label} refused the model: {answer.text}")

    def _predicts(self, http: httpx2.Client) -> bool:
        try:
            answer = http.post(self.prediction_url, content=BODY)
        except httpx2.TransportError:
            return False
        return answer.status_code == httpx2.codes.OK and answer.content == BODY

    def _until(self, predicate: Callable[[], bool]) -> None:
        deadline = clock.monotonic() + START_LIMIT_S
        while not predicate():
            if self.process.poll() is not None:
                raise self._failed(f"ended with {self.process.returncode}")
            if clock.monotonic() > deadline:
                raise self._failed(f"was not ready after {START_LIMIT_S:.0f} s")
            pause(POLL_S)

    def _failed(self, how: str) -> ServerFailed:
        words = (self.home / LOG).read_bytes()[-LAST_WORDS_BYTES:].decode(errors="replace")
        return ServerFailed(f"{self.contestant.label} {how}; its last words:\n{words}")


@contextmanager
def running(
    contestant: Contestant, home: Path, store: Path, plan: RunPlan, *, loads_model: bool
) -> Iterator[StartedServer]:
    """Start a server in `home`, which it may have used before, and stop it at the end."""
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    (home / QUIET_CONFIG).write_text(QUIET_LOG4J)
    ports = free_ports(6)
    (home / "config.properties").write_text(config_properties(ports, plan))
    command = [*contestant.command, "--model-store", str(store), "--ts-config", "config.properties"]
    if loads_model:
        command += ["--models", f"{MODEL}={ARCHIVE}"]
    with ExitStack() as stack:
        # A file, not a pipe: reading what TorchServe logs would take CPU time from those measured.
        log = stack.enter_context((home / LOG).open("wb"))
        launched_at = clock.monotonic()
        process = subprocess.Popen(
            command,
            cwd=home,
            env=variables(contestant, home),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        server = StartedServer(contestant, process, _url(ports[0]), _url(ports[1]), home, launched_at)
        watcher = threading.Thread(target=_note_start, args=(server,))
        watcher.start()
        stack.callback(watcher.join)
        stack.callback(stop, process)
        yield server


def config_properties(ports: list[int], plan: RunPlan) -> str:
    """Write the settings that both servers get.

    The queue is longer than TorchServe's 100, or 256 connections would measure refusals; TorchServe's
    collector of system metrics is off, since it runs a Python program now and then while others are timed.
    """
    lines = [
        *(f"{name}_address={_url(port)}" for name, port in
          zip(("inference", "management", "metrics"), ports, strict=False)),
        f"grpc_inference_port={ports[3]}",
        f"grpc_management_port={ports[4]}",
        f"initial_worker_port={ports[5]}",
        "default_workers_per_model=1",
        f"job_queue_size={plan.job_queue_size}",
        "disable_system_metrics=true",
        "disable_token_authorization=true",
        "enable_model_api=true",
        *plan.properties,
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in sockets]


def pause(seconds: float) -> None:
    """Wait."""
    threading.Event().wait(seconds)


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def variables(contestant: Contestant, home: Path) -> dict[str, str]:
    """Return our environment with temporary files in `home`: TorchServe keeps its pid and sockets there.

    What Python compiles is kept, as where a server was installed.
    """
    ours = {
        name: value
        for name, value in environment().items()
        if not name.startswith("TS_") and name != "PYTHONDONTWRITEBYTECODE"
    }
    temporary = str(home / "tmp")
    path = f"{contestant.path}:{ours.get('PATH', '')}" if contestant.path else ours.get("PATH", "")
    # Its ports are in the settings that both get, but nobody asks there.
    made = {"PATH": path, "TMPDIR": temporary, "TEMP": temporary, "TORCHRELAY_GRPC": "no"}
    return ours | made | ({"PYTHONPATH": contestant.python_path} if contestant.python_path else {})


def _note_start(server: StartedServer) -> None:
    """Note when the server says that it has started; by then it has said little else."""
    log = server.home / LOG
    while server.process.poll() is None:
        if STARTED.encode() in log.read_bytes():
            server.started_at = clock.monotonic()
            return
        pause(POLL_S)


def stop(process: subprocess.Popen[bytes], limit_s: float = STOP_LIMIT_S) -> None:
    """End a server with everything it started, whatever process group that is in.

    What has not ended by itself within the limit, once for it and once for the rest, is killed.
    """
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(family, timeout=limit_s)
    for straggler in left:
        with suppress(psutil.NoSuchProcess):
            straggler.kill()
    psutil.wait_procs(left, timeout=limit_s)
