"""Opens the standard streams of a command that was started without them (`<&- >&- 2>&-`)."""

import os
import sys


def open_missing() -> None:
    """Open closed streams on /dev/null: else the next opened file would take the place of one.

    To be called before any other file is opened.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            # os.open takes the lowest free fd, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115  # they stay open
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
