"""How many threads torch computes with on the cpu, where the number comes from the environment.

torch reads it when it is imported, which the launcher has done before there was a handler.
"""

import contextlib
from collections.abc import Iterator

import torch

from torchrelay.shared import settings
from torchrelay.worker.common.worker_environment import threads_asked_for


@contextlib.contextmanager
def heeding_imports() -> Iterator[None]:
    """Let a module that is imported inside set its number in the environment, as before `import torch`.

    One that calls torch itself has the last word.
    """
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
