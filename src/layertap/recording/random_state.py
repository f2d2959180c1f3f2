"""Leaves the random numbers of a program as they are."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Restores the generators of Python, NumPy and PyTorch after the context.

    A data set may draw from them; an iterator of a `DataLoader` always does.
    """
    state, numpy_state = random.getstate(), np.random.get_state()
    torch: Any = sys.modules.get("torch")
    devices = range(torch.cuda.device_count()) if torch else ()
    try:
        with torch.random.fork_rng(devices) if torch else nullcontext():
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
