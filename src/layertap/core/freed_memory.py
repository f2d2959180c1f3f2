"""Freed memory: kept for the next batch, instead of returned to the system."""

import functools

import numpy as np

# Just below the largest block from which glibc learns.
_LEARNED_BYTES = 2**25 - 2**16


@functools.cache
def keep_freed_memory() -> None:
    """Lets the C library keep up to 64 MiB of freed memory.

    By default, glibc returns the memory of a batch to the system, and gets it again,
    page by page, for the next one: half the time of a small model. It learns from
    freed blocks how much to keep (see `M_MMAP_THRESHOLD` in mallopt(3)), unless the
    user has chosen that. Other C libraries are not affected.
    """
    # Freed at once: its pages are never touched.
    np.empty(_LEARNED_BYTES, np.uint8)
