"""Ties a process to its parent, so that none outlives what started it, however that ends. Linux's `prctl`.

`python parent_death.py PARENT_PID COMMAND ...` runs a command that ends with all it has started when the
parent dies. It is run by its path, and so imports nothing of ours.

The kernel means the parent's thread that forked: a process that is to be tied must be started by a thread
that lives as long as its process, such as the main one. An exec keeps the tie, a change of user ends it.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when the parent dies; exit if it is dead already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, number) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(1)  # it died before the kernel was told


def outlive_parent() -> None:
    """Stop watching the parent process."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0)


def adopt_orphans() -> None:
    """Become the parent of whatever is left behind below this process; it is to be reaped here."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def main() -> int:
    """Run a command in a process group of its own; return its exit code.

    The group is killed when the parent dies: a command such as pip starts others, which the kernel's signal
    would not reach.
    """
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    die_with_parent(int(sys.argv[1]), signal.SIGTERM)
    keeper = os.getpid()
    command = os.fork()
    if command == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent(keeper)
        os.execv(sys.argv[2], sys.argv[2:])
    _, status = os.waitpid(command, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
