"""Reading saved values, compared with memory-mapped `.npy` files. Needs no Keras.

`python -m benchmarks.reading STORE ROUNDS NPY_BY_ARRAY` prints seconds as JSON. All is
in the page cache, and was brought there by reading: who wrote last has no advantage.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import layertap

BATCH = 256
SINGLE_ROWS = 1000
# So that one round of large rows takes no longer than one of small ones.
MOST_BYTES = 2**28

Batch = dict[str, NDArray[Any]]


def npy_batches(files: dict[str, str], n: int, shuffle: bool) -> Iterator[Batch]:
    """Yields all rows of memory-mapped files in batches, as a loop by hand does."""
    arrays = {name: np.load(file, mmap_mode="r") for name, file in files.items()}
    rows = len(next(iter(arrays.values())))
    order = np.random.default_rng(0).permutation(rows)
    for start in range(0, rows, n):
        part = order[start : start + n] if shuffle else slice(start, start + n)
        yield {name: np.array(array[part]) for name, array in arrays.items()}


def go_through(batches: Iterator[Any]) -> None:
    """Reads every batch, as a training loop does."""
    for _ in batches:
        pass


def take(arrays: Any, rows: NDArray[np.intp], n: int) -> None:
    """Reads rows in any order, some at a time."""
    for start in range(0, len(rows), n):
        for array in arrays:
            array[rows[start : start + n]]


def take_single(arrays: Any, rows: list[int]) -> None:
    """Reads rows one by one."""
    for row in rows:
        for array in arrays:
            np.array(array[row])


def open_again(opening: Callable[[], Any]) -> None:
    """Opens all arrays twenty times."""
    for _ in range(20):
        opening()


def ways(
    store: str, files: dict[str, str]
) -> dict[str, tuple[Callable[[], None], ...]]:
    """Returns each kind of reading, as functions for the files and for the store."""
    saved = layertap.open(store)
    row_bytes = sum(saved[name].nbytes for name in files) // saved.rows
    n = max(min(BATCH, 2**25 // row_bytes), 1)
    random = np.random.default_rng(1)
    rows = random.integers(0, saved.rows, min(saved.rows, MOST_BYTES // row_bytes))
    single = random.integers(0, saved.rows, SINGLE_ROWS).tolist()

    def mapped() -> list[Any]:
        return [np.load(file, mmap_mode="r") for file in files.values()]

    def opened() -> list[Any]:
        saved = layertap.open(store)
        return [saved[name] for name in files]

    def batches(shuffle: bool) -> tuple[Callable[[], None], ...]:
        return (
            lambda: go_through(npy_batches(files, n, shuffle)),
            lambda: go_through(
                layertap.open(store).batches(n, shuffle=shuffle, seed=0)
            ),
        )

    return {
        "sequential batches": batches(False),
        "shuffled batches": batches(True),
        "random rows": (
            lambda: take(mapped(), rows, n),
            lambda: take(opened(), rows, n),
        ),
        "one row": (
            lambda: take_single(mapped(), single),
            lambda: take_single(opened(), single),
        ),
        "opening": (
            lambda: open_again(mapped),
            lambda: open_again(opened),
        ),
    }


def forget(files: list[Path]) -> None:
    """Drops the files from the system's cache."""
    os.sync()
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def main() -> None:
    """Measures in turn, and prints seconds by kind of reading: `[npy, layertap]`."""
    store, rounds, files = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    plain = [file for file in Path(store).rglob("*") if file.is_file()]
    forget([*plain, *map(Path, files.values())])
    found: dict[str, list[list[float]]] = {}
    for turn in range(rounds + 1):
        for kind, both in ways(store, files).items():
            seconds = []
            for way in both:
                start = time.perf_counter()
                way()
                seconds.append(time.perf_counter() - start)
            # The first turn reads from the disk.
            if turn:
                found.setdefault(kind, []).append(seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
