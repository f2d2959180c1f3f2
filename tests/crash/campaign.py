"""Kills saves at random moments, checks the remaining rows, and resumes.

    KERAS_BACKEND=jax python -m tests.crash.campaign --kills 200 --seed 1

A story is one store, whose saves are killed until one completes. The moment is drawn
from the time of a save, from its system calls in the store, or from the shards that it
writes. After each kill, every visible row has to be right. At the end, the store has to
equal that of an uninterrupted save. Some stores are complete before, with fewer rows,
which have to stay.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import zarr

import layertap
from layertap.store.location import exists
from tests.crash import saving
from tests.support.store_folder import Folder
from tests.support.store_rows import contents_of

CASES = [
    {"compression": compression, "known": known, "grows": grows}
    for grows, compression, known in itertools.product(
        (False, True), (None, "zstd"), (True, False)
    )
]
KILLED = -9
STORIES = "stories"


class Server:
    """The server of `saving.py`, in its own process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, saving.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def save(
        self,
        path: Path,
        case: dict,
        moment: dict | None = None,
        rows: int = saving.ROWS,
    ) -> tuple[int, tuple[int, float] | None]:
        """Runs a save; returns its status, and its events and seconds on success."""
        never = {"event": None, "after": None, "shard": None}
        job = {"path": str(path), "rows": rows, **case, **never, **(moment or {})}
        print(json.dumps(job), file=self._process.stdin, flush=True)
        took = None
        while True:
            word, *numbers = self._process.stdout.readline().split()
            if word == "ended":
                return int(numbers[0]), took
            took = int(numbers[0]), float(numbers[1])

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@dataclass
class Campaign:
    """The state of one kind of store, and its history.

    Args:
        server: Runs the saves.
        folder: Where the stores are.
        case: The kind of store: its compression, whether its length is known, and
            whether it is complete with fewer rows before.
    """

    server: Server
    folder: Path
    case: dict
    outcomes: Counter = field(default_factory=Counter)
    stories: int = 0

    def __post_init__(self) -> None:
        self.whole = self.folder / "whole.zarr"
        self.least = saving.FEWER if self.case["grows"] else 0
        self.prepare(self.whole)
        status, took = self.server.save(self.whole, self.case)
        assert status == 0
        self.events, self.seconds = took
        self.rows = {
            name: array[:]
            for name, array in zarr.open_group(self.whole).members(max_depth=None)
            if isinstance(array, zarr.Array)
        }
        self.check_truth()

    def prepare(self, path: Path) -> None:
        """Makes the store that is complete before, if it is to be."""
        if self.least:
            status, _ = self.server.save(path, self.case, rows=self.least)
            assert status == 0

    def check_truth(self) -> None:
        """Asserts that the store of an uninterrupted save is right."""
        x, model = saving.numbers(), saving.model()
        left, right = (
            x @ np.asarray(layer.get_weights()[0]) + layer.get_weights()[1]
            for layer in (model.get_layer("left"), model.get_layer("right"))
        )
        close = {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(self.rows["first/in/0"], left.clip(0), **close)
        np.testing.assert_allclose(self.rows["first/in/1"], right, **close)
        assert self.rows["labels"].tolist() == list(range(saving.ROWS))

    def story(self, chance: random.Random, most: int) -> int:
        """Kills the saves of one store until one completes, or a number of times.

        Returns:
            How many were killed.
        """
        self.stories += 1
        path = self.folder / f"{self.stories}.zarr"
        self.prepare(path)
        for kills in range(most + 1):
            moment = self.moment(chance) if kills < most else None
            resumed = path.exists()
            status, _ = self.server.save(path, self.case, moment)
            if status == 0:
                break
            assert status == KILLED, (moment, status)
            place = ("resumed, " if resumed else "") + self.place(path)
            self.outcomes[place] += 1
            self.check_rows(path)
        assert layertap.open(path).complete
        assert layertap.open(path).rows == saving.ROWS
        assert contents_of(Folder(path)) == contents_of(Folder(self.whole))
        # The next process removes the files that a killed one leaves near its store.
        assert not [f for f in self.folder.iterdir() if path.name + "." in f.name]
        return kills

    def moment(self, chance: random.Random) -> dict:
        """Draws the moment to kill: after a time, at an event, or within a shard."""
        return chance.choice(
            [
                {"after": chance.uniform(0, 1.1 * self.seconds)},
                {"event": chance.randint(1, self.events)},
                {"shard": chance.randint(1, 20)},
            ]
        )

    def place(self, path: Path) -> str:
        """Describes where a save was killed, by the remaining files."""
        if not exists(path):
            left = list(self.folder.glob(f".{path.name}.*"))
            return "creating the store" if left else "before there is a store"
        saved = layertap.open(path)
        if saved.complete:
            return "after the end" if saved.rows == saving.ROWS else "before it grows"
        files = {str(file.relative_to(path)) for file in path.rglob("*")}
        group = zarr.open_group(path, mode="r")
        rows = {group[name].shape[0] for name in self.rows}
        if any("/c." in name and name.endswith(".new") for name in files):
            return "writing shards"
        if any(name.endswith(".new") for name in files) or len(rows) > 1:
            return "in the markers' replacement"
        block = layertap.open(path).reader.block_rows
        ahead = [
            name
            for name in files
            if "/c." in name
            and int(name.split("/c.")[1].split(".")[0]) * block >= max(rows)
        ]
        if ahead:
            return "between shards and markers"
        return "computing" if max(rows) else "compiling or computing the first block"

    def check_rows(self, path: Path) -> None:
        """Asserts that all visible rows are right."""
        if not self.least and not exists(path):
            return
        saved = layertap.open(path)
        assert saved.rows >= self.least
        group = zarr.open_group(path, mode="r")
        for name, expected in self.rows.items():
            shown = group[name][:]
            assert len(shown) >= saved.rows
            assert shown.tobytes() == expected[: len(shown)].tobytes()
        both = np.concatenate(
            [self.rows["first/in/0"], self.rows["first/in/1"]], axis=1
        )
        assert saved["second/in/0"][:].tobytes() == both[: saved.rows].tobytes()
        assert list(saved.ids) == [f"row {n:04}" for n in range(saved.rows)]
        report = layertap.verify(saved)
        assert report, report


def run(
    server: Server, case: dict, kills: int, seed: int, folder: Path, most: int = 6
) -> Counter:
    """Kills a number of saves of one kind of store, and counts where."""
    campaign = Campaign(server, folder, case)
    chance = random.Random(f"{seed} {case}")
    left = kills
    while left > 0:
        left -= campaign.story(chance, min(most, left))
    return campaign.outcomes + Counter({STORIES: campaign.stories})


def main() -> None:
    """Runs from the command line, and prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}, {os.environ.get('KERAS_BACKEND', '?')}", flush=True)
    outcomes: Counter = Counter()
    kills = -(-options.kills // len(CASES))
    with Server() as server:
        for case in CASES:
            with tempfile.TemporaryDirectory() as folder:
                outcomes += run(server, case, kills, options.seed, Path(folder))
    stories = outcomes.pop(STORIES)
    for place, count in sorted(outcomes.items()):
        print(f"{count:6} {place}")
    print(f"{outcomes.total():6} kills; {stories} stores ended right")


if __name__ == "__main__":
    main()
