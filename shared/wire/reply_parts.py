"""Answers to questions about a whole fleet, which come in parts where that is large. Pure.

No part takes long to make, or to take in, and none is too large for a message.
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from torchrelay.shared.wire import messages as m

PartedReply = m.FleetRead | m.MetricsRead
ReplyT = TypeVar("ReplyT", m.FleetRead, m.MetricsRead)


def joined(parts: Sequence[PartedReply]) -> PartedReply:
    """Make one reply of all its parts, which are of one kind and in order."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, m.FleetRead):
        versions = tuple(one for part in parts if isinstance(part, m.FleetRead) for one in part.versions)
        return msgspec.structs.replace(first, versions=versions, is_last=True)
    samples: dict[str, list[m.Sample]] = {}
    families: dict[str, m.MetricFamily] = {}
    for part in parts:
        for family in part.families if isinstance(part, m.MetricsRead) else ():
            families.setdefault(family.name, family)
            samples.setdefault(family.name, []).extend(family.samples)
    whole = (msgspec.structs.replace(one, samples=tuple(samples[name])) for name, one in families.items())
    return m.MetricsRead(first.ask, tuple(whole))


class ReplyParts:
    """The parts that have come of replies that are not complete, by the numbers of their asks."""

    def __init__(self) -> None:
        self._parts: dict[int, list[PartedReply]] = {}

    def take(self, reply: PartedReply) -> PartedReply | None:
        """Take in a part; return the reply once it is complete.

        One of which a part was lost never is: it is asked for again, and comes from its first part on.
        """
        parts = self._parts.pop(reply.ask, [])
        if reply.part == 0:
            parts = []
        if reply.part != len(parts):
            return None
        parts.append(reply)
        if reply.is_last:
            return joined(parts)
        self._parts[reply.ask] = parts
        return None

    def forget(self, ask: int) -> None:
        """Drop what has come for an ask that nobody waits for any more."""
        self._parts.pop(ask, None)
