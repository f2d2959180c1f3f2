"""A recording on disk: the stores of a training, by step."""

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text

from layertap.core import address, tables, text
from layertap.core.lru import LRU
from layertap.errors import AddressError, StoreError
from layertap.recording.course import Course, Courses, Similarity
from layertap.recording.manifest import Manifest, steps_in, store_of
from layertap.results.saved import Saved
from layertap.results.statistics.similarity import centred_gram, comparable
from layertap.results.training.selection import Globs, select_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from layertap.results.statistics.moments import Totals

# Stores that stay open.
_OPEN = 8


class Recording(Mapping[int, Saved], tables.Tabular):
    """The stores that a `layertap.Recorder` wrote: a read-only mapping by step.

    A step is the number of weight updates so far: `model.optimizer.iterations`. The
    mapping has the steps that were complete when it was opened, in order. Keras is not
    needed.

    Args:
        path: The folder of the recording.

    Attributes:
        path: The folder of the recording, as it was passed.
        epochs: The epoch of each step, from 1 on.
        logs: The loss and the metrics that `fit` reported at each step.
        missed: The steps that could not be recorded, and why.
        finished: Whether the training has ended.

    Raises:
        NotAStoreError: If there is no recording at the path.
        StoreCorruptError: If it is damaged.

    Example:
    ```python
    recording = layertap.Recording("run")
    print(recording)  # each value from the first step to the last
    recording[120]["fusion/in/0"][:100]
    recording.statistics["fusion/in/0"].dead  # dead units at each step
    recording.similarity()["fusion/in/0"].to_last  # when it has settled
    ```
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._folder = Path(path).absolute()
        manifest = Manifest.read(self._folder)
        known = manifest.moments
        # A training may have been killed before it noted the last one.
        self._steps = [
            step
            for step in steps_in(self._folder)
            if step in known or self._is_complete(step)
        ]
        self.epochs = {s: known[s].epoch for s in self._steps if s in known}
        self.logs = {s: known[s].logs for s in self._steps if s in known}
        self.missed = manifest.missed
        self.finished = manifest.finished
        self._open: LRU[int, Saved] = LRU(_OPEN)

    def _is_complete(self, step: int) -> bool:
        try:
            return Saved(store_of(self._folder, step)).complete
        except StoreError:
            return False

    def __getitem__(self, step: int) -> Saved:
        if not isinstance(step, int) or step not in self._steps:
            why = self.missed.get(step) if isinstance(step, int) else None
            have = text.listed([f"{s}" for s in self._steps]) or "none"
            raise AddressError(
                f"{self.path} has no step {step!r}. "
                + (
                    f"It could not be recorded: {text.printable(why)}"
                    if why
                    else f"It has {have}."
                )
            )
        saved = self._open.get(step)
        if saved is None:
            saved = Saved(store_of(self._folder, step))
            self._open.put(step, saved)
        return saved

    def __iter__(self) -> Iterator[int]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    @cached_property
    def statistics(self) -> Courses:
        """The `Course` of each value by address: its statistics over the steps.

        They were gathered while the values were saved: no value is read.
        """
        totals: dict[str, dict[int, Totals]] = {}
        for step, saved in self.items():
            for name, known in saved.statistics.items():
                totals.setdefault(name, {})[step] = known.total
        return Courses({name: Course.of(of_steps) for name, of_steps in totals.items()})

    def similarity(
        self, addresses: Globs = None, *, rows: Any = None
    ) -> dict[str, Similarity]:
        """Compares each value with itself at the step before and at the last step.

        The similarity is linear centred kernel alignment with the unbiased estimator:
        see `layertap.importance`. It is 1 for values that differ by a rotation, a
        factor and an offset; about 0 for unrelated ones; NaN for fewer than four rows,
        and for a value that is constant or not finite.

        Args:
            addresses: Globs over addresses; by default all values.
            rows: The rows to compare, as in `Saved.dataset`; by default up to 2,048,
                spread evenly over those that all steps have.

        Returns:
            The `Similarity` over the steps, by address. A value that the last step does
            not have is left out.

        Raises:
            AddressError: If a glob matches nothing.
            OptionError: If `rows` does not choose rows of all steps.
        """
        if not self._steps:
            return {}
        end = self[self._steps[-1]]
        patterns = address.patterns(addresses) or ["*"]
        names = address.match(patterns, end.plan.known, what="value")
        count = min(saved.rows for saved in self.values())
        chosen = np.asarray(select_rows(rows, count), np.intp)
        widest = max(_row_bytes(end[name]) for name in names)
        # Three Gram matrices of each value are in memory at a time.
        places = chosen[comparable(len(chosen), widest, 3 * len(names))]
        last = {name: _gram(end[name], places) for name in names}
        before: dict[str, Any] = {}
        found: dict[str, list[tuple[int, float, float]]] = {name: [] for name in names}
        for step, saved in self.items():
            for name in filter(saved.plan.known.__contains__, names):
                here = _gram(saved[name], places)
                previous = float(here @ before[name]) if name in before else np.nan
                found[name].append((step, previous, float(here @ last[name])))
                before[name] = here
        return {
            name: Similarity(*map(np.array, zip(*compared, strict=True)))
            for name, compared in found.items()
        }

    def plot(self, address: str) -> "Figure":
        """Draws the course of a value over the steps.

        Mean and deviation, the shares of zeros and of dead units, and the similarity to
        the step before and to the last step: see `statistics` and `similarity`. The
        first step with NaN is marked. Epochs are above, if they are at most twelve.

        Args:
            address: The address of the value.

        Returns:
            A `matplotlib.figure.Figure`; see `Saved.plot`.

        Raises:
            AddressError: If no step has such a value.
            BackendMissingError: If Matplotlib is not installed.

        Example:
        ```python
        recording.plot("fusion/in/1").savefig("course.png")
        ```
        """
        from layertap.recording import plot

        if len(self) and not any(address in s.plan.known for s in self.values()):
            # It names the nearest addresses.
            self[self._steps[-1]][address]
        at_end = bool(self._steps) and address in self[self._steps[-1]].plan.known
        return plot.course_figure(
            self,
            address,
            self._folder.name,
            self.statistics.get(address),
            self.similarity(address)[address] if at_end else None,
            self.epochs,
        )

    def table(self) -> Table:
        """Returns a table of the first and the last step of each value."""
        table = self.statistics.table()
        table.title, table.caption = Text(f"Recording {self.path}"), Text(self._state())
        return table

    def _state(self) -> str:
        ends = f" from {self._steps[0]:,} to {self._steps[-1]:,}" if self._steps else ""
        state = "finished" if self.finished else "not finished"
        if self.missed:
            state += f", {text.counted(len(self.missed), 'step')} missed"
        return f"{text.counted(len(self), 'step')}{ends}, {state}"

    def to_json(self) -> dict[str, Any]:
        """Returns a description of the recording as data for JSON."""
        return {
            "path": self.path,
            "steps": self._steps,
            "epochs": self.epochs,
            "logs": tables.finite(self.logs),
            "missed": self.missed,
            "finished": self.finished,
            "statistics": self.statistics.to_json(),
        }

    def __repr__(self) -> str:
        return f"<layertap.Recording {self.path}: {self._state()}>"


def _row_bytes(array: Any) -> int:
    return int(array.dtype.itemsize * np.prod(array.shape[1:]))


def _gram(array: Any, places: Any) -> Any:
    """Returns the centred Gram matrix of some rows; a complex number counts as two."""
    rows = array[places]
    if rows.dtype.kind == "c":
        rows = np.stack([rows.real, rows.imag], axis=-1)
    with np.errstate(invalid="ignore", over="ignore"):
        return centred_gram(rows)
