"""Harms the process that it is in, when told to: on PYTHONPATH, Python runs it at its start.

An order is a file `<MATRIX_ORDERS>/<pid>` and a signal. So a broker can hang, hold its GIL or call `os._exit`
as only a handler would by itself. The wall clock is one that can jump.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

#: No other use of it is known.
SIGNAL = signal.SIGRTMIN + 5
VARIABLE = "MATRIX_ORDERS"

_offset_ns = 0
_time_ns = time.time_ns


def _exit(_: float) -> None:
    os._exit(17)


def _hang(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(BaseException):  # what signals raise: a hang heeds nothing
            select.select([], [], [], max(0.0, until - time.monotonic()))


def _hang_with_gil(seconds: float) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


def _eat(megabytes: float) -> None:
    held = bytearray(int(megabytes) << 20)
    held[::4096] = b"x" * len(held[::4096])  # touched, so that it counts


def _jump(seconds: float) -> None:
    global _offset_ns
    _offset_ns += int(seconds * 1e9)


def _segfault(_: float) -> None:
    ctypes.string_at(0)


DEEDS: dict[str, Callable[[float], None]] = {
    "exit": _exit,
    "hang": _hang,
    "hang with GIL": _hang_with_gil,
    "eat": _eat,
    "jump": _jump,
    "segfault": _segfault,
}


def _obey(*_: object) -> None:
    order = json.loads(Path(os.environ[VARIABLE], str(os.getpid())).read_text())
    DEEDS[order["deed"]](order["amount"])


if VARIABLE in os.environ:
    time.time_ns = lambda: _time_ns() + _offset_ns
    time.time = lambda: (_time_ns() + _offset_ns) / 1e9
    signal.signal(SIGNAL, _obey)
