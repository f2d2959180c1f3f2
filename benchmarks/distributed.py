"""How much faster two workers are than one, and what it costs to have one.

Each run is a save of W2 in a process of its own, in turn: local, with one worker, with
two. All compute with one thread. What counts is the time for the last six tenths of the
rows: the start-up of Ray and the backend is not in it, if there are enough rows.

    python -m benchmarks.distributed --backends jax --rows 40960 --rounds 5
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.running import BACKENDS, ROOT
from benchmarks.works import WORKS
from layertap.inputs.lazy_array import LazyRows

WAYS = ("local", "one", "two")
_THREADS = {
    "OMP_NUM_THREADS": "1",
    "NPROC": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


# This part of the rows is start-up.
_UNTIL = 0.4


class Many(LazyRows):
    """Repeated rows of W2 that take no memory.

    Args:
        rows: How many there are.
    """

    def __init__(self, rows: int) -> None:
        self._images = WORKS["W2"].data(1024)
        self._rows = rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return (self._rows, *self._images.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its dtype."""
        return self._images.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Returns some rows."""
        return self._images[np.arange(start, stop) % len(self._images)]


def many() -> Many:
    """Returns the data, as each worker opens them."""
    return Many(int(os.environ["LAYERTAP_BENCHMARK_ROWS"]))


def run(way: str, rows: int, folder: Path) -> dict[str, float]:
    """Saves once, in this process.

    Args:
        way: One of `WAYS`.
        rows: How many rows of W2 are saved.
        folder: An empty folder.

    Returns:
        Rows a second after start-up, and the seconds that start-up took.
    """
    import keras
    import ray

    import layertap.distributed

    work = WORKS["W2"]
    model = work.build(keras).model
    os.environ["LAYERTAP_BENCHMARK_ROWS"] = str(rows)
    seen: list[tuple[float, int]] = []
    begin = time.perf_counter()

    def note(rows: int, written: int) -> None:
        seen.append((time.perf_counter(), rows))

    path = folder / "values.zarr"
    options: dict[str, Any] = {"batch_size": work.batch_size, "progress": note}
    # Small blocks, as many as a large run has: little is left to the last worker.
    options["memory"] = 2 * 2**20
    if way == "local":
        layertap.save(model, many(), path, **options)
    else:
        workers = WAYS.index(way)
        # The folder that this is in, for the workers.
        environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            runtime_env=environment,
        )
        begin = time.perf_counter()
        data = "benchmarks.distributed:many"
        layertap.distributed.save(model, data, path, workers=workers, **options)
    # By then, both workers have been at it for a while.
    first = next(at for at, (_, done) in enumerate(seen) if done >= _UNTIL * rows)
    (start, before), (end, after) = seen[first], seen[-1]
    return {"speed": (after - before) / (end - start), "start": start - begin}


def main() -> None:
    """Measures, and prints the ratios of each round and their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--rows", type=int, default=40960)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(run(given.way, given.rows, Path(folder))))
        return
    for backend in given.backends:
        rounds = [
            {way: measured(way, backend, given.rows) for way in WAYS}
            for _ in range(given.rounds)
        ]
        for name, (fast, slow) in {
            "two workers / one": ("two", "one"),
            # How much longer one worker takes.
            "local save / one worker": ("local", "one"),
        }.items():
            ratios = [r[fast]["speed"] / r[slow]["speed"] for r in rounds]
            told = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            median = statistics.median(ratios)
            print(f"{backend}: {name}: {median:.2f} ({told})", flush=True)


def measured(way: str, backend: str, rows: int) -> dict[str, float]:
    """Saves once, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.distributed"]
    done = subprocess.run(
        [*command, "--way", way, "--rows", str(rows)],
        env=os.environ | _THREADS | {"KERAS_BACKEND": backend},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
