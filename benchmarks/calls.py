"""What one more call costs, for one batch in memory: the ways take turns.

All but `first` were called before. `capture`, `tap` and `on batch` return arrays of all
branches; `by hand` is the floor: the compiled step of what is stored.
"""

import time
from collections.abc import Callable
from typing import Any

from benchmarks.ways import Job, compiled

# InceptionV3 for small images, and a tiny model, with the turns of each way.
WORKS = {"W4 whole": 7, "W8": 200}
# The rows of the batch.
ROWS = 8


def ways(job: Job) -> dict[str, Callable[[], Any]]:
    """Returns the ways to compute all branches of one batch once."""
    import layertap

    x, model = job.data[:ROWS], job.built.model
    several = job.submodel(list(job.built.branches))
    tap, step = layertap.tap(model), compiled(job, job.stored)
    return {
        "capture": lambda: layertap.capture(model, x),
        "tap": lambda: tap(x),
        "on batch": lambda: several.predict_on_batch(x),
        "by hand": lambda: step(x),
    }


def measure(job: Job, turns: int) -> dict[str, list[float]]:
    """Returns the seconds of each way in each turn."""
    taking = ways(job)
    for way in taking.values():
        # On PyTorch, the second batch shows whether a graph is as right.
        for _ in range(3):
            way()
    found: dict[str, list[float]] = {name: [] for name in taking}
    for _ in range(turns):
        for name, way in taking.items():
            start = time.perf_counter()
            way()
            found[name].append(time.perf_counter() - start)
    return found
