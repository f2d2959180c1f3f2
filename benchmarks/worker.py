"""A process with one work, which measures the orders that come over standard input.

It has to run where only a peer is installed, so it imports nothing but the standard
library, NumPy and what the way needs. Each line in is a JSON object with `do`, the name
of a method of `Worker`, and its arguments; each line out what was found, or `error`.
"""

import argparse
import importlib
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import calls, effects, epochs
from benchmarks.training import Training
from benchmarks.ways import WAYS, Job, Once, compiled
from benchmarks.works import WORKS


class Worker:
    """One work in this process, and the ways that were begun.

    Args:
        work: The name of the work.
        rows: How many rows of it.
        keras: The module of the Keras to build it with.
        folder: Where values may be written.
    """

    def __init__(self, work: str, rows: int, keras: str, folder: Path) -> None:
        self._folder = folder
        self._ways: dict[str, Once] = {}
        self._training: Training | None = None
        kit = importlib.import_module(keras)
        found = WORKS[work]
        start = time.perf_counter()
        built = found.build(kit)
        self._building = time.perf_counter() - start
        self.job = Job(found, built, found.data(rows), list(built.branches), kit)

    def plan(self) -> dict[str, Any]:
        """Plans the work; from then on, what is by hand computes what is stored."""
        import layertap

        start = time.perf_counter()
        plan = layertap.plan(self.job.built.model)
        planning = time.perf_counter() - start
        if set(plan.addresses) != set(self.job.built.branches):
            raise AssertionError(f"{plan.addresses} are not {self.job.built.branches}")
        self.job.stored[:] = [value.address for value in plan.stored]
        return {"building": self._building, "planning": planning}

    def run(self, way: str) -> dict[str, Any]:
        """Runs one way once.

        Returns:
            Seconds on the wall and of all processors, in all and from the end of the
            first batch; bytes of memory at most above those before; bytes and files on
            disk.
        """
        if way not in self._ways:
            self._ways[way] = WAYS[way](self.job)
        marks: list[tuple[float, float]] = []

        def mark() -> None:
            if not marks:
                marks.append(_now())

        with tempfile.TemporaryDirectory(dir=self._folder) as kept:
            before = _memory("VmRSS")
            _forget_peak()
            start = _now()
            self._ways[way](Path(kept), mark)
            end = _now()
            peak = _memory("VmHWM") - before
            files = [file for file in Path(kept).rglob("*") if file.is_file()]
            sizes = [file.stat().st_size for file in files]
        first = marks[0] if marks else start
        return {
            "wall": end[0] - start[0],
            "cpu": end[1] - start[1],
            "after": end[0] - first[0],
            "after_cpu": end[1] - first[1],
            "peak": peak,
            "bytes": sum(sizes),
            "files": len(files),
        }

    def calls(self, turns: int) -> dict[str, list[float]]:
        """Returns the seconds of one more call, of each way in each turn."""
        return calls.measure(self.job, turns)

    def effects(self, turns: int) -> dict[str, list[float]]:
        """Returns the seconds of gradients, attributions and values in each turn."""
        return effects.measure(self.job, self._folder, turns)

    def epochs(self, turns: int) -> dict[str, list[float]]:
        """Returns the seconds of recorded epochs, and of those of students."""
        return epochs.measure(self.job, self._folder, turns)

    def train(self, way: str) -> dict[str, Any]:
        """Trains the head of the work, which is saved first, in one way."""
        if self._training is None:
            self._training = Training(self.job, self._folder)
        return dict(self._training.epoch(way))

    def keep(self) -> dict[str, Any]:
        """Saves the work for good, and as plain `.npy` files too.

        Returns:
            Where the store is, and by array its file; how far what was saved is from
            what a model by hand gives, as a share of the largest number; bytes.
        """
        import layertap

        WAYS["save"](self.job)(self._folder, lambda: None)
        store = self._folder / "values.zarr"
        saved = layertap.open(store)
        names = list(self.job.built.branches)
        step = compiled(self.job, names)
        apart, start = 0.0, 0
        for batch in self.job.batches():
            for name, right in zip(names, step(batch), strict=True):
                found = saved[name][start : start + len(right)]
                scale = max(float(np.abs(right).max()), 1e-30)
                apart = max(apart, float(np.abs(found - right).max()) / scale)
            start += len(batch)
        files = {}
        for i, name in enumerate(self.job.stored):
            files[name] = str(self._folder / f"{i}.npy")
            np.save(files[name], saved[name][:])
        return {
            "store": str(store),
            "files": files,
            "apart": apart,
            "rows": saved.rows,
            "naive": sum(
                saved[name].dtype.itemsize * _size(saved[name]) for name in names
            ),
            "on_disk": saved.bytes_on_disk,
        }


def _size(array: Any) -> int:
    return int(np.prod(array.shape))


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _memory(what: str) -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{what}:\s+(\d+) kB", status)
    if found is None:
        raise OSError(f"/proc/self/status has no {what}: memory is measured on Linux.")
    return int(found[1]) * 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    """Answers line by line until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--keras", default="keras")
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    # The output of libraries is not an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    orders: dict[str, Any] = {}
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if not orders:
                worker = Worker(given.work, given.rows, given.keras, given.folder)
                orders = {
                    "plan": worker.plan,
                    "run": worker.run,
                    "calls": worker.calls,
                    "effects": worker.effects,
                    "epochs": worker.epochs,
                    "train": worker.train,
                    "keep": worker.keep,
                }
            answer = orders[order.pop("do")](**order)
        except Exception as error:  # Of a peer's, whatever it is: it is what is found.
            answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
