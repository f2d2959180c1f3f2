"""Saves values to a store: batches through the tap, in bounded memory, resumable."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Literal

import keras
from numpy.typing import NDArray

from layertap.core import tables, text
from layertap.core.progress import Progress, Show, show_progress
from layertap.effects.derivatives import Baseline, derivatives
from layertap.effects.target import Of
from layertap.errors import LayertapError, StoreError
from layertap.inputs.convert import Batch
from layertap.inputs.feed import Feed
from layertap.inputs.model_file import opened
from layertap.inputs.sources import BATCH_SIZE
from layertap.pipeline.prefetch import prefetch
from layertap.pipeline.resume import (
    batch_differences,
    check_not_replaced,
    check_resumable,
    check_same_run,
    find_existing_store,
    reopening,
)
from layertap.pipeline.run import Run, planned_run
from layertap.pipeline.schema import StoreOptions, store_schema
from layertap.pipeline.signals import raise_on_sigterm
from layertap.planning.join_filter import Kind
from layertap.planning.padding import Pad
from layertap.planning.reduction import Dtype, Reduce, Reduction
from layertap.planning.selection import Selection
from layertap.results.saved import Saved
from layertap.results.statistics.gather import Gatherer
from layertap.store.format.sizing import DEFAULT_MEMORY
from layertap.store.writing.writer import Writer
from layertap.tracing.backends import current_backend
from layertap.tracing.forward_pass import Arrays
from layertap.tracing.model_structure import input_specs

# Waits for a batch that was begun, and returns its arrays.
Begun = Callable[[], Arrays]

# At least as many rows are recomputed before a save resumes.
_LEAST_RECOMPUTED = 1024
# Seconds: where a batch of the default size takes less, batches of 1,024 rows were 1.4
# to 14 times as fast, on three backends.
_SHORT = 0.002
# After so many batches, a hint at larger ones is worth its line.
_MANY = 1000


def save(
    model: keras.Model | str | os.PathLike[str],
    data: Any,
    path: str | os.PathLike[str],
    *,
    before: str | Sequence[str] | None = None,
    outputs: str | Sequence[str] | None = None,
    joins: Kind | Sequence[Kind] = ("concatenate",),
    batch_size: int | None = None,
    dtype: Dtype | None = None,
    reduce: Reduce = None,
    pad: Pad | None = None,
    compression: Literal["zstd"] | None = None,
    labels: str | None = None,
    ids: Any = None,
    for_head: bool = False,
    gradients: Of | None = None,
    attributions: Of | None = None,
    baseline: Baseline = "zero",
    steps: int | None = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: Show | None = None,
    memory: int = DEFAULT_MEMORY,
) -> Saved:
    """Saves the values of a model for a data set on disk, in one pass.

    Rows are written in blocks, and a block is committed once it is safely on disk.
    However the run ends, the committed rows can be read, and the same call resumes
    after them. A complete store is not computed again: the data are read and compared
    with it, and if they have more rows by now, these are added. (To read the values,
    use `layertap.open`.)

    Ctrl-C, and SIGTERM in the main thread, end a save after it commits the computed
    rows; only batches in progress are lost.

    Args:
        model: A Keras model, or the path of its file. It is not changed; one that was
            never called is built.
        data: Data for `model.predict`. A tuple is `(x, y)` or `(x, y, sample_weight)`;
            labels and sample weights are saved, too. (Labels that are strings become
            numbers; `class_names` of the result has the strings.) Or a table, whose
            columns are the inputs by name or, side by side, the only input: a data
            frame of pandas or polars, an Arrow table, a `datasets.Dataset`, a
            structured array. Or a path: a `.npy`, `.npz` or Parquet file, a folder of
            those or in Zarr's format, a folder of images.
        path: The folder of the store, `"values.zarr"`.
        before: See `layertap.plan`.
        outputs: See `layertap.plan`.
        joins: See `layertap.plan`.
        batch_size: Rows per batch, 32 by default. Not for data that come in batches.
            With several devices under a `keras.distribution`, a multiple of their
            number: otherwise each device computes all rows.
        dtype: See `layertap.plan`. `overflowed` of the result counts the finite numbers
            that became infinite.
        reduce: See `layertap.plan`. The name and the code of a function are part of the
            identity of a run.
        pad: For data whose batches have different sizes, such as texts: pads values
            with zeros to one shape, and saves their true sizes (see `lengths` of the
            result). True reads the data once more to find the largest size. A number
            is the largest size of open axes of the inputs, for data that can be read
            only once.
        compression: None or `"zstd"`.
        labels: The column of the labels, for a dictionary of arrays or batches that are
            dictionaries; by default `"labels"`, if there is one that is not an input.
            `not_used` of the result lists the columns that are used for nothing.
        ids: One integer or string for each row, saved with the values. Or the column of
            the ids, by default `"ids"` in the same way.
        for_head: See `layertap.plan`.
        gradients: The number of each row whose gradients to all values are saved, see
            `layertap.plan`. `gradients` of the result has them. The sum of the numbers
            is differentiated once for each batch; if rows influence each other, a
            gradient is refused. Gradients have the shape of their value, and `reduce`
            and `dtype` apply to them. Those of float16 are stored in float32; the
            target is scaled if necessary.
        attributions: The number of each row that is attributed to all values, in the
            same forms. `attributions` of the result has them. They are integrated
            gradients (Sundararajan, Taly, Yan 2017) on a straight line from a baseline
            to the values; the branches of one join move together. In each row, the
            attributions of these branches add up to the change of the number from the
            baseline. `gaps` of the result has the remaining difference.
        baseline: The start of the line: `"zero"`; `"mean"`, the mean of each unit over
            the data, which are read once more; or an array by address, of the shape of
            a value's row.
        steps: How many gradients to average on each line. By default 16. Rows whose
            attributions do not add up within 1e-5 get more, up to about 2,000. If the
            model computes in 16 bits, its rounding is accepted.
        resume: Whether to resume the store of a run that stopped, or whose data now
            have more rows. Otherwise it must be overwritten.
        overwrite: Whether to replace the store of another run; with `resume=False`,
            any store.
        progress: Whether to show progress: by default on terminals and in notebooks
            only. True prints lines elsewhere, every ten seconds at most. Or a function
            that is called with the rows done, the bytes written and, if it accepts a
            third argument, the number of all rows, None if unknown.
        memory: Bytes for values that are not yet on disk.

    Returns:
        The saved values.

    Warns:
        PartialWarning: If values that a glob selected can't be captured: see `missing`
            of the result.

    Raises:
        OtherRunError: If the path has the store of another run: other weights, another
            plan, dtype, reduction, data or version. The message names the
            differences.
        StoreError: If the store can't be written.
        LayertapError: See `layertap.plan`; also if the model does not accept the data.

    Example:
    ```python
    saved = layertap.save(model, x, "values.zarr")
    saved = layertap.save(model, dataset, "fusion.zarr", before="fusion")
    ```
    """
    effects = derivatives(gradients, attributions, baseline, steps)
    model = opened(model, compiled=effects.need_loss)
    specs, reduction = input_specs(model), Reduction(dtype, reduce)
    selection = Selection(before, outputs, joins, for_head, reduction, pad, effects)
    options = StoreOptions(compression, resume, overwrite, memory)
    with show_progress(progress) as display:
        display.status("planning")
        feed = Feed(data, specs, batch_size, labels=labels, ids=ids).watched()
        return save_run(planned_run(model, feed, selection), path, options, display)


def save_run(
    run: Run, path: str | os.PathLike[str], options: StoreOptions, display: Progress
) -> Saved:
    """Makes, resumes or compares the store of a run."""
    saved = find_existing_store(run, path, options, display)
    missing = None
    if saved is not None and saved.complete:
        missing = _added_batches(run, saved, options, display)
        if missing is None:
            return saved
    gatherer = Gatherer(run.plan)

    def observe(row: int, rows: Mapping[str, NDArray[Any]]) -> None:
        # This thread ends with its block, or at the latest with the writer.
        current_backend().share_processors()
        gatherer.add(row, rows)

    with raise_on_sigterm():
        if saved is None:
            sizes = {**options.layout, "rows": run.feed.rows}
            writer = Writer.create(path, *store_schema(run), observer=observe, **sizes)
        else:
            writer = Writer.resume(
                path,
                memory=options.memory,
                observer=observe,
                reopening=reopening(run, saved),
            )
        with writer:
            if saved is not None:
                saved = _resumed(saved, writer)
            batches = missing or _missing_batches(run, saved, display)
            _write(run, batches, saved, writer, gatherer, display)
    return Saved(path)


def _added_batches(
    run: Run, saved: Saved, options: StoreOptions, display: Progress
) -> Iterator[Begun] | None:
    """Compares a complete store with the data, and begins the batches of added rows.

    Returns None if there are none. Until all saved rows are compared, nothing is begun.
    """
    if options.overwrite and run.feed.rows == saved.rows:
        # They were compared before.
        return None
    batches = _missing_batches(run, saved, display)
    first = next(batches, None)
    if first is None:
        run.feed.check_rows(saved.rows)
        return None
    check_resumable(saved, options)
    return chain([first], batches)


def _resumed(saved: Saved, writer: Writer) -> Saved:
    """Returns the store as its writer found it."""
    check_not_replaced(saved, writer)
    # Another process may have added rows before this one became the writer.
    return saved if saved.rows == writer.rows else Saved(writer.path)


def _write(
    run: Run,
    batches: Iterator[Begun],
    saved: Saved | None,
    writer: Writer,
    gatherer: Gatherer,
    display: Progress,
) -> None:
    """Writes all batches that are missing; commits what it can, whatever happens."""
    title, total = f"saving {len(run.plan.stored)} values", run.feed.rows
    kept, of_all = writer.rows, "" if total is None else f" of {total:,}"
    try:
        if saved is not None:
            display.say(f"{kept:,}{of_all} rows are there; going on after them.")
            _gather_saved(gatherer, saved, display)
        if total is not None and total > kept:
            files, size = writer.estimate(total)
            counted = text.counted(files, "file")
            display.say(f"Writing {counted}, up to {tables.size(size)}.")
        display.status("computing the first batch")
        begun = 0.0
        for count, arrays in enumerate(prefetch(batches)):
            writer.append(arrays)
            display.report(title, total, writer.rows, writer.bytes_written)
            if count == 0:
                # The first batch is compiled.
                begun = time.monotonic()
            elif count == _MANY and run.feed.batch_size == BATCH_SIZE:
                _hint_at_batch_size(display, (time.monotonic() - begun) / _MANY)
        writer.commit(last=True)
        display.report(title, total, writer.rows, writer.bytes_written)
    except BaseException as error:
        # Computed rows are committed; the first error is the one to report.
        with suppress(LayertapError):
            writer.commit()
        if not isinstance(error, StoreError):
            fixed = " once this is fixed" if isinstance(error, Exception) else ""
            error.add_note(
                f"layertap: {writer.committed:,}{of_all} rows are safe in "
                f"{writer.path}. The same call resumes after them{fixed}."
            )
        raise
    run.feed.check_rows(writer.rows)
    writer.finish(lambda: run.attributes(gatherer.to_json()))
    if kept:
        display.outcome = f"Kept {kept:,} rows, computed {writer.rows - kept:,}."


def _hint_at_batch_size(display: Progress, seconds: float) -> None:
    """Suggests larger batches if those of the default size are short."""
    if seconds < _SHORT:
        display.say(
            f"A batch of {BATCH_SIZE} rows takes {seconds * 1000:.1f} ms, much of "
            "it overhead. A larger batch_size, such as 1024, is faster."
        )


def _gather_saved(gatherer: Gatherer, saved: Saved, display: Progress) -> None:
    """Gathers statistics of complete blocks; the writer observes the other rows."""
    size = saved.reader.block_rows
    for block in saved.reader.ahead(range(saved.rows // size)):
        row = block * size
        display.status("reading saved rows", saved.rows, row)
        for name in gatherer.names:
            rows = saved.reader.array(name)[row : row + size]
            gatherer.add(row, {name: rows})


def _missing_batches(
    run: Run, saved: Saved | None, display: Progress
) -> Iterator[Begun]:
    """Compares saved rows with the data, and begins the batches of all other rows.

    The last block of saved rows is recomputed, or their last tenth if that is smaller;
    of a complete store the last batch. A batch with saved and other rows is computed
    complete, as in an uninterrupted run.
    """
    done = recomputed = end = 0
    if saved is not None:
        done, block = saved.rows, saved.reader.block_rows
        last_block = max(done - 1, 0) // block * block
        recomputed = max(last_block, done - max(done // 10, _LEAST_RECOMPUTED))
        if saved.complete:
            recomputed = done - 1
    for batch in _read(run.feed):
        end = batch.row + batch.rows
        if saved is None or batch.row >= done:
            yield run.begin(batch)
            continue
        display.status("comparing saved rows with the data", done, batch.row)
        compute = end > recomputed
        rows = range(done)
        problems = batch_differences(run, saved.reader, batch, rows, compute=compute)
        check_same_run(run, saved, problems)
        if end > done:
            yield run.begin(batch, slice(done - batch.row, None))
    if saved is not None and end < done:
        problem = f"rows: the store has {done}, the data end before row {end}"
        check_same_run(run, saved, [problem])


def _read(feed: Feed) -> Iterator[Batch]:
    """Yields the batches of a feed; errors of the data get a note with the row."""
    row = 0
    try:
        for batch in feed.batches():
            row = batch.row + batch.rows
            yield batch
    except Exception as error:
        error.add_note(f"layertap: the data raised this after {row:,} rows.")
        raise
