"""The table that is printed, 80 columns wide; pure."""

import textwrap
from collections.abc import Sequence

import msgspec

from tests.attacks import plan, verdicts
from tests.attacks.verdicts import Measurements, duration, megabytes

WIDTH = 80
#: name, verdict, honest requests that failed, p99 before and during, most memory
_ROW = "{:<19} {:<8} {:>10} {:>7} {:>7}  {}"


class Row(msgspec.Struct, frozen=True):
    """One attack and what came of it."""

    attack: str
    measured: Measurements
    faults: tuple[str, ...]
    seen: str

    @property
    def has_held(self) -> bool:
        """Whether nothing was found against the server."""
        return not self.faults


def heading(honest_per_s: float) -> str:
    """Say what the table shows, and write its first line."""
    text = (
        f"Attackers send from one address, together at most {megabytes(plan.BYTES_PER_S)}/s and"
        f" {plan.MESSAGES_PER_S} messages/s, beside {honest_per_s:g} honest predictions/s. An attack is held"
        f" where none of these fails, p99 stays below {verdicts.P99_LIMIT_S:g} s, the broker answers each"
        f" question of a node within {verdicts.MEMBER_LIMIT_S:g} s, hosts join within"
        f" {verdicts.JOIN_LIMIT_S:g} s, each process stays below"
        f" {megabytes(verdicts.MEMORY_LIMIT_BYTES)}, none ends, and {verdicts.RECOVERY_S:g} s later latency"
        " and memory are back to normal. p99: just before the attack, and during it."
    )
    first = _ROW.format("attack", "verdict", "failed", "before", "p99", "most memory")
    return f"{textwrap.fill(text, WIDTH)}\n\n{first}\n{'-' * WIDTH}"


def row(one: Row) -> str:
    """Write one attack: a line of numbers, and below it what didn't hold and what was seen."""
    measured, largest = one.measured, one.measured.largest
    first = _ROW.format(
        one.attack,
        "held" if one.has_held else "NOT HELD",
        f"{measured.during.failed}/{measured.during.sent}",
        duration(measured.before.p99_s),
        duration(measured.during.p99_s),
        f"{largest.most_bytes / 1e6:.0f} MB {largest.role}",
    )
    lines = [first[:WIDTH].rstrip()]
    questions, joins = measured.questions, measured.joins
    members = (
        f"a node's {questions.sent} questions to the broker took {duration(questions.slowest_s)} at most,"
        f" {joins.sent} joinings {duration(joins.slowest_s)}"
    )
    texts = [f"! {'; '.join(one.faults)}"] * (not one.has_held)
    for text in [*texts, *[one.seen] * bool(one.seen), *[members] * bool(questions.sent)]:
        lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines)


def summary(rows: Sequence[Row]) -> str:
    """Count what held."""
    lost = [one.attack for one in rows if not one.has_held]
    text = f"{len(rows) - len(lost)} of {len(rows)} attacks were held"
    return textwrap.fill(f"{text}; not held: {', '.join(lost)}" if lost else f"{text}.", WIDTH)
