"""The workers of one version: how many there are of each kind, and which of them gets the next batch. Pure.

Nothing here takes longer with more workers. Whoever changes what ranks a worker or counts it notes it in
`touched`; what follows from that is brought up to date once somebody asks.
"""

from bisect import bisect_left, insort
from collections.abc import Mapping

from torchrelay.broker.core.states import LIVE, READY, WorkerState
from torchrelay.broker.fleet.nodes import FleetNode
from torchrelay.broker.fleet.worker import FleetWorker

#: A worker in its row: they are sorted, and the last of a row goes first.
Entry = tuple[float, int, FleetWorker]
#: The number of a row is made of how many leases its workers have, and two bits: their node is late; they
#: have proved that they answer.
ROWS_PER_LEASE, LATE, PROVED = 4, 2, 1
#: Instead of a row: a worker that can't be given anything, and one that has to answer first what it has.
UNREACHABLE, UNPROVED = -1, -2


class LateNodes:
    """The nodes that have been silent for longer than others, by their peer ids, as far as that was noticed.

    A late node stays late until it is heard, so that it is enough to look at those that are to get a batch.
    """

    def __init__(
        self, nodes: Mapping[bytes, FleetNode], by_node: Mapping[bytes, Mapping[int, FleetWorker]]
    ) -> None:
        self.nodes = nodes
        self._by_node = by_node
        self.peers: set[bytes] = set()

    def add(self, peer: bytes) -> None:
        """Let all workers of a node come after others."""
        self.peers.add(peer)
        self._touch(peer)

    def remove(self, peer: bytes) -> None:
        """Take note that a node was heard, or is gone."""
        if peer in self.peers:
            self.peers.remove(peer)
            self._touch(peer)

    def _touch(self, peer: bytes) -> None:
        for worker in self._by_node.get(peer, {}).values():
            worker.touch()


class VersionWorkers:
    """All workers of a version that are not gone, and their ranks."""

    def __init__(self, late_nodes: LateNodes) -> None:
        #: By their ids, the oldest first.
        self.by_id: dict[int, FleetWorker] = {}
        #: Those of which something has changed.
        self.touched: dict[FleetWorker, None] = {}
        self._late_nodes = late_nodes
        self._rows: list[list[Entry]] = []
        #: Rows with lower numbers are empty.
        self._lowest = 0
        #: The row of each worker, its place there, and its state, as they were when it was last looked at.
        self._entered: dict[FleetWorker, tuple[int, Entry, WorkerState]] = {}
        self._reachable = 0
        #: See `best`.
        self._prove_first = False
        self._states: dict[WorkerState, int] = {}
        #: Those that start or run, by archive, and whether they only install and so count towards no target.
        self._live: dict[tuple[str, bool], int] = {}

    def add(self, worker: FleetWorker) -> None:
        """Add a worker."""
        self.by_id[worker.worker_id] = worker
        self._entered[worker] = UNREACHABLE, (0.0, 0, worker), worker.state
        self._count(worker, worker.state, 1)
        worker.touched = self.touched
        worker.touch()

    def remove(self, worker: FleetWorker) -> None:
        """Remove a worker that is gone."""
        del self.by_id[worker.worker_id]
        number, entry, state = self._entered.pop(worker)
        self._count(worker, state, -1)
        self._reachable -= number != UNREACHABLE
        if number >= 0:
            self._rows[number].remove(entry)
        self.touched.pop(worker, None)
        worker.touched = {}

    # Counts

    @property
    def reachable(self) -> int:
        """How many are ready and not cut off."""
        self._settle()
        return self._reachable

    @property
    def fewest_leases(self) -> int | None:
        """How many leases the one has that has fewest of those that get batches; None without any."""
        self._settle()
        return None if self._lowest == len(self._rows) else self._lowest // ROWS_PER_LEASE

    def count(self, state: WorkerState) -> int:
        """Return how many are in a state."""
        self._settle()
        return self._states.get(state, 0)

    def live(self, archive: str | None = None) -> int:
        """Return how many count towards the target: all, or those that have loaded this archive."""
        self._settle()
        if archive is not None:
            return self._live.get((archive, False), 0)
        return sum(count for (_, installs_only), count in self._live.items() if not installs_only)

    def has_others(self, archive: str) -> bool:
        """Tell whether some start or run with another archive."""
        self._settle()
        return any(of != archive for of, _ in self._live)

    def _count(self, worker: FleetWorker, state: WorkerState, by: int) -> None:
        self._states[state] = self._states.get(state, 0) + by
        if state in LIVE:
            kind = worker.archive, worker.installs_only
            count = self._live.get(kind, 0) + by
            if count:
                self._live[kind] = count
            else:
                del self._live[kind]

    # Ranks

    def best(
        self, late: float, *, kept: int, prove_first: bool, spares_late: bool = False
    ) -> FleetWorker | None:
        """Return the ready worker with the fewest leases; None without any.

        Of several it is the one that ran last, and of those the oldest. One whose node was not heard since
        `late` comes after all others with as many, with `spares_late` never. `kept` is the id of one that
        gets nothing. With `prove_first` a worker that has not answered yet comes before others, and has one
        lease until it has.
        """
        if prove_first is not self._prove_first:
            self._prove_first = prove_first
            self.touched.update(dict.fromkeys(self.by_id.values()))
        if self.touched:
            self._settle()
        rows = self._rows
        number = self._lowest
        while number < len(rows):
            row = rows[number]
            position = len(row) - 1
            if position >= 0 and row[position][2].worker_id == kept:
                position -= 1
            if position < 0 or (spares_late and number & LATE):
                number += 1
                continue
            worker = row[position][2]
            node = self._late_nodes.nodes.get(worker.node or b"")
            if number & LATE or node is None or node.last_heard >= late:
                return worker
            self._late_nodes.add(node.peer)
            self._settle()
        return None

    def _settle(self) -> None:
        """Look at the workers of which something has changed. PERF: in one place, as each job comes by."""
        rows, entered = self._rows, self._entered
        for worker in self.touched:
            number, entry, state = entered[worker]
            if worker.state is not state:
                self._count(worker, state, -1)
                self._count(worker, worker.state, 1)
                state = worker.state
            new = self._row_of(worker, state)
            if number >= 0:
                row = rows[number]
                if row[-1] is entry:
                    row.pop()
                else:
                    del row[bisect_left(row, entry)]
            if new >= 0:
                entry = worker.last_assigned_at, -worker.worker_id, worker
                while new >= len(rows):
                    rows.append([])
                row = rows[new]
                if row:
                    insort(row, entry)
                else:
                    row.append(entry)
            entered[worker] = new, entry, state
            if new != number:
                self._reachable += (new != UNREACHABLE) - (number != UNREACHABLE)
                if 0 <= new < self._lowest:
                    self._lowest = new
        self.touched.clear()
        while self._lowest < len(rows) and not rows[self._lowest]:
            self._lowest += 1

    def _row_of(self, worker: FleetWorker, state: WorkerState) -> int:
        if state is not READY or worker.is_cut:
            return UNREACHABLE
        leases = len(worker.leases)
        number = leases * ROWS_PER_LEASE
        late = self._late_nodes.peers
        if late and worker.node in late:
            number += LATE
        if self._prove_first:
            return number + PROVED if worker.has_answered else UNPROVED if leases else number
        return number
