"""One run of a model over data: what it stores, and whether a store is of that run."""

import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from layertap.core import text, tolerance, tree
from layertap.core.plan import Plan
from layertap.core.tolerance import describe_difference
from layertap.core.values import auxiliary_arrays
from layertap.errors import DataError, DataTypeError
from layertap.inputs.feed import Batch, Feed
from layertap.inputs.lazy_array import LazyRows
from layertap.pipeline.tap import Tap
from layertap.planning import fingerprint
from layertap.planning.reduction import Reduction
from layertap.results.saved import DIGESTS, IDS, LABELS, SAMPLE_WEIGHT, Saved
from layertap.store import ArraySpec, Observer, Writer

Arrays = dict[str, NDArray[Any]]


class Stored(Protocol):
    """Rows that were stored, by array."""

    rows: int

    def array(self, path: str) -> Any:
        """Returns an array, to be sliced."""


class Run:
    """What is to be saved: a model, a plan, data, and the ids of its rows.

    Args:
        model: The model.
        feed: The data.
        plan: What is taken of the model.
        reduction: What it was planned with.
        ids: One integer or string for each row, or None.
    """

    def __init__(
        self,
        model: keras.Model,
        feed: Feed,
        plan: Plan,
        reduction: Reduction,
        ids: Any = None,
    ) -> None:
        self.feed = feed
        self.plan = plan
        self._tap = Tap(model, plan, reduction)
        self._ids: Any = None
        kind = None
        if ids is not None:
            self._ids, kind = _ids(ids, feed.rows)
        self._labels = tree.paths(feed.first().labels, LABELS)
        self._weights = tree.paths(feed.first().sample_weight, SAMPLE_WEIGHT)
        self.identity: dict[str, Any] = {
            **fingerprint.run_identity(model, plan, feed.batch_size),
            "labels": self._labels,
            "ids": kind,
        }
        if self._weights is not None:
            # Not a None, which stores that were made before do not have.
            self.identity[SAMPLE_WEIGHT] = self._weights

    def given(self, batch: Batch) -> Arrays:
        """Returns the arrays of a batch that follow from the data alone.

        They are its labels and sample weights, its ids, and the digest of its inputs.
        """
        digest = fingerprint.inputs_digest(batch.inputs)
        found = {DIGESTS: np.full(batch.rows, digest, np.uint64)}
        found.update(_along(LABELS, self._labels, batch.labels))
        found.update(_along(SAMPLE_WEIGHT, self._weights, batch.sample_weight))
        if self._ids is not None:
            end = batch.row + batch.rows
            if end > len(self._ids):
                raise DataError(
                    f"The data have more rows than the {len(self._ids)} ids: row "
                    f"{len(self._ids)} has none."
                )
            found[IDS] = np.asarray(self._ids[batch.row : end])
        return found

    def values(self, batch: Batch) -> Arrays:
        """Returns all arrays of a batch: its values, and what follows from the data."""
        return self.begin(batch)()

    def begin(self, batch: Batch) -> Callable[[], Arrays]:
        """Begins to compute a batch.

        An error of the model's own is noted with the rows and the inputs that it was
        about.

        Returns:
            What gives all arrays of the batch, as `Tap.begin` does: its values, and
            what follows from the data.
        """
        # First, for the backend will want the same memory next.
        given = self.given(batch)
        try:
            begun = self._tap.begin(batch)
        except Exception as error:
            error.add_note(_note(error, batch))
            raise

        def ended() -> Arrays:
            try:
                return begun() | given
            except Exception as error:
                error.add_note(_note(error, batch))
                raise

        return ended

    def check(self, compression: str | None, memory: int) -> None:
        """Checks that a new store can be made for the run; nothing is made.

        Raises:
            LayertapError: If none can.
        """
        arrays, manifest = self.store()
        Writer.check(arrays, manifest, compression=compression, memory=memory)

    def writer(
        self,
        path: str | os.PathLike[str],
        compression: str | None,
        memory: int,
        observer: Observer,
    ) -> Writer:
        """Makes a new store for the run, and its writer."""
        arrays, manifest = self.store()
        options: dict[str, Any] = {"compression": compression, "memory": memory}
        return Writer.create(path, arrays, manifest, observer=observer, **options)

    def store(self) -> tuple[list[ArraySpec], dict[str, Any]]:
        """Returns the arrays and the manifest of a store for the run."""
        for value in self.plan.stored:
            if value.bytes_per_row is None:
                raise DataError(
                    f"{value.address} has shape {value.shape}: a size known only "
                    "row by row can't be saved. Pad the data to one size, or pass the "
                    "most that it can be, pad=512."
                )
        arrays = [
            ArraySpec(
                value.address,
                tuple(n for n in value.shape[1:] if n is not None),
                value.dtype,
                {"made_by": value.made_by},
            )
            for value in self.plan.stored
        ]
        arrays += [
            ArraySpec(name, (len(columns),), "int32", {"columns": columns})
            for name, columns in auxiliary_arrays(self.plan).items()
        ]
        arrays += [
            ArraySpec(name, array.shape[1:], array.dtype.name)
            for name, array in self.given(self.feed.first()).items()
        ]
        return arrays, {"identity": self.identity, "plan": self.plan.to_json()}

    def differences(self, saved: Saved) -> list[str]:
        """Says how this run differs from the one that made a store, at first sight.

        What can be hashed is compared; of the data only the first batch, which is
        computed again.
        """
        found = tolerance.differences(saved.identity, self.identity)
        rows = self.feed.rows
        if rows is not None and (
            saved.rows > rows or (saved.complete and saved.rows != rows)
        ):
            found.append(f"rows: the store has {saved.rows}, the data {rows}")
        if not saved.digested:
            found.append(
                "format: the store has the first one, which can be opened, but not "
                "compared with data"
            )
        return found or self.changes(saved.reader, self.feed.first(), compute=True)

    def later_differences(self, saved: Saved) -> list[str]:
        """Says how all the data differ from those of a store; they are read for it.

        Nothing but the batch with the last row that is saved is computed again.
        """
        rows = 0
        if not (saved.rows or saved.complete):
            return []
        for batch in self.feed.batches():
            rows = batch.row + batch.rows
            last = batch.row < saved.rows <= rows
            found = self.changes(saved.reader, batch, compute=last)
            if found:
                return found
            if last and not saved.complete:
                return []
        if rows < saved.rows or (saved.complete and rows != saved.rows):
            return [f"rows: the store has {saved.rows}, the data {rows}"]
        self.check_rows(rows)
        return []

    def changes(self, stored: Stored, batch: Batch, *, compute: bool) -> list[str]:
        """Says what of a batch is not as it was saved.

        Args:
            stored: The arrays of the store.
            batch: A batch. Of its rows, those that are saved count.
            compute: Whether to compute its values again, if all else is equal.
        """
        rows = slice(batch.row, min(batch.row + batch.rows, stored.rows))
        if rows.stop <= rows.start:
            return []
        found = list(self._unlike(stored, self.given(batch), rows))
        if found or not compute:
            return found
        values = self.values(batch)
        return list(self._unlike(stored, values, rows))

    def _unlike(self, there: Stored, arrays: Arrays, rows: slice) -> Iterator[str]:
        for name, fresh in arrays.items():
            fresh = fresh[: rows.stop - rows.start]
            stored = there.array(name)[rows]
            if name in self.plan.addresses or name in auxiliary_arrays(self.plan):
                computed = self.plan.narrowed.get(name)
                if tolerance.compare(stored, fresh, computed) == "different":
                    yield f"{name} of {describe_difference(stored, fresh, rows.start)}"
            elif stored.tobytes() != fresh.tobytes():
                if name == DIGESTS:
                    yield _other_inputs(stored, fresh, rows)
                    continue
                if name == IDS and stored.ndim > 1:
                    stored, fresh = text.decode(stored), text.decode(fresh)
                told = describe_difference(stored, fresh, rows.start)
                yield f"data: {name} of {told}"

    def check_rows(self, rows: int) -> None:
        """Checks that there are as many ids as the data turned out to have rows.

        Raises:
            DataError: If not.
        """
        if self._ids is not None and len(self._ids) != rows:
            raise DataError(
                f"The data have {rows} rows, but there are {len(self._ids)} ids."
            )


def _other_inputs(
    stored: NDArray[np.uint64], fresh: NDArray[np.uint64], rows: slice
) -> str:
    digests = ", ".join(f"{digest:016x}" for digest in np.unique(stored))
    return (
        f"data: the inputs of rows {rows.start} to {rows.stop - 1} have digest "
        f"{digests} in the store, and {fresh[0]:016x} in this run; they are others, or "
        "in other batches"
    )


# What backends say when there is no memory for a tensor.
_NO_MEMORY = (
    "out of memory",
    "oom when",
    "resource_exhausted",
    "allocate",
    "bad_alloc",
)


def _note(error: Exception, batch: Batch) -> str:
    inputs = ", ".join(
        f"{array.dtype.name} of shape {array.shape}"
        for array in keras.tree.flatten(batch.inputs)
    )
    note = (
        f"layertap: this came of rows {batch.row} to {batch.row + batch.rows - 1}; "
        f"their inputs are {inputs}."
    )
    if isinstance(error, MemoryError) or any(
        words in str(error).lower() for words in _NO_MEMORY
    ):
        note += " A smaller batch_size takes less memory."
    return note


def _along(what: str, first: Any, given: Any) -> Arrays:
    """Returns labels or sample weights by the paths of their arrays.

    Args:
        what: Which of them.
        first: The structure of paths of the first batch.
        given: The structure of arrays of a batch.
    """
    expected = list(tree.leaves(first))
    paths = list(tree.leaves(tree.paths(given, what)))
    found = dict(zip(paths, tree.leaves(given), strict=True))
    if found.keys() != set(expected):
        raise DataError(
            f"The first batch had {', '.join(expected) or f'no {what}'}; now there "
            f"are {', '.join(paths) or 'none'}."
        )
    for path, array in found.items():
        if array.dtype.kind in "OSUV":
            raise DataTypeError(
                f"{path} of dtype {array.dtype} can't be saved: pass numbers, and "
                "texts as `ids=`."
            )
    return found


def _ids(ids: Any, rows: int | None) -> tuple[Any, str]:
    """Returns ids as an array, and whether they are numbers or texts."""
    # Numbers that are read as they are sliced are left where they are.
    lazy = isinstance(ids, LazyRows) and ids.dtype.kind in "iu"
    array = ids if lazy else np.asarray(ids)
    if array.ndim != 1 or (rows is not None and len(array) != rows):
        raise DataError(
            f"`ids` needs one integer or string for each row; found shape "
            f"{array.shape} for {'?' if rows is None else rows} rows."
        )
    if array.dtype.kind in "iu":
        return array, "number"
    if array.dtype.kind == "U" or all(isinstance(one, str) for one in array):
        return text.encode([str(one) for one in array]), "text"
    raise DataTypeError(f"`ids` are integers or strings; found dtype {array.dtype}.")
