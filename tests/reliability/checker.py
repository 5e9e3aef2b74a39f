"""What must hold of requests, registrations and processes, whatever failed meanwhile; pure.

Each function returns what is wrong, one line each.
"""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from tests.reliability.numbered_load import Outcome

#: What an end may take beyond the request's deadline.
GRACE_S = 1.0
#: A handler runs for a request once, and once more if its worker was lost.
RUNS_MAX = 2
#: What a process may have more of after a fault: connections come and go, and caches fill.
SPARE_FDS = 12
SPARE_BYTES = 64_000_000


class Holding(msgspec.Struct, frozen=True):
    """What processes of one role hold, the most of any."""

    processes: int
    fds: int
    rss_bytes: int


def of_requests(
    outcomes: Sequence[Outcome], sent: int, deadline_s: float, tolerated: Collection[str]
) -> list[str]:
    """Each request ends once, as it should (`answered`, or as is tolerated), in time."""
    faults = []
    counts = Counter(outcome.number for outcome in outcomes)
    if len(counts) != sent or any(count != 1 for count in counts.values()):
        faults.append(f"{sent} requests were sent, {len(counts)} ended, {len(outcomes)} times in all")
    for end, some in _by_end(outcomes).items():
        if end != "answered" and end not in tolerated:
            first = some[0]
            faults.append(f"{len(some)} requests {end}, first {first.number}: {first.status} {first.words}")
    late = [outcome for outcome in outcomes if outcome.took_s > deadline_s + GRACE_S]
    if late:
        worst = max(late, key=lambda outcome: outcome.took_s)
        faults.append(
            f"{len(late)} requests ended later than {deadline_s + GRACE_S:g} s, the last after"
            f" {worst.took_s:.1f} s: {worst.end} {worst.status}"
        )
    return faults


def _by_end(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.end, []).append(outcome)
    return found


def of_runs(runs: Mapping[int, int], most: int = RUNS_MAX) -> list[str]:
    """No handler runs oftener for a request than it may."""
    often = {number: count for number, count in runs.items() if count > most}
    return [f"{len(often)} requests ran more than {most} times: {dict(list(often.items())[:5])}"] * bool(
        often
    )


def runs_of(text: str, first: int, end: int) -> Counter[int]:
    """Count the runs of requests `first` <= number < `end` in what handlers wrote, a line for each run."""
    words = (line.split() for line in text.splitlines())
    numbers = (int(line[0]) for line in words if len(line) == 2 and line[0].isascii() and line[0].isdigit())
    return Counter(number for number in numbers if first <= number < end)


def of_registrations(listed: set[str], wanted: set[str], unsure: set[str]) -> list[str]:
    """The registry has what was acknowledged; of what was not, it may have what was asked for."""
    faults = []
    if missing := wanted - unsure - listed:
        faults.append(f"acknowledged and not there: {sorted(missing)[:5]}")
    if foreign := listed - wanted - unsure:
        faults.append(f"there and not acknowledged: {sorted(foreign)[:5]}")
    return faults


def of_holdings(before: Mapping[str, Holding], after: Mapping[str, Holding]) -> list[str]:
    """Nothing is left behind: processes, file descriptors, memory."""
    faults = []
    for role, was in before.items():
        now = after.get(role, Holding(0, 0, 0))
        if now.processes > was.processes:
            faults.append(f"{now.processes} processes are {role}, {was.processes} before")
        if now.fds > was.fds + SPARE_FDS:
            faults.append(f"{role} holds {now.fds} file descriptors, {was.fds} before")
        if now.rss_bytes > was.rss_bytes + SPARE_BYTES:
            faults.append(f"{role} holds {now.rss_bytes / 1e6:.0f} MB, {was.rss_bytes / 1e6:.0f} before")
    return faults


def outage_s(outcomes: Sequence[Outcome]) -> float:
    """Return the longest time in which no request was answered."""
    ends = sorted(one.started_at + one.took_s for one in outcomes if one.end == "answered")
    return max((later - earlier for earlier, later in itertools.pairwise(ends)), default=0.0)
