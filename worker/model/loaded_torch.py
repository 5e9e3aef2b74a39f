"""torch, where this process has it: by then the launcher has imported it, or the handler.

Nothing here imports it: it takes seconds and memory, and handlers may need none.
"""

import io
import sys
from typing import Any

from torchrelay.shared import settings
from torchrelay.worker.common.worker_environment import THREADS


def module() -> Any:  # Any: torch's types are nothing to import it for
    """Return torch, or None as long as nobody has imported it."""
    return sys.modules.get("torch")


def is_cuda_initialized() -> bool:
    """Tell whether this process has touched a GPU, after which no fork of it could."""
    torch = module()
    return torch is not None and bool(torch.cuda.is_initialized())


def use_threads(number: int) -> None:
    """Let torch take so many threads on the cpu, now or, up to the number of cpus, once it is imported."""
    if torch := module():
        torch.set_num_threads(number)
    else:
        settings.add_to_environment(dict.fromkeys(THREADS, str(number)))


def saved(value: object) -> bytes | None:
    """Write a tensor as `torch.save` does; None for what is none."""
    torch = module()
    # A thread of the handler's may be importing it.
    tensor = getattr(torch, "Tensor", None)
    if tensor is None or not isinstance(value, tensor):
        return None
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()
