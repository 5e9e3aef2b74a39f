"""Numbers of GPUs, which count only those that CUDA_VISIBLE_DEVICES leaves visible."""

from collections.abc import Sequence


def visible_to(gpu_ids: Sequence[int], visible: str | None) -> str:
    """Return the CUDA_VISIBLE_DEVICES of a process that is to see these of the GPUs that `visible` leaves."""
    if visible is None:
        return ",".join(map(str, gpu_ids))
    names = [name.strip() for name in visible.split(",")]
    return ",".join(names[gpu_id] for gpu_id in gpu_ids)
