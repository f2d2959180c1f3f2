"""Data of which reading is logged, and that do what files tell them: wait, be killed.

Whoever reads them may be a worker in another process: what it is to do stands in files
of a folder, and is done once.
"""

import os
import signal
import sys
import time
from pathlib import Path

import keras
import numpy as np

ROWS, BATCH = 300, 10
# Of blocks of two batches: numbers of two branches, labels, digests, and texts.
BLOCK = 20
MEMORY = 3 * BLOCK * (4 * (6 + 9) + 8 + 8 + 7)
# What is the same of all saves.
OPTIONS = {
    "ids": [f"row {n}" for n in range(ROWS)],
    "memory": MEMORY,
    "progress": False,
}
BATCHES = ROWS // BATCH
KILLED = -signal.SIGKILL


def inputs():
    return np.random.default_rng(3).normal(size=(ROWS, 8)).astype("float32")


def model():
    """Two branches of one input, which are known in NumPy."""

    def dense(units, seed):
        start = keras.initializers.GlorotUniform(seed)
        return keras.layers.Dense(units, kernel_initializer=start, name=f"d{seed}")

    x = keras.Input((8,), name="x")
    joined = keras.layers.Concatenate(name="fusion")([dense(6, 1)(x), dense(9, 2)(x)])
    return keras.Model(x, dense(1, 3)(joined), name="faulty")


def fewer_in_workers():
    """The inputs; in a process that has not what is set in the driver, not all."""
    return inputs()[: ROWS if "OF_THE_DRIVER" in os.environ else ROWS - 1]


class Faulty(keras.utils.PyDataset):
    """Batches with their rows' numbers as labels.

    Args:
        folder: Where it is told what to do, and says what it does.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)
        self.x = inputs()

    def __len__(self):
        return BATCHES

    def __getitem__(self, number):
        log(self.folder, number)
        obey(self.folder, number)
        rows = slice(number * BATCH, (number + 1) * BATCH)
        return self.x[rows], np.arange(ROWS)[rows]


def log(folder, number):
    """Notes which process reads which batch."""
    line = f"{os.getpid()} {number}\n".encode()
    descriptor = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line)
    os.close(descriptor)


def read_by(folder):
    """Returns process and batch of all that was read."""
    lines = (Path(folder) / "log").read_text().splitlines()
    return [tuple(map(int, line.split())) for line in lines]


def tell(folder, number, what):
    """Has whoever reads a batch next do something.

    Args:
        folder: The folder of the data.
        number: The batch.
        what: `"kill"`, and `"always"` for each who reads it; `"raise"`; `"exit"`;
            `"wait"`, until `"waiting-…"` is deleted; or an event such as `"os.link"`,
            at which it is killed when it next comes.
    """
    (Path(folder) / f"tell-{number}").write_text(what)


def obey(folder, number):
    told = folder / f"tell-{number}"
    taken = folder / f"told-{number}-{os.getpid()}"
    try:
        told.rename(taken)
    except FileNotFoundError:
        return
    what = taken.read_text()
    if what == "always":
        taken.rename(told)
    if what in ("kill", "always"):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "raise":
        raise BrokenDataError(f"batch {number} is broken")
    if what == "exit":
        sys.exit(3)
    if what == "wait":
        waiting = folder / f"waiting-{number}"
        waiting.touch()
        while waiting.exists():
            time.sleep(0.02)
        return
    sys.addaudithook(lambda event, arguments: _kill_at(what, event, arguments))


def _kill_at(wanted, event, arguments):
    if event == wanted and arguments and ".zarr" in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)


class BrokenDataError(Exception):
    """Raised by the data."""


def until(true, seconds=60):
    """Waits for something that has to become true.

    Returns:
        What it is then.
    """
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"{true} did not become true"
        time.sleep(0.02)
    return found


def alive(process):
    """Whether a process has not ended, nor is a zombie."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"
