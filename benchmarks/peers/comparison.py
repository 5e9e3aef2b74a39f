"""Runs the comparison: for each row all servers are started, checked and timed in turns, and stopped.

A server that can't be had, doesn't start or fails is left out of its rows, with the reason; the others go on.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from operator import methodcaller
from pathlib import Path

from benchmarks import environments, hardware, processes, wrk
from benchmarks.environments import Unavailable
from benchmarks.peers.grpc_load import GrpcLoadFailed
from benchmarks.peers.launches import CONTESTANTS, needs
from benchmarks.peers.rows import OURS, ComparisonRow, connections_of
from benchmarks.peers.started import StartedPeer, started
from benchmarks.results import (
    PeerAbsence,
    PeerCheck,
    PeerMemory,
    PeerPoint,
    PeerResults,
    PeerRow,
    PeerServer,
    RunPlan,
)
from benchmarks.servers import ServerFailed
from torchrelay.shared import clock
from torchrelay.shared.errors import RelayError

CHECK_S = 1.0
#: What takes one server out of a row and lets the others go on.
FAILURES = (
    Unavailable,
    ServerFailed,
    wrk.WrkFailed,
    GrpcLoadFailed,
    RelayError,
    subprocess.SubprocessError,
    OSError,
)


#: Starts a server for a row in a folder.
Start = Callable[[str, ComparisonRow, Path, RunPlan], AbstractContextManager[StartedPeer]]


def start_contestant(
    key: str, row: ComparisonRow, home: Path, plan: RunPlan
) -> AbstractContextManager[StartedPeer]:
    """Start one of `launches`."""
    return started(key, CONTESTANTS[key], row, home, plan)


@dataclass
class Comparison:
    """What a run has found up to now."""

    plan: RunPlan
    peers: Sequence[str]
    start: Start = start_contestant
    make: Callable[[str], object] = environments.make
    began_at: float = field(default_factory=clock.monotonic)
    checks: list[PeerCheck] = field(default_factory=list)
    points: list[PeerPoint] = field(default_factory=list)
    memory: list[PeerMemory] = field(default_factory=list)
    absences: list[PeerAbsence] = field(default_factory=list)
    #: PeerEnvironment -> why it can't be had; empty for one that is there.
    made: dict[str, str] = field(default_factory=dict)

    def run(self, rows: Sequence[ComparisonRow], folder: Path) -> None:
        """Measure all rows. What is missing is installed before the first one."""
        for row in rows:
            for key in self._takers(row):
                self._missing(key, row)
        for row in rows:
            self._run_row(row, folder / row.key)

    def _takers(self, row: ComparisonRow) -> list[str]:
        return [key for key in row.takes_part if key in self.peers]

    def _missing(self, key: str, row: ComparisonRow) -> str:
        """Make the environments that a server needs, and return why one can't be had."""
        for name in needs(key, row):
            if name not in self.made:
                try:
                    self.make(name)
                    self.made[name] = ""
                except FAILURES as error:
                    self.made[name] = str(error)
        return next((self.made[name] for name in needs(key, row) if self.made[name]), "")

    def _run_row(self, row: ComparisonRow, folder: Path) -> None:
        up: dict[str, StartedPeer] = {}
        with ExitStack() as stack:
            for key in self._takers(row):
                if reason := self._missing(key, row):
                    self._leave_out(up, row, key, reason)
                    continue
                self._guarded(up, row, key, partial(self._warm_up, up, row, key, folder / key, stack))
            for connections in connections_of(row, self.plan):
                for key in [*up]:
                    self._guarded(up, row, key, partial(self._check, up[key], connections))
                for turn in range(self.plan.rounds):
                    for key in [*up][:: 1 if turn % 2 == 0 else -1]:
                        self._guarded(up, row, key, partial(self._time, up[key], connections, turn))
            with ThreadPoolExecutor() as together:
                list(together.map(methodcaller("stop"), up.values()))

    def _guarded(
        self, up: dict[str, StartedPeer], row: ComparisonRow, key: str, step: Callable[[], None]
    ) -> None:
        try:
            step()
        except FAILURES as error:
            self._leave_out(up, row, key, str(error))

    def _leave_out(self, up: dict[str, StartedPeer], row: ComparisonRow, key: str, reason: str) -> None:
        up.pop(key, None)
        self.points = [point for point in self.points if (point.row, point.server) != (row.key, key)]
        self.absences.append(PeerAbsence(row=row.key, server=key, reason=reason))
        say(f"{row.key}: {CONTESTANTS[key].label} is left out: {reason}")

    def _warm_up(
        self, up: dict[str, StartedPeer], row: ComparisonRow, key: str, home: Path, stack: ExitStack
    ) -> None:
        peer = up[key] = stack.enter_context(self.start(key, row, home, self.plan))
        with peer.awake():
            peer.await_ready()
            most = max(connections_of(row, self.plan))
            peer.measure(most, self.plan.warmup_seconds * peer.server.warm_up)
            self.memory.append(peer.memory())
        say(f"{self._elapsed()} {peer.row.key:10} {peer.server.label:22} is up")

    def _check(self, peer: StartedPeer, connections: int) -> None:
        with peer.awake():
            counted = peer.check(connections, CHECK_S)
        self.checks.append(
            PeerCheck(
                row=peer.row.key,
                server=peer.key,
                connections=connections,
                answers=counted.answers,
                wrong=counted.wrong,
            )
        )
        if counted.wrong:
            counts = f"{counted.wrong} of {counted.answers} answers were wrong"
            say(f"{peer.row.key}: {peer.server.label}: {counts}: {counted.example}")

    def _time(self, peer: StartedPeer, connections: int, turn: int) -> None:
        with peer.awake():
            watch = _Watch()
            before = peer.cpu_seconds()
            load = peer.measure(connections, self.plan.seconds * peer.row.longer)
            after = peer.cpu_seconds()
        spent = {role: round(seconds - before.get(role, 0.0), 2) for role, seconds in after.items()}
        self.points.append(
            PeerPoint(
                row=peer.row.key,
                server=peer.key,
                connections=connections,
                turn=turn,
                load=load,
                cpu_s=spent,
                others_share=watch.others_share(sum(spent.values())),
            )
        )
        say(
            f"{self._elapsed()} {peer.row.key:10} {peer.server.label:22} {connections:4} connections"
            f" {load.rate:9,.0f}/s  p50 {load.p50_us / 1000:.2f} ms"
            + (f"  {load.errors} errors" if load.errors else "")
        )

    def _elapsed(self) -> str:
        seconds = round(clock.monotonic() - self.began_at)
        return f"{seconds // 60:3}:{seconds % 60:02}"


class _Watch:
    """Tells how much of the machine others have taken since it was made."""

    def __init__(self) -> None:
        self._before = self._now()

    def others_share(self, server_s: float) -> float:
        """Return their share of all cores' time, when the server itself took so many seconds."""
        elapsed, busy, generator = (
            now - before for now, before in zip(self._now(), self._before, strict=True)
        )
        others_s = max(0.0, busy - generator - server_s)
        return round(others_s / max(elapsed, 1e-3) / (os.cpu_count() or 1), 3)

    def _now(self) -> tuple[float, float, float]:
        return clock.monotonic(), processes.busy_seconds(), processes.seconds_of_ended_children()


def measure(rows: Sequence[ComparisonRow], peers: Sequence[str], plan: RunPlan, command: str) -> PeerResults:
    """Run the comparison and return what it found."""
    load_before = os.getloadavg()[0]
    comparison = Comparison(plan, peers)
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        comparison.run(rows, Path(folder))
    taking = [key for key in CONTESTANTS if any(point.server == key for point in comparison.points)]
    return PeerResults(
        taken_at=clock.iso(clock.wall_ms()),
        command=command,
        revision=hardware.revision(),
        machine=hardware.look(None),
        plan=plan,
        load_before=round(load_before, 2),
        seconds=round(clock.monotonic() - comparison.began_at),
        servers={key: _described(key) for key in taking},
        rows=tuple(
            PeerRow(
                key=row.key,
                label=row.label,
                connections=tuple(connections_of(row, plan)),
                batch_size=row.batch_size,
                max_batch_delay_ms=row.max_batch_delay_ms,
                workers=row.workers,
            )
            for row in rows
        ),
        checks=tuple(comparison.checks),
        points=tuple(comparison.points),
        memory=tuple(comparison.memory),
        absences=tuple(comparison.absences),
    )


def faults(results: PeerResults) -> list[str]:
    """Say what makes the figures of ours worthless; what fails elsewhere is in the report."""
    found = [f"{one.row}: {one.reason}" for one in results.absences if one.server == OURS]
    wrong = sum(check.wrong for check in results.checks if check.server == OURS)
    wrong += sum(point.load.errors for point in results.points if point.server == OURS)
    return found + ([f"{wrong} answers of ours were wrong"] if wrong else [])


def _described(key: str) -> PeerServer:
    server = CONTESTANTS[key]
    versions = {
        package: number for name in server.needs for package, number in environments.versions(name).items()
    }
    return PeerServer(label=server.label, options=server.options, versions=versions)


def refuse_without_tools() -> None:
    """Make sure of what every row needs. Raises WrkFailed."""
    wrk.require()
    assert sys.platform == "linux", "processes are read from /proc"


def say(words: str) -> None:
    """Tell the person who waits what goes on."""
    print(words, file=sys.stderr, flush=True)
