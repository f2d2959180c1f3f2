"""Runs saves in processes that are killed.

A server imports Keras once, and forks a process for each save, before it computes
anything. A line on standard input is a job in JSON. The answers on standard output are
the number of system calls of a completed save in its store, with its duration (`events
N SECONDS`), and the status of the process (`ended STATUS`).
"""

import json
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np

import layertap

ROWS, BATCH = 2000, 25
# The rows of a store that is complete before it grows.
FEWER = 1000
# Blocks of some three hundred rows.
MEMORY = 3 * 2**16
EVENTS = ("os.rename", "os.remove", "os.mkdir", "open")


def model() -> keras.Model:
    """Returns a model of two joins, of which one feeds the other."""

    def dense(units: int, seed: int, **options):
        start = keras.initializers.GlorotUniform(seed)
        return keras.layers.Dense(units, kernel_initializer=start, **options)

    x = keras.Input((8,), name="x")
    left = dense(16, 1, activation="relu", name="left")(x)
    right = dense(32, 2, name="right")(x)
    first = keras.layers.Concatenate(name="first")([left, right])
    second = keras.layers.Concatenate(name="second")([first, right])
    return keras.Model(x, dense(1, 3)(second), name="crashing")


def numbers() -> np.ndarray:
    """Returns the inputs."""
    return np.random.default_rng(7).normal(size=(ROWS, 8)).astype("float32")


def data(known: bool, rows: int):
    """Returns inputs with row numbers as labels: arrays, or a stream."""
    x, labels = numbers()[:rows], np.arange(rows)
    if known:
        return (x, labels), {"batch_size": BATCH}
    batches = (
        (x[at : at + BATCH], labels[at : at + BATCH]) for at in range(0, rows, BATCH)
    )
    return batches, {}


def save(path: str, compression: str | None, known: bool, rows: int) -> None:
    """Saves into a store, or resumes it, or adds rows to it."""
    source, options = data(known, rows)
    layertap.save(
        model(),
        source,
        path,
        ids=[f"row {n:04}" for n in range(rows)],
        compression=compression,
        memory=MEMORY,
        progress=False,
        **options,
    )


def kill_at(path: str, event: int | None) -> list[int]:
    """Ends this process at its n-th system call in the store."""
    seen = [0]
    counting = threading.Lock()

    def count(name: str, arguments: tuple) -> None:
        if name not in EVENTS or not arguments:
            return
        if Path(path).name not in str(arguments[0]):
            return
        with counting:
            seen[0] += 1
            if seen[0] == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    return seen


def run(job: dict) -> None:
    """Runs a job, in its own process."""
    seen = kill_at(job["path"], job["event"])
    started = time.monotonic()
    save(job["path"], job["compression"], job["known"], job["rows"])
    print("events", seen[0], time.monotonic() - started, flush=True)


def kill_in_a_shard(path: Path, count: int, process: int, ending: select.poll) -> None:
    """Kills a process within the last of a number of shards that it writes."""
    seen: set[str] = set()
    while not ending.poll(0):
        seen.update(map(str, path.rglob("c.*.new")))
        if len(seen) >= count:
            os.kill(process, signal.SIGKILL)
            return


def serve() -> None:
    """Forks a process for each job, kills it if requested, and prints its status."""
    for line in sys.stdin:
        job = json.loads(line)
        process = os.fork()
        if not process:
            status = 1
            try:
                run(job)
                status = 0
            finally:
                os._exit(status)
        ending = select.poll()
        ending.register(os.pidfd_open(process), select.POLLIN)
        if job["after"] is not None and not ending.poll(job["after"] * 1000):
            os.kill(process, signal.SIGKILL)
        if job["shard"] is not None:
            kill_in_a_shard(Path(job["path"]), job["shard"], process, ending)
        _, status = os.waitpid(process, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
