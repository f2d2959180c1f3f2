"""Data that log their readers, and follow instructions: to wait, or to be killed.

Readers may be workers in other processes. So instructions stand in files of a folder;
each is followed once.
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
MEMORY = 3 * BLOCK * (4 * (6 + 9) + 8 + 8 + 16)
# Options of all saves.
OPTIONS = {
    "ids": [f"row {n}" for n in range(ROWS)],
    "memory": MEMORY,
    "progress": False,
}
BATCHES = ROWS // BATCH
# Batches to wait at: one worker waits in block 3, the other in a later one, whichever
# it gets: Ray may keep any block for a worker that waits. All read the last batch.
HELD = (7, *range(19, BATCHES - 1, 2))
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
    """The inputs, without the last row in a process other than the driver."""
    return inputs()[: ROWS if "OF_THE_DRIVER" in os.environ else ROWS - 1]


class Faulty(keras.utils.PyDataset):
    """Batches with their rows' numbers as labels.

    Args:
        folder: Holds the instructions and the log.
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


class HeldAtStart(Faulty):
    """Data that hold each worker at its first batch while `"held"` exists."""

    def __init__(self, folder):
        super().__init__(folder)
        self.driver = os.getpid()
        (self.folder / "held").touch()

    def __getitem__(self, number):
        if os.getpid() != self.driver:
            (self.folder / f"waiting-{os.getpid()}").touch()
            while (self.folder / "held").exists():
                time.sleep(0.02)
        return super().__getitem__(number)

    def waiting(self):
        """Returns the processes of the workers that wait or have waited."""
        files = self.folder.glob("waiting-*")
        return {int(file.name.rpartition("-")[2]) for file in files}


def log(folder, number):
    """Notes which process reads which batch."""
    line = f"{os.getpid()} {number}\n".encode()
    descriptor = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line)
    os.close(descriptor)


def read_by(folder):
    """Returns the process and the batch of each reading."""
    lines = (Path(folder) / "log").read_text().splitlines()
    return [tuple(map(int, line.split())) for line in lines]


def instruct(folder, number, instruction):
    """Instructs the next process that reads a batch.

    Args:
        folder: The folder of the data.
        number: The batch.
        instruction: `"kill"`, or `"always"` for every reader; `"raise"`; `"exit"`;
            `"wait"`, until `"waiting-…"` is deleted; or an event such as `"os.link"`,
            which kills the process when it next happens.
    """
    (Path(folder) / f"instruction-{number}").write_text(instruction)


def release(folder):
    """Withdraws the instructions that nobody has followed."""
    for left in Path(folder).glob("instruction-*"):
        left.unlink()


def obey(folder, number):
    waiting_for_reader = folder / f"instruction-{number}"
    followed = folder / f"followed-{number}-{os.getpid()}"
    try:
        waiting_for_reader.rename(followed)
    except FileNotFoundError:
        return
    instruction = followed.read_text()
    if instruction == "always":
        followed.rename(waiting_for_reader)
    if instruction in ("kill", "always"):
        os.kill(os.getpid(), signal.SIGKILL)
    if instruction == "raise":
        raise BrokenDataError(f"batch {number} is broken")
    if instruction == "exit":
        sys.exit(3)
    if instruction == "wait":
        waiting = folder / f"waiting-{number}"
        waiting.touch()
        while waiting.exists():
            time.sleep(0.02)
        return
    sys.addaudithook(lambda event, arguments: _kill_at(instruction, event, arguments))


def _kill_at(wanted, event, arguments):
    if event == wanted and arguments and ".zarr" in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)


class BrokenDataError(Exception):
    """Raised by the data."""


def until(condition, seconds=120):
    """Waits until a condition returns a true value, and returns that."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"{condition} did not become true"
        time.sleep(0.02)
    return value


def alive(process):
    """Whether a process runs, and is not a zombie."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"
