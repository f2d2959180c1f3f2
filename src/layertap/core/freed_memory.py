"""Freed memory: kept for the next batch, instead of returned to the system."""

import functools

import numpy as np

# Just below the largest block from which glibc learns.
_LEARNED_BYTES = 2**25 - 2**16


@functools.cache
def keep_freed_memory() -> None:
    """Lets the C library keep freed memory at the end of its heap, up to 64 MiB.

    By default, glibc returns the memory of a batch to the system, and gets it again,
    page by page, for the next one: half the time of a small model. It learns from
    freed blocks which ones come from the heap, and how much of its end to keep (see
    `M_MMAP_THRESHOLD` in mallopt(3)), unless the user has chosen that. Other C
    libraries are not affected.
    """
    # Freed at once: its pages are never touched.
    np.empty(_LEARNED_BYTES, np.uint8)
