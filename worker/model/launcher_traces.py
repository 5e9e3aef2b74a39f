"""What handlers see of the process that they run in: nothing of the launcher that it was forked from."""

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator
from types import ModuleType

from torchrelay.shared import settings
from torchrelay.worker.common.worker_environment import threads_asked_for
from torchrelay.worker.model import loaded_torch


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
    if torch := loaded_torch.module():
        torch.default_generator.seed()
    # Python itself sees to its own. PERF: torch imports numpy, but not this part of it, which took 10 ms and
    # 4.5 MB of every worker when it was imported here to be seeded: who imports it later finds it seeded.
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()
    multiprocessing.current_process().authkey = os.urandom(32)


@contextlib.contextmanager
def heeding_imports() -> Iterator[None]:
    """Let a module that is imported inside set torch's number of threads in the environment.

    torch reads that when it is imported, which the launcher may have done before there was a handler. A
    handler that calls torch itself has the last word.
    """
    torch = loaded_torch.module()
    if torch is None:
        yield
        return
    before = threads_asked_for(settings.environment())
    own, calls = torch.set_num_threads, list[int]()

    def set_num_threads(nthreads: int) -> None:
        calls.append(nthreads)
        own(nthreads)

    torch.set_num_threads = set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = own
    asked = threads_asked_for(settings.environment())
    if asked is not None and asked != before and not calls:
        own(asked)
