"""From what was measured to a verdict; pure."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

#: What honest requests may take while an attack goes on; the slowest of a hundred.
P99_LIMIT_S = 1.0
#: What a process of the server may hold.
MEMORY_LIMIT_BYTES = 512_000_000
#: Both are to be back to normal this long after an attack.
RECOVERY_S = 5.0
#: What is normal: latencies within this factor of those before, or below this time whatever they were.
NORMAL_FACTOR, NORMAL_S = 3.0, 0.25
#: Memory that an allocator keeps for itself counts as normal up to here.
NORMAL_GROWTH_BYTES = 128_000_000
#: What the broker's answer to a member may take, always, and joining, or connecting anew.
MEMBER_LIMIT_S, JOIN_LIMIT_S = 1.0, 5.0
#: What logs may grow by.
LOG_LIMIT_BYTES = 20_000_000


class Outcome(msgspec.Struct, frozen=True):
    """One honest request; `fault` is empty where it had its answer."""

    started_at: float
    took_s: float
    fault: str = ""


class MemberOutcomes(msgspec.Struct, frozen=True):
    """Questions of a node to the broker, and hosts that joined or connected anew."""

    answers: list[Outcome]
    joins: list[Outcome]


class HonestRequests(msgspec.Struct, frozen=True):
    """Honest requests of a stretch of time."""

    sent: int = 0
    faults: dict[str, int] = {}
    p50_s: float = 0.0
    p99_s: float = 0.0
    slowest_s: float = 0.0

    @property
    def failed(self) -> int:
        """How many had no good answer."""
        return sum(self.faults.values())


class Memory(msgspec.Struct, frozen=True):
    """The resident memory of one process: before, the most, and a while after."""

    role: str
    before_bytes: int
    most_bytes: int
    after_bytes: int


class Measurements(msgspec.Struct, frozen=True):
    """What was measured around one attack."""

    before: HonestRequests
    during: HonestRequests
    after: HonestRequests
    memory: tuple[Memory, ...] = ()
    #: Roles of processes that ended.
    ended: tuple[str, ...] = ()
    log_bytes: int = 0
    breaches: tuple[str, ...] = ()
    #: Of members on the broker's port: a node's questions, and hosts that joined or connected anew.
    questions: HonestRequests = HonestRequests()
    joins: HonestRequests = HonestRequests()

    @property
    def largest(self) -> Memory:
        """The process that held most."""
        return max(self.memory, key=lambda one: one.most_bytes, default=Memory("none", 0, 0, 0))


#: Of an attack that could not begin.
NOTHING = Measurements(HonestRequests(), HonestRequests(), HonestRequests())


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of all don't exceed; 0 where there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else 0.0


def honest(outcomes: Iterable[Outcome], since: float, until: float) -> HonestRequests:
    """Sum up the requests that began in a stretch of time; failed ones count with the time they took."""
    ours = [one for one in outcomes if since <= one.started_at < until]
    took = [one.took_s for one in ours]
    faults = Counter(one.fault for one in ours if one.fault)
    slowest = (percentile(took, percent) for percent in (50, 99, 100))
    return HonestRequests(len(ours), dict(faults.most_common()), *slowest)


def faults(measured: Measurements) -> list[str]:
    """Say what did not hold, the gravest first; nothing where all did."""
    found = list(measured.breaches)
    found += [f"{role} ended" for role in measured.ended]
    if not measured.during.sent:
        found.append("no honest request was sent")
    if measured.during.failed:
        found.append(f"{measured.during.failed} honest requests failed ({_causes(measured.during)})")
    if measured.during.p99_s > P99_LIMIT_S:
        found.append(f"p99 above {P99_LIMIT_S:g} s")
    for whose, requests, limit_s in (
        ("a node's questions", measured.questions, MEMBER_LIMIT_S),
        ("hosts' joining", measured.joins, JOIN_LIMIT_S),
    ):
        if requests.failed:
            found.append(f"{whose}: {requests.failed} of {requests.sent} failed ({_causes(requests)})")
        elif requests.slowest_s > limit_s:
            found.append(f"{whose}: one took {duration(requests.slowest_s)}")
    found += [f"{one.role} held {megabytes(one.most_bytes)}" for one in measured.memory
              if one.most_bytes > MEMORY_LIMIT_BYTES]  # fmt: skip
    if measured.after.failed:
        found.append(f"{RECOVERY_S:g} s later {measured.after.failed} failed ({_causes(measured.after)})")
    normal_s = max(NORMAL_S, NORMAL_FACTOR * measured.before.p99_s)
    if measured.after.p99_s > normal_s:
        found.append(f"{RECOVERY_S:g} s later p99 was {duration(measured.after.p99_s)}")
    for one in measured.memory:
        if one.after_bytes > one.before_bytes + NORMAL_GROWTH_BYTES:
            held = f"{megabytes(one.after_bytes)}, {megabytes(one.before_bytes)} before"
            found.append(f"{RECOVERY_S:g} s later {one.role} held {held}")
    if measured.log_bytes > LOG_LIMIT_BYTES:
        found.append(f"logs grew by {megabytes(measured.log_bytes)}")
    return found


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


def duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


def _causes(requests: HonestRequests) -> str:
    return ", ".join(f"{fault} x {count}" for fault, count in requests.faults.items())
