"""What handlers see of the process that they run in: nothing of the launcher that it was forked from."""

import multiprocessing
import os
import sys
from types import ModuleType

import torch


def hide_program() -> ModuleType:
    """Let `__main__` be an empty module, and the program have no arguments; the caller keeps what it was.

    multiprocessing's children import their parent's `__main__` anew, by its name or file: ours need not be
    there for them, or may be the archive's.
    """
    was = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    sys.argv = [""]
    return was


def draw_own_randomness() -> None:
    """Draw other random numbers than the processes that were forked from the same one, and other keys."""
    torch.default_generator.seed()
    # Imported by torch, where it is installed; Python itself sees to its own.
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    multiprocessing.current_process().authkey = os.urandom(32)
