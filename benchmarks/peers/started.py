"""A server under test that runs: it is asked, timed, looked at, and stopped with all that it started."""

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import IO

import msgspec
import psutil

from benchmarks import processes, servers, wrk
from benchmarks.peers import answer_check, dialects, grpc_load, grpc_messages
from benchmarks.peers.answer_check import CountedAnswers, Judge
from benchmarks.peers.dialects import Question
from benchmarks.peers.launches import ComparedServer, PeerLaunch, encoder_folder
from benchmarks.peers.rows import CheckedItem, ComparisonRow, items
from benchmarks.results import Load, PeerMemory, RunPlan
from torchrelay.shared import clock
from torchrelay.shared.settings import environment

START_LIMIT_S = 120.0
POLL_S = 0.05
#: What still starts takes CPU time: a server is idle when it took less than this in so long a time.
IDLE_CPU_S = 0.15
IDLE_LOOK_S = 0.5
IDLE_LIMIT_S = 15.0
#: One thread each for the libraries of all models, so that no server has more of the machine for its model.
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
           "TOKENIZERS_PARALLELISM": "false"}  # fmt: skip
#: Some wait for clients or children that don't end; nothing of them is needed any more.
STOP_LIMIT_S = 5.0
ITEMS = 512
#: Of large bodies there are fewer, of this many bytes together at most.
ITEMS_BYTES = 20_000_000
LAST_WORDS_BYTES = 2000
SHARED_MEMORY = Path("/dev/shm")


@dataclass
class StartedPeer:
    """A server that was started for a row."""

    key: str
    server: ComparedServer
    row: ComparisonRow
    home: Path
    launch: PeerLaunch
    process: subprocess.Popen[bytes]
    is_stopped: bool = False

    def cpu_seconds(self) -> dict[str, float]:
        """Read the CPU time that each role has taken up to now."""
        return processes.cpu_seconds(self.process.pid, self.server.role_of)

    def memory(self) -> PeerMemory:
        """Read the memory of all its processes."""
        facts = processes.look(self.key, self.process.pid, self.server.role_of)
        shares = [fact.pss_bytes for fact in facts if fact.pss_bytes is not None]
        return PeerMemory(
            row=self.row.key,
            server=self.key,
            processes=len(facts),
            rss_bytes=sum(fact.rss_bytes for fact in facts),
            pss_bytes=sum(shares) if len(shares) == len(facts) else None,
        )

    def await_ready(self) -> None:
        """Wait until it answers rightly and nothing of it is starting any more. Raises ServerFailed."""
        deadline = clock.monotonic() + START_LIMIT_S
        fault = "it said nothing"
        while fault := self._fault():
            if self.process.poll() is not None:
                raise self.failed(f"ended with {self.process.returncode}")
            if clock.monotonic() > deadline:
                raise self.failed(f"was not ready after {START_LIMIT_S:.0f} s ({fault})")
            servers.pause(POLL_S)
        self._await_idle()

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Have it run, and stop it again afterwards if it takes CPU time when it is idle."""
        if self.server.is_restless:
            _signal(self.process, signal.SIGCONT)
        try:
            yield
        finally:
            if self.server.is_restless:
                _signal(self.process, signal.SIGSTOP)

    def check(self, connections: int, seconds: float) -> CountedAnswers:
        """Ask many different questions and look at every answer."""
        if self.launch.port is None:
            return CountedAnswers()
        if self.row.is_grpc:
            found = self._by_grpc(questions(self.row), connections, seconds, is_checked=True)
            return CountedAnswers(found.load.requests, found.wrong, found.example)
        asked = [self._asked(item) for item in questions(self.row)]
        return answer_check.check(self.launch.port, asked, connections, seconds)

    def measure(self, connections: int, seconds: float) -> Load:
        """Put load on it, the same question again and again, and time it."""
        if self.process.poll() is not None:
            raise self.failed(f"has ended with {self.process.returncode}")
        if self.launch.port is None:
            return self._measure_loop(min(connections, self.row.batch_size), seconds)
        if self.row.is_grpc:
            return self._by_grpc(questions(self.row)[:1], connections, seconds).load
        question, _ = self._asked(questions(self.row)[0])
        body = self.home / "body"
        if not body.exists():
            body.write_bytes(question.body)
        url = f"http://127.0.0.1:{self.launch.port}{question.path}"
        return wrk.measure(url, connections, seconds, body_file=body, headers=question.headers)

    def stop(self) -> None:
        """Stop it with all that it started; once more does nothing."""
        if not self.is_stopped:
            _signal(self.process, signal.SIGCONT)
            servers.stop(self.process, STOP_LIMIT_S)
            remove_shared_memory(self.launch.shared_memory)
            self.is_stopped = True

    def failed(self, how: str) -> servers.ServerFailed:
        """Say what went wrong, with the server's last words."""
        words = (self.home / servers.LOG).read_bytes()[-LAST_WORDS_BYTES:].decode(errors="replace").strip()
        return servers.ServerFailed(f"{self.server.label} {how}; its last words:\n{words}")

    def _by_grpc(
        self, asked: Sequence[CheckedItem], in_flight: int, seconds: float, *, is_checked: bool = False
    ) -> grpc_load.Outcome:
        plan = grpc_load.GrpcLoad(
            target=f"127.0.0.1:{self.launch.grpc_port}",
            method=grpc_messages.method(self.key),
            in_flight=in_flight,
            seconds=seconds,
            requests=tuple(
                grpc_messages.request(self.key, item, is_batched=self.row.batch_size > 1) for item in asked
            ),
            endings=tuple(grpc_messages.ending(item) for item in asked) if is_checked else (),
        )
        return grpc_load.measure(plan)

    def _measure_loop(self, rows: int, seconds: float) -> Load:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{rows} {seconds}\n".encode())
            self.process.stdin.flush()
            return msgspec.json.decode(self._line(), type=Load)
        except (OSError, msgspec.DecodeError) as error:
            raise self.failed(f"did not do its work: {error}") from error

    def _line(self) -> bytes:
        output: IO[bytes] | None = self.process.stdout
        assert output is not None
        return output.readline()

    def _fault(self) -> str:
        if self.launch.port is None:
            return "" if self._line().strip() == b"ready" else "it is not ready"
        return answer_check.ask_once(self.launch.port, *self._asked(questions(self.row)[0]))

    def _await_idle(self) -> None:
        deadline = clock.monotonic() + IDLE_LIMIT_S
        before = sum(self.cpu_seconds().values())
        while clock.monotonic() < deadline:
            servers.pause(IDLE_LOOK_S)
            now = sum(self.cpu_seconds().values())
            if now - before < IDLE_CPU_S:
                return
            before = now

    def _asked(self, item: CheckedItem) -> tuple[Question, Judge]:
        question = dialects.ask(self.key, self.row, item)
        return question, answer_check.judge_of(partial(dialects.read, self.key, self.row), item.answer)


@cache
def questions(row: ComparisonRow) -> Sequence[CheckedItem]:
    """Return the questions of a row with their right answers."""
    count = max(2, min(ITEMS, ITEMS_BYTES // row.body_bytes))
    if row.model != "encoder":
        return items(row, count)
    return items(row, count // 8, encoder_folder())


@contextmanager
def started(
    key: str, server: ComparedServer, row: ComparisonRow, home: Path, plan: RunPlan
) -> Iterator[StartedPeer]:
    """Start a server for a row in a folder that is made for it, and stop it at the end."""
    (home / "tmp").mkdir(parents=True)
    launch = server.prepare(row, home, plan)
    is_loop = launch.port is None
    # A file, not a pipe: reading what a server logs would take CPU time from those measured.
    with (home / servers.LOG).open("wb") as log:
        process = subprocess.Popen(
            launch.command,
            cwd=home,
            env={**environment(), **launch.variables, **THREADS},
            stdin=subprocess.PIPE if is_loop else subprocess.DEVNULL,
            stdout=subprocess.PIPE if is_loop else log,
            stderr=log,
            start_new_session=True,
        )
        peer = StartedPeer(key, server, row, home, launch, process)
        try:
            yield peer
        finally:
            peer.stop()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a server and all that it started."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        for one in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)


def remove_shared_memory(prefix: str, folder: Path = SHARED_MEMORY) -> None:
    """Remove what a server that was killed has left in shared memory."""
    for left in folder.glob(f"{prefix}*") if prefix else ():
        with suppress(OSError):
            left.unlink()
