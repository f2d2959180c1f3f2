"""The drive: data -> tap -> store, in bounded memory, going on where it stopped."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from layertap import identity, listening, texts
from layertap.capturing import plan_of
from layertap.errors import (
    DataError,
    DataTypeError,
    LayertapError,
    OtherRunError,
    StoreError,
)
from layertap.feed import Batch, Feed
from layertap.padding import Pad
from layertap.plans import Plan
from layertap.progress import on_terminal, progress
from layertap.reducing import Reduce, Reduction
from layertap.saved import IDS, Saved, label_paths
from layertap.store import DEFAULT_MEMORY, ArraySpec, Writer, exists, remove
from layertap.tap import Tap
from layertap.values import beside

Arrays = dict[str, NDArray[Any]]


def save(
    model: keras.Model,
    data: Any,
    path: str | os.PathLike[str],
    *,
    before: str | Sequence[str] | None = None,
    outputs: str | Sequence[str] | None = None,
    joins: str | Sequence[str] = ("concatenate",),
    batch_size: int | None = None,
    dtype: str | None = None,
    reduce: Reduce = None,
    pad: Pad | None = None,
    compression: str | None = None,
    ids: Any = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: bool | None = None,
    memory: int = DEFAULT_MEMORY,
) -> Saved:
    """Saves the values of a model for a data set on disk, in one pass.

    Rows are written as they come, in blocks, and each block is committed when it is
    safely on disk. However the run ends, the committed rows can be read, and the same
    call goes on after them. A store that is complete is not computed again.

    Args:
        model: A Keras model. It is not changed; one that was never called is built.
        data: Whatever `model.predict` takes. A tuple is `(x, y)` or
            `(x, y, sample_weight)`, as in a data set; labels are saved along.
        path: The folder of the store, `"values.zarr"`.
        before: As of `layertap.plan`.
        outputs: As of `layertap.plan`.
        joins: As of `layertap.plan`.
        batch_size: Rows per batch, 32 by default; not for data that brings its own
            batches.
        dtype: As of `layertap.plan`. How many finite numbers became infinite by it is
            counted: see `overflowed` of what is returned.
        reduce: As of `layertap.plan`. A function is part of what makes a run the same:
            its name and its code.
        pad: For data whose batches have different sizes, texts of different lengths
            say: values are padded with zeros to one shape, and their true sizes saved
            beside, see `lengths` of what is returned. True looks for the longest in
            the data, which are read once more for it; a number is the most that an
            open size of the inputs is, for data that come only once.
        compression: None or `"zstd"`.
        ids: One integer or string for each row, to be saved along.
        resume: Whether to go on with the store of a run that stopped. If not, it has
            to be overwritten.
        overwrite: Whether to replace a store that is of another run.
        progress: Whether to show progress; by default on a terminal only.
        memory: Bytes that the values on their way to the disk may take.

    Returns:
        The saved values.

    Raises:
        OtherRunError: If the path has a store of another run: other weights, another
            plan, dtype, reduction, data, batch size or version. What differs is named.
        StoreError: If the store can't be written.
        LayertapError: As of `layertap.plan`, and if the model can't take the data.

    Example:
    ```python
    saved = layertap.save(model, x, "values.zarr")
    saved = layertap.save(model, dataset, "fusion.zarr", before="fusion")
    ```
    """
    listening.check_model(model)
    reduction = Reduction(dtype, reduce)
    feed = Feed(data, listening.input_specs(model), batch_size)
    plan = plan_of(
        model, feed, reduction, pad, before=before, outputs=outputs, joins=joins
    )
    run = _Run(model, feed, plan, reduction, ids)
    if exists(path):
        saved = Saved(path)
        problems = run.differences(saved)
        if problems and overwrite:
            remove(path)
        elif problems:
            raise OtherRunError(
                f"{saved.path} is the store of another run. "
                + "; ".join(problems)
                + ". Save to another path, or pass overwrite=True to replace it."
            )
        elif saved.complete:
            return saved
        elif not resume:
            raise StoreError(
                f"{saved.path} has {saved.rows:,} rows of this run, and is not "
                "complete. Pass resume=True to go on, or overwrite=True to replace it."
            )
    writer = run.writer(path, compression, memory)
    with writer:
        _drive(run, writer, on_terminal() if progress is None else progress)
    return Saved(path)


@dataclass
class _Run:
    """What is to be saved: a model, a plan, data, and the ids of its rows."""

    model: keras.Model
    feed: Feed
    plan: Plan
    reduction: Reduction
    ids: Any = None

    def __post_init__(self) -> None:
        self.tap = Tap(self.model, self.plan, self.reduction)
        self.ids_kind = None
        if self.ids is not None:
            self.ids, self.ids_kind = _ids(self.ids, self.feed.rows)
        self.label_paths = label_paths(self.feed.first().labels)
        self.identity = {
            **identity.identity(self.model, self.plan, self.feed.batch_size),
            "labels": self.label_paths,
            "ids": self.ids_kind,
        }

    def values(self, batch: Batch) -> Arrays:
        """Returns all arrays of one batch: the values, its labels and its ids."""
        found = self.tap(batch)
        found.update(_labels(self.label_paths, batch.labels))
        if self.ids is not None:
            end = batch.row + batch.rows
            if end > len(self.ids):
                raise DataError(
                    f"The data have more rows than the {len(self.ids)} ids: row "
                    f"{len(self.ids)} has none."
                )
            found[IDS] = self.ids[batch.row : end]
        return found

    def writer(
        self, path: str | os.PathLike[str], compression: str | None, memory: int
    ) -> Writer:
        """Opens the writer: of the store that is there, or of a new one."""
        if exists(path):
            return Writer.resume(path, memory=memory)
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
            for name, columns in beside(self.plan).items()
        ]
        labels = _labels(self.label_paths, self.feed.first().labels)
        if self.ids is not None:
            labels[IDS] = self.ids[:1]
        arrays += [
            ArraySpec(name, array.shape[1:], array.dtype.name)
            for name, array in labels.items()
        ]
        manifest = {
            "identity": self.identity,
            "plan": self.plan.to_json(),
        }
        return Writer.create(
            path, arrays, manifest, compression=compression, memory=memory
        )

    def differences(self, saved: Saved) -> list[str]:
        """Says how this run differs from the one that made a store.

        What can be hashed is compared; the data are told by their first batch, which
        is computed again.
        """
        found = identity.differences(saved.identity, self.identity)
        if found:
            return found
        rows = self.feed.rows
        if rows is not None and (
            saved.rows > rows or (saved.complete and saved.rows != rows)
        ):
            found.append(f"rows: the store has {saved.rows}, the data {rows}")
        return found + self.changed(saved, self.feed.first())

    def changed(self, saved: Saved, batch: Batch) -> list[str]:
        """Says which values of a batch are not as they were saved."""
        end = min(batch.row + batch.rows, saved.rows)
        if end <= batch.row:
            return []
        return [
            f"data: {name} of rows {batch.row} to {end - 1} is not what was saved"
            for name, fresh in self.values(batch).items()
            if identity.compare(
                saved.reader.array(name)[batch.row : end],
                fresh[: end - batch.row],
                self.plan.narrowed.get(name),
            )
            == "different"
        ]


def _drive(run: _Run, writer: Writer, show: bool) -> None:
    """Taps batch by batch until the data end; whatever happens, commits."""
    title = f"saving {len(run.plan.stored)} values"
    try:
        with progress(title, run.feed.rows, writer.rows, show) as report:
            for values in _remaining(run, writer):
                writer.append(values)
                report(writer.rows, writer.bytes_written)
            writer.commit()
            report(writer.rows, writer.bytes_written)
    except StoreError:
        raise
    except BaseException:
        # Rows that were computed stay; the first error is the one to tell.
        with suppress(LayertapError):
            writer.commit()
        raise
    if run.ids is not None and len(run.ids) != writer.rows:
        writer.commit()
        raise DataError(
            f"The data have {writer.rows} rows, but there are {len(run.ids)} ids."
        )
    writer.finish()


def _remaining(run: _Run, writer: Writer) -> Iterator[Arrays]:
    """Yields the arrays of all rows that the store does not have yet.

    The batch with the last row that it has is computed whole, as in a run that never
    stopped, and compared with what was saved.
    """
    done = writer.rows
    end = 0
    for batch in run.feed.batches(max(done - 1, 0)):
        end = batch.row + batch.rows
        if batch.row >= done:
            yield run.values(batch)
            continue
        problems = run.changed(Saved(writer.path), batch)
        if problems:
            raise OtherRunError(
                f"{writer.path} can't be gone on with: " + "; ".join(problems) + ". "
                "Its rows are kept. Save to another path, or pass overwrite=True."
            )
        if batch.row + batch.rows > done:
            values = run.values(batch)
            yield {name: array[done - batch.row :] for name, array in values.items()}
    if end < done:
        raise OtherRunError(
            f"The data end before row {done}, but {writer.path} has {done} rows: "
            "they are other data. Save to another path, or pass overwrite=True."
        )


def _labels(paths: Any, labels: Any) -> Arrays:
    """Returns labels by the paths of their arrays."""
    if paths is None:
        return {}
    flat_paths = keras.tree.flatten(paths)
    flat = keras.tree.flatten(labels)
    if len(flat) != len(flat_paths):
        raise DataError(
            f"The labels of the first batch were {len(flat_paths)} arrays, now they "
            f"are {len(flat)}."
        )
    for array in flat:
        if array.dtype.kind in "OSUV":
            raise DataTypeError(
                f"Labels of dtype {array.dtype} can't be saved: pass class numbers, "
                "and texts as `ids=`."
            )
    return dict(zip(flat_paths, flat, strict=True))


def _ids(ids: Any, rows: int | None) -> tuple[NDArray[Any], str]:
    """Returns ids as an array, and whether they are numbers or texts."""
    array = np.asarray(ids)
    if array.ndim != 1 or (rows is not None and len(array) != rows):
        raise DataError(
            f"`ids` needs one integer or string for each row; found shape "
            f"{array.shape} for {'?' if rows is None else rows} rows."
        )
    if array.dtype.kind in "iu":
        return array, "number"
    if array.dtype.kind == "U" or all(isinstance(one, str) for one in array):
        return texts.encode([str(one) for one in array]), "text"
    raise DataTypeError(f"`ids` are integers or strings; found dtype {array.dtype}.")
