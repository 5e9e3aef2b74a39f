"""Runs one cell on a fleet that is whole: load, fault, recovery, and what was found."""

import contextlib
from collections.abc import Mapping

import msgspec
import psutil

from tests.reliability import checker
from tests.reliability.cells import Cell
from tests.reliability.checker import Holding
from tests.reliability.hosts import MODEL, RACKS, Hosts, wait_for
from tests.reliability.numbered_load import NumberedLoad
from tests.reliability.striking import strike
from tests.reliability.writer import Writer
from tests.support import eventually
from torchrelay.shared import clock

#: Few enough for several fleets side by side on a machine that has more to do.
PER_S = 20.0
#: How long requests go on before the fault and after the recovery.
QUIET_S = 0.5
#: Changes of the registry: a few at all times, one after another where that is what the fault is for.
WRITE_PAUSE_S, FAST_PAUSE_S = 0.3, 0.01
#: Within this time everything is as before, whatever the fault was.
RECOVERY_LIMIT_S = 60.0


class CellResult(msgspec.Struct, frozen=True):
    """What came of a cell: what was measured, and what broke a promise."""

    fault: str
    target: str
    faults: tuple[str, ...]
    sent: int
    ends: dict[str, int]
    #: Requests that ran more than once.
    run_again: int
    slowest_s: float
    #: The longest time without an answer to anybody.
    outage_s: float
    #: From the strike, and from the end of a fault that lasts, until everything is there again.
    whole_after_s: float
    recovery_s: float
    changes: int
    changes_refused: int


def run_cell(hosts: Hosts, *cells: Cell, deadline_s: float = 0.0) -> CellResult:
    """Run a cell, or several that strike one after another; the fleet must be whole.

    It is whole again unless the result has faults.
    """
    cell = cells[0]
    deadline_s = deadline_s or cell.deadline_s
    tolerates = frozenset[str]().union(*(one.tolerates for one in cells))
    before = holdings(hosts)
    # A node has one from its first worker on.
    before["launcher"] = msgspec.structs.replace(before["launcher"], processes=len(RACKS))
    first = hosts.first_number
    faults: list[str] = []
    pause_s = FAST_PAUSE_S if any(one.target == "registry" for one in cells) else WRITE_PAUSE_S
    load = NumberedLoad(hosts.socket, MODEL, per_s=PER_S, deadline_s=deadline_s, first=first)
    writer = Writer(hosts, cell.name, pause_s)
    with load, writer:
        wait_for(QUIET_S)
        struck_at = clock.monotonic()
        with contextlib.ExitStack() as stack:
            for one in cells:
                stack.enter_context(strike(hosts, one))
            lifted_at = clock.monotonic()
            try:
                eventually(lambda: _is_over(hosts, before), RECOVERY_LIMIT_S)
            except AssertionError:
                faults.append(f"not whole {RECOVERY_LIMIT_S:g} s after the fault")
        whole_at = clock.monotonic()
        wait_for(QUIET_S)
    hosts.first_number = load.next_number
    faults += checker.of_requests(load.outcomes, load.sent, deadline_s, tolerates)
    runs = checker.runs_of(hosts.runs.read_text(errors="replace"), first, load.next_number)
    # Each loss may cost a run.
    faults += checker.of_runs(runs, 1 + sum(one.runs_max - 1 for one in cells))
    faults += _afterwards(hosts, before)
    hosts.changed(writer.wanted, writer.unsure)
    faults += checker.of_registrations(hosts.registered(), hosts.wanted, hosts.unsure)
    ends = load.ends()
    return CellResult(
        " + ".join(one.fault for one in cells), " + ".join(one.target for one in cells),
        tuple(faults), load.sent, dict(ends),
        run_again=sum(count > 1 for count in runs.values()),
        slowest_s=max((one.took_s for one in load.outcomes if one.end == "answered"), default=0.0),
        outage_s=checker.outage_s(load.outcomes),
        whole_after_s=whole_at - struck_at,
        recovery_s=whole_at - lifted_at,
        changes=writer.acknowledged,
        changes_refused=writer.refused,
    )  # fmt: skip


def _is_over(hosts: Hosts, before: Mapping[str, Holding]) -> bool:
    """Whether all is there again, and nothing beside it; a node without workers has no launcher."""
    with contextlib.suppress(AssertionError, psutil.Error):
        counts = {role: len(processes) for role, processes in hosts.everyone().items()}
        return hosts.is_whole() and all(counts[role] <= held.processes for role, held in before.items())
    return False


def _afterwards(hosts: Hosts, before: Mapping[str, Holding]) -> list[str]:
    """Wait until nothing runs and nothing is held that wasn't before; say what is."""
    faults = []
    with contextlib.suppress(AssertionError):
        eventually(hosts.is_at_rest, 10)
    if not hosts.is_at_rest():
        faults.append("requests wait or run though all have ended")
    with contextlib.suppress(AssertionError):
        eventually(lambda: not checker.of_holdings(before, holdings(hosts)), 10)
    return faults + checker.of_holdings(before, holdings(hosts))


def holdings(hosts: Hosts) -> dict[str, Holding]:
    """Look at what processes hold."""
    found = {}
    for role, processes in hosts.everyone().items():
        fds, rss = [0], [0]
        for process in processes:
            with contextlib.suppress(psutil.Error):
                fds.append(process.num_fds())
                rss.append(process.memory_info().rss)
        found[role] = Holding(len(processes), max(fds), max(rss))
    return found
