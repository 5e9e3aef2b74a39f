"""Whether libzmq's threads let those that use them go on: by SCHED_BATCH, who wakes up takes no core."""

import os
from contextlib import suppress
from pathlib import Path

#: Handlers that take no longer over a batch, one with another, leave the cores to what carries it to them.
SHORT_HANDLER_S = 0.0005
#: How often it is looked whether they do.
LOOK_S = 0.5
#: How libzmq calls its threads that send and receive.
_NAME = "ZMQbg/IO"


class PatientThreads:
    """Has libzmq's threads of this process wait for who gives them messages, while handlers take no time.

    PERF: such a thread is mostly woken on the core of who gives it a message, and goes first there: then each
    message is sent by itself. Where it waits, more go together. In pairs, 1 to 256 connections, 12 rounds:
    batches of one 1.07/1.05/1.14/1.18, of 16 1.09/0.96/1.01/1.06; with four workers, 16 and 64 connections,
    1.27/1.13 and 1.04/1.11. A gateway, which has clients to answer meanwhile, gains nothing by it.

    Where handlers compute on all cores, it has to wait until one of them is taken off: with two workers of
    5 ms on two cores 0.93 times as many, with four of 2 ms 0.95. So it goes first again while they do.
    """

    def __init__(self) -> None:
        #: What an operator has chosen instead stays as it is; elsewhere than on Linux there is no choice.
        self._is_ours = False
        with suppress(OSError):  # a sandbox forbids even to ask
            self._is_ours = hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER
        self._are_patient = False
        self._look_at = 0.0

    def look(self, handler_s: float, now: float) -> None:
        """Take note of how long handlers take over a batch, one with another."""
        if now < self._look_at or not self._is_ours:
            return
        self._look_at = now + LOOK_S
        if (handler_s <= SHORT_HANDLER_S) is self._are_patient:
            return
        self._are_patient = not self._are_patient
        policy = os.SCHED_BATCH if self._are_patient else os.SCHED_OTHER
        for thread in _threads():
            with suppress(OSError):  # it has ended, or a sandbox forbids it
                os.sched_setscheduler(thread, policy, os.sched_param(0))


def _threads() -> list[int]:
    found = []
    for name in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):
            if name.read_text().startswith(_NAME):
                found.append(int(name.parent.name))
    return found
