"""The drive: data -> tap -> store, in bounded memory, going on where it stopped."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import keras

from layertap.core.progress import Show
from layertap.core.progress import progress as shown
from layertap.errors import LayertapError, StoreError
from layertap.inputs.feed import Batch, Feed
from layertap.pipeline.prefetch import Arrays, ahead
from layertap.pipeline.resume import find_existing_store, other_run
from layertap.pipeline.run import Run
from layertap.pipeline.signals import raise_on_sigterm
from layertap.planning.padding import Pad
from layertap.planning.planner import Selection, plan_from_data
from layertap.planning.reduction import Reduce, Reduction
from layertap.results.saved import STATISTICS, Saved
from layertap.results.statistics.gather import Gatherer
from layertap.store import DEFAULT_MEMORY, Writer
from layertap.tracing.model_structure import check_model, input_specs

# Rows that are computed again before a save goes on, at least.
_LEAST_AGAIN = 1024


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
    for_head: bool = False,
    resume: bool = True,
    overwrite: bool = False,
    progress: Show | None = None,
    memory: int = DEFAULT_MEMORY,
) -> Saved:
    """Saves the values of a model for a data set on disk, in one pass.

    Rows are written as they come, in blocks, and each block is committed when it is
    safely on disk. However the run ends, the committed rows can be read, and the same
    call goes on after them. A store that is complete is not computed again: the data
    are read, to see that they are the same. (To have the values, `layertap.open`.)

    Ctrl-C, and SIGTERM in the main thread, end it with all rows committed that were
    computed, but for those of batches that were under way at that moment.

    Args:
        model: A Keras model. It is not changed; one that was never called is built.
        data: Whatever `model.predict` takes. A tuple is `(x, y)` or
            `(x, y, sample_weight)`, as in a data set; labels and sample
            weights are saved along.
        path: The folder of the store, `"values.zarr"`.
        before: As of `layertap.plan`.
        outputs: As of `layertap.plan`.
        joins: As of `layertap.plan`.
        batch_size: Rows per batch, 32 by default; not for data that brings its own
            batches. Under a `keras.distribution` of several devices, which share the
            rows, a multiple of their number: of other batches each computes all.
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
        for_head: As of `layertap.plan`: whether to save all that the head of
            `layertap.split` needs.
        resume: Whether to go on with the store of a run that stopped. If not, it has
            to be overwritten.
        overwrite: Whether to replace a store that is of another run.
        progress: Whether to show progress; by default on a terminal only. Or a
            function that is called with the rows done and the bytes written.
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
    check_model(model)
    reduction = Reduction(dtype, reduce)
    feed = Feed(data, input_specs(model), batch_size)
    selection = Selection(before, outputs, joins, for_head, reduction, pad)
    plan = plan_from_data(model, feed, selection)
    run = Run(model, feed, plan, reduction, ids)
    saved = find_existing_store(
        run,
        path,
        run.later_differences,
        resume=resume,
        overwrite=overwrite,
        compression=compression,
        memory=memory,
    )
    if saved is not None and saved.complete:
        return saved
    gatherer = Gatherer(plan)
    with raise_on_sigterm():
        if saved is None:
            writer = run.writer(path, compression, memory, gatherer.add)
        else:
            writer = Writer.resume(path, memory=memory, observer=gatherer.add)
        with writer:
            if saved is not None and saved.reader.store != writer.store:
                raise StoreError(
                    f"{saved.path} was replaced by another process in the meantime. "
                    "Nothing was written to it; do the same again."
                )
            _drive(run, writer, gatherer, progress)
    return Saved(path)


def _drive(run: Run, writer: Writer, gatherer: Gatherer, progress: Show | None) -> None:
    """Taps batch by batch until the data end; whatever happens, commits."""
    title = f"saving {len(run.plan.stored)} values"
    try:
        with shown(title, run.feed.rows, writer.rows, progress) as report:
            _gather_saved(gatherer, Saved(writer.path))
            for values in ahead(_remaining(run, writer)):
                writer.append(values)
                report(writer.rows, writer.bytes_written)
            writer.commit()
            report(writer.rows, writer.bytes_written)
    except BaseException as error:
        # Rows that were computed stay; the first error is the one to tell.
        with suppress(LayertapError):
            writer.commit()
        if not isinstance(error, StoreError):
            error.add_note(
                f"layertap: {writer.committed:,} rows are safe in {writer.path}; the "
                "same call goes on after them, once this is mended."
            )
        raise
    run.check_rows(writer.rows)
    writer.finish(lambda: {STATISTICS: gatherer.to_json()})


def _gather_saved(gatherer: Gatherer, saved: Saved) -> None:
    """Gathers of the blocks that a store has in full: the writer gives the others."""
    size = saved.reader.block_rows
    for block in saved.reader.ahead(range(saved.rows // size)):
        row = block * size
        for name in gatherer.names:
            rows = saved.reader.array(name)[row : row + size]
            gatherer.add(row, {name: rows})


def _remaining(run: Run, writer: Writer) -> Iterator[Callable[[], Arrays]]:
    """Begins the batches of all rows that the store does not have yet.

    Of the rows that it has, the data are compared, and the values of its last block
    computed again, or of its last tenth where the block is larger. The batch with the
    last of them is computed whole, as in a run that never stopped.

    Yields:
        For each batch what gives its arrays, of the rows that are missing.

    Raises:
        OtherRunError: If something is not as it was saved.
    """
    done = writer.rows
    saved = Saved(writer.path)
    block = saved.reader.block_rows
    last_block = max(done - 1, 0) // block * block
    again = max(last_block, done - max(done // 10, _LEAST_AGAIN))
    end = 0
    for batch in _read(run.feed):
        end = batch.row + batch.rows
        if batch.row >= done:
            yield run.begin(batch)
            continue
        problems = run.changes(saved.reader, batch, compute=end > again)
        if problems:
            raise other_run(saved, problems, again=run.feed.again)
        if end > done:
            yield _from_row(run.begin(batch), done - batch.row)
    if end < done:
        problems = [f"rows: the store has {done}, the data end before row {end}"]
        raise other_run(saved, problems, again=run.feed.again)


def _from_row(begun: Callable[[], Arrays], row: int) -> Callable[[], Arrays]:
    return lambda: {name: array[row:] for name, array in begun().items()}


def _read(feed: Feed) -> Iterator[Batch]:
    """Yields the batches of a feed; an error of the data is noted with the row."""
    row = 0
    try:
        for batch in feed.batches():
            row = batch.row + batch.rows
            yield batch
    except Exception as error:
        error.add_note(f"layertap: the data raised this after giving {row:,} rows.")
        raise
