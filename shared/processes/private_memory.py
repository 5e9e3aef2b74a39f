"""Keeps a process's memory and environment from other processes of its user. Linux's `prctl`.

Handlers run as the same user as the parts that hold keys. What isn't dumpable can't be read by /proc, traced
or dumped by them; root can do it all the same. A fork inherits that, an exec ends it.
"""

import ctypes
import logging
import os

logger = logging.getLogger(__name__)

_PR_SET_DUMPABLE = 4


def keep_memory_private() -> None:
    """Have the kernel keep other processes, those of root excepted, out of this one."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0) != 0:  # a sandbox's kernel may not know it
        reason = os.strerror(ctypes.get_errno())
        logger.warning("process.readable_by_its_user", extra={"reason": reason})
