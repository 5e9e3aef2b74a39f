"""How much free memory the allocator keeps: glibc's `mallopt` and `malloc_trim`.

By itself it keeps freed blocks for the next ones, with small blocks between them; a process that has had many
large bodies at a time would hold most of that memory from then on. Having it keep none of them costs a
millisecond for each megabyte of a body, since the kernel clears what it hands out.
"""

import ctypes
from contextlib import suppress

#: M_TRIM_THRESHOLD and M_MMAP_THRESHOLD: above how much free memory at its end the heap is made shorter, and
#: from which size on a block is none of the heap's, which is the most that glibc would come to by itself.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 16 << 20
_BLOCK_BYTES = 32 << 20


def keep_some_free_memory() -> None:
    """Have the allocator keep up to 16 MB of what is freed at the end of its heap.

    PERF: by itself it gives back the bodies of a batch, and has the kernel clear pages for those of the next:
    of 150 kB each, a third of a worker's time.
    """
    with suppress(AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_MMAP_THRESHOLD, _BLOCK_BYTES)


def give_back_free_memory() -> None:
    """Return what is free to the system; takes some 10 ms for 100 MB."""
    with suppress(AttributeError):  # other C libraries have ways of their own
        ctypes.CDLL(None).malloc_trim(0)
