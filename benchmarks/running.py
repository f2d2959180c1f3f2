"""Runs works in processes of their own; the ways take turns."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks import calls, effects, epochs, training
from benchmarks.works import WORKS

Found = dict[str, Any]

ROOT = Path(__file__).parents[1]
# What is measured is what is in this checkout, whatever is installed.
CODE = os.pathsep.join((str(ROOT), str(ROOT / "src")))
BACKENDS = ("tensorflow", "jax", "torch")
# Peers with a Python of their own, the Keras they have, and what they need to be set.
PEERS: Mapping[str, tuple[str, dict[str, str]]] = {
    "keract": ("tf_keras", {"TF_USE_LEGACY_KERAS": "1"}),
    "thingsvision": ("keras", {}),
}
# These take so long that fewer turns have to do.
TURNS = {"article": 2, "h5py": 2, "keract": 2, "thingsvision": 1, "images": 5}
# How often epochs are measured.
ROUNDS = 11
# Works of which the first call, and the memory, is measured in new processes.
FIRST = {
    "W2": ("floor", "save", "multi", "article"),
    "W4": ("floor", "save", "article"),
}
PEAK = ("floor", "save", "multi")
PEAK_WORKS = ("W2", "W3", "W5")
# With four times the rows, memory grows less than it varies between processes.
PROCESSES = {("W3", "save"): 3}
# Where times do not count, the large models are left out.
QUICK = ("W2", "W6 nested", "W7")

_console = Console(stderr=True)


class Process:
    """A worker process, which carries out one order after the other.

    Args:
        work: The name of the work.
        rows: How many rows of it.
        folder: Where it may write values.
        backend: The backend of Keras.
        python: The Python to run it.
        keras: The module of Keras.
        more: More of its environment.
    """

    def __init__(
        self,
        work: str,
        rows: int,
        folder: Path,
        backend: str,
        python: Path = Path(sys.executable),
        keras: str = "keras",
        more: Mapping[str, str] | None = None,
    ) -> None:
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": CODE}
        self._process = subprocess.Popen(
            [
                *(str(python), "-m", "benchmarks.worker", work, "--rows", str(rows)),
                *("--keras", keras, "--folder", str(folder)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment() | quiet | {"KERAS_BACKEND": backend} | (more or {}),
            text=True,
        )

    def ask(self, do: str, **given: Any) -> Found:
        """Sends an order, and returns its result, or `error`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do} | given) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            return {"error": f"the process ended with status {status}"}
        answer: Found = json.loads(line)
        return answer

    def end(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def started(*arguments: Any, **more: Any) -> Iterator[Process]:
    """Starts a worker, and ends it."""
    process = Process(*arguments, **more)
    try:
        yield process
    finally:
        process.end()


def right(answer: Found) -> Found:
    """Returns an answer, which has to be one.

    Raises:
        RuntimeError: If the order could not be done.
    """
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


class Suite:
    """The measurements on some backends.

    Args:
        folder: Where values are written.
        quick: Whether only shape and sanity count.
        pythons: The Python of each peer that is installed.
    """

    def __init__(self, folder: Path, quick: bool, pythons: Mapping[str, Path]) -> None:
        self._folder = folder
        self._quick = quick
        self._pythons = pythons

    def work(self, name: str, backend: str) -> Found:
        """Measures all ways of one work on one backend, in turn."""
        work = WORKS[name]
        rows = work.quick_rows if self._quick else work.rows
        rounds = 1 if self._quick else work.rounds
        with tempfile.TemporaryDirectory(dir=self._folder) as kept:
            here = Path(kept)
            with started(name, rows, here, backend) as own:
                planned = right(own.ask("plan"))
                ways = dict.fromkeys(("floor", "raw", "save"), own)
                ways |= {way: own for way in work.peers if way not in PEERS}
                others = self._others(name, rows, here, backend)
                ways |= others
                try:
                    found = self._turns(name, backend, ways, rounds)
                finally:
                    for process in others.values():
                        process.end()
                keeping = right(own.ask("keep"))
            reading = None
            if backend == "tensorflow" and name in ("W2", "W3"):
                reading = self._read(keeping, name)
        kept_facts = {k: keeping[k] for k in ("apart", "rows", "naive", "on_disk")}
        return {**planned, **kept_facts, "ways": found, "reading": reading}

    def _others(
        self, name: str, rows: int, here: Path, backend: str
    ) -> dict[str, Process]:
        """Starts the peers that have a Python of their own; they are on TensorFlow."""
        wanted = [way for way in WORKS[name].peers if way in self._pythons]
        return {
            way: Process(name, rows, here, backend, self._pythons[way], *PEERS[way])
            for way in (wanted if backend == "tensorflow" else [])
        }

    def _turns(
        self, name: str, backend: str, ways: Mapping[str, Process], rounds: int
    ) -> Found:
        found: Found = {}
        for way, process in ways.items():
            answer = process.ask("run", way=way)
            _console.print(f"{name} {backend} {way}: {_told(answer)}")
            if way in ("floor", "raw", "save"):
                right(answer)
            found[way] = {"first": answer, "runs": []}
        for turn in range(rounds):
            for way, process in ways.items():
                late = turn >= TURNS.get(way, rounds)
                if not late and "error" not in found[way]["first"]:
                    found[way]["runs"].append(right(process.ask("run", way=way)))
        return found

    def _read(self, keeping: Found, name: str) -> Found:
        _console.print(f"{name}: reading")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.reading", keeping["store"]),
                *("1" if self._quick else "7", json.dumps(keeping["files"])),
            ],
            env=os.environ | {"PYTHONPATH": CODE},
            stdout=subprocess.PIPE,
            check=True,
        )
        reading: Found = json.loads(done.stdout)
        return reading

    def fresh(
        self, name: str, way: str, backend: str, rows: int, *, again: bool = False
    ) -> Found:
        """Runs one way in a process of its own: once, or `again` for its seconds."""
        with (
            tempfile.TemporaryDirectory(dir=self._folder) as here,
            started(name, rows, Path(here), backend) as process,
        ):
            if way == "floor":
                # So that it computes only what is stored.
                right(process.ask("plan"))
            answer = process.ask("run", way=way)
            if again and "error" not in answer:
                answer["again"] = right(process.ask("run", way=way))["wall"]
        _console.print(f"{name} {backend} {way}, {rows} rows: {_told(answer)}")
        return answer

    def calls(self, backend: str) -> Found:
        """Measures one more call for one batch in memory, and the first ones."""
        found: Found = {}
        for name, turns in ({"W8": 2} if self._quick else calls.WORKS).items():
            with (
                tempfile.TemporaryDirectory(dir=self._folder) as here,
                started(name, calls.ROWS, Path(here), backend) as process,
            ):
                right(process.ask("plan"))
                found[name] = right(process.ask("calls", turns=turns))
            found[name]["first"] = {
                way: [
                    self.fresh(name, way, backend, calls.ROWS)["wall"]
                    for _ in range(1 if self._quick else 3)
                ]
                for way in ("capture", "predict")
            }
        return found

    def effects(self, backend: str) -> Found:
        """Measures gradients and attributions beside values."""
        return self._in_turns(effects, "effects", backend)

    def epochs(self, backend: str) -> Found:
        """Measures recorded epochs, and those of students, in turn."""
        return self._in_turns(epochs, "epochs", backend)

    def _in_turns(self, part: Any, order: str, backend: str) -> Found:
        name = part.WORK
        rows = WORKS[name].quick_rows if self._quick else WORKS[name].rows
        with (
            tempfile.TemporaryDirectory(dir=self._folder) as here,
            started(name, rows, Path(here), backend) as process,
        ):
            turns = 1 if self._quick else part.TURNS
            return right(process.ask(order, turns=turns))

    def pages(self, backend: str) -> Found:
        """Measures pages, in one process."""
        with tempfile.TemporaryDirectory(dir=self._folder) as here:
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "benchmarks.pages", here),
                    *(["--quick"] if self._quick else []),
                ],
                env=os.environ | {"PYTHONPATH": CODE, "KERAS_BACKEND": backend},
                stdout=subprocess.PIPE,
                check=True,
            )
        found: Found = json.loads(done.stdout.splitlines()[-1])
        for name, one in found.items():
            opening = one["opening"] or ["not opened: this machine has no Chromium"]
            _console.print(f"{name} page: {one['page']:,} bytes, {opening[0]}")
        return found

    def training(self, backend: str) -> Found:
        """Measures epochs of training on saved values and without, in turn."""
        name = training.WORK
        rows = WORKS[name].quick_rows if self._quick else WORKS[name].rows
        rounds = 1 if self._quick else ROUNDS
        found: Found = {way: [] for way in training.ways(backend)}
        with (
            tempfile.TemporaryDirectory(dir=self._folder) as here,
            started(name, rows, Path(here), backend) as process,
        ):
            for turn in range(rounds):
                for way, epochs in found.items():
                    if turn < TURNS.get(way, rounds):
                        epochs.append(right(process.ask("train", way=way)))
        for way, epochs in found.items():
            seconds = ", ".join(f"{one['seconds']:.2f}" for one in epochs)
            _console.print(f"{name} {backend} training, {way}: {seconds} s")
        return found

    def first_calls(self, backend: str) -> Found:
        """Measures the first call for one batch, with compilation."""
        return {
            name: {
                way: [
                    self.fresh(name, way, backend, WORKS[name].batch_size)
                    for _ in range(1 if way == "article" else 2)
                ]
                for way in ways
            }
            for name, ways in ({} if self._quick else FIRST).items()
        }

    def peaks(self, backend: str) -> Found:
        """Measures the memory that ways need beyond the model and the data.

        Also how long each takes in a process where no other way ran before.
        """
        found: Found = {}
        for name in () if self._quick else PEAK_WORKS:
            rows = WORKS[name].rows
            found[name] = {
                way: self._middle(name, way, backend, rows, again=True) for way in PEAK
            }
        rows = WORKS["W3"].quick_rows if self._quick else WORKS["W3"].rows
        found["W3 four times"] = {"save": self._middle("W3", "save", backend, 4 * rows)}
        return found

    def _middle(
        self, name: str, way: str, backend: str, rows: int, **more: bool
    ) -> Found:
        """Runs one way in new processes; returns medians."""
        times = PROCESSES.get((name, way), 1) if not self._quick else 1
        answers = [self.fresh(name, way, backend, rows, **more) for _ in range(times)]
        failed = [answer for answer in answers if "error" in answer]
        if failed:
            return failed[0]
        return {
            name: median(answer[name] for answer in answers)
            for name in ("peak", "again")
            if name in answers[0]
        }


def _environment() -> dict[str, str]:
    """Returns the environment of this process, where code is compiled once."""
    # As that of an installed package is. Otherwise, each first call would compile it.
    unwritten = "PYTHONDONTWRITEBYTECODE"
    return {name: value for name, value in os.environ.items() if name != unwritten}


def _told(answer: Found) -> str:
    if "error" in answer:
        return str(answer["error"])
    return f"{answer['wall']:.2f} s, {answer['peak'] / 2**20:,.0f} MiB"
