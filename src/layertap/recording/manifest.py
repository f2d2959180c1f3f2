"""The file of a recording that says which steps it has, and which it missed."""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from layertap.errors import NotAStoreError, StoreCorruptError
from layertap.store.storage.files import LocalStorage

MANIFEST = "recording.json"
# What reading it may raise, whatever it contains.
_MALFORMED = (
    *(ValueError, TypeError, KeyError, AttributeError, OverflowError),
    RecursionError,
)
_FLAGS = ("finished", "by_batches")
# By name: a number, or a list of them for a metric of several classes.
Logs = dict[str, Any]
_STORE = re.compile(r"step-(\d{9,18})\.zarr")


def is_recording(path: str | os.PathLike[str]) -> bool:
    """Returns whether a folder has a recording."""
    return (Path(path) / MANIFEST).is_file()


def store_of(folder: Path, step: int) -> Path:
    """Returns the path of the store of a step."""
    return folder / f"step-{step:09d}.zarr"


def steps_in(folder: Path) -> list[int]:
    """Returns the steps that have a store, complete or not."""
    names = (_STORE.fullmatch(entry.name) for entry in folder.iterdir())
    steps = [int(name[1]) for name in names if name]
    # One name a step: others begin with more zeros.
    return sorted({step for step in steps if store_of(folder, step).exists()})


def numbers_of(logs: Mapping[str, Any]) -> Logs:
    """Returns the logs that are numbers, or lists of numbers for metrics of classes."""
    known: Logs = {}
    for name, log in logs.items():
        with suppress(TypeError, ValueError):
            known[str(name)] = np.asarray(log, np.float64).tolist()
    return known


@dataclass
class Moment:
    """When a step was recorded.

    Attributes:
        epoch: The epoch, from 1 on, as the progress bar of `fit` counts.
        logs: The loss and the metrics that `fit` reported there.
    """

    epoch: int
    logs: Logs = field(default_factory=dict)


@dataclass
class Manifest:
    """Which steps were recorded and when, which were missed and why.

    Attributes:
        moments: The moment of each complete step.
        missed: Why a step has no store.
        finished: Whether the training has ended.
        by_batches: Whether steps count batches, since the optimizer does not count.
        offset: The step at which the last `fit` began, if they do.
    """

    moments: dict[int, Moment] = field(default_factory=dict)
    missed: dict[int, str] = field(default_factory=dict)
    finished: bool = False
    by_batches: bool = False
    offset: int = 0

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Reads the manifest of a recording.

        Raises NotAStoreError if there is none, StoreCorruptError if it is damaged.
        """
        try:
            content = LocalStorage(folder).read(MANIFEST)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotAStoreError(
                f"{folder} has no recording. Expected a folder with a {MANIFEST}, as "
                "layertap.Recorder makes it."
            ) from error
        try:
            return cls._parsed(json.loads(content))
        except _MALFORMED as error:
            raise StoreCorruptError(
                f"{folder / MANIFEST} is damaged ({type(error).__name__}: {error}). "
                "The stores next to it can be opened one by one: layertap.open."
            ) from error

    @classmethod
    def _parsed(cls, data: dict[str, Any]) -> "Manifest":
        moments = {
            int(step): Moment(int(moment["epoch"]), numbers_of(moment["logs"]))
            for step, moment in data["steps"].items()
        }
        missed = {int(step): str(why) for step, why in data["missed"].items()}
        finished, by_batches = (data[name] is True for name in _FLAGS)
        return cls(moments, missed, finished, by_batches, int(data["offset"]))

    def write(self, folder: Path) -> None:
        """Replaces the manifest of a recording."""
        folder.mkdir(parents=True, exist_ok=True)
        steps = {step: asdict(self.moments[step]) for step in sorted(self.moments)}
        data = {**vars(self), "steps": steps}
        del data["moments"]
        text = json.dumps(data, indent=1)
        LocalStorage(folder).overwrite({MANIFEST: [text.encode()]})
