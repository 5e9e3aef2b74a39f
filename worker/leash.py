"""Ties a process to its parent: `python -m worker.leash PARENT_PID COMMAND ...` dies when its parent does."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the parent dies."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(1)  # it died before the kernel was told


def live_alone() -> None:
    """Take that back."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0)


def main() -> None:
    """Become the command; the kernel remembers."""
    die_with_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
