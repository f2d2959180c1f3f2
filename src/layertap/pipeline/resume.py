"""Compares a run with the store at its path, to resume, replace or refuse it."""

import os
from collections.abc import Iterator, Sequence

import numpy as np

from layertap.core import text, tolerance
from layertap.core.address import DIGESTS, GAPS, IDS
from layertap.core.progress import Progress
from layertap.core.tolerance import describe_difference
from layertap.core.values import auxiliary_arrays, least_share
from layertap.errors import OtherRunError, StoreError
from layertap.inputs.convert import Batch
from layertap.pipeline.run import Run
from layertap.pipeline.schema import StoreOptions, store_schema
from layertap.results.manifest import FILES, STATISTICS
from layertap.results.saved import Saved
from layertap.store.location import exists, remove
from layertap.store.reading.reader import Reader
from layertap.store.writing.base import Reopening
from layertap.store.writing.shared_writer import SharedWriter
from layertap.store.writing.writer import Writer
from layertap.tracing.forward_pass import Arrays

# How many batches of saved rows a sample compares with the data.
_SAMPLED = 64

# The committed rows of a store, by array.
StoredRows = Reader | SharedWriter


def find_existing_store(
    run: Run,
    path: str | os.PathLike[str],
    options: StoreOptions,
    display: Progress,
    *,
    sampled: bool = False,
) -> Saved | None:
    """Returns the store of this run at a path, complete or to be resumed.

    The store of another run is deleted if `overwrite` is set and a new one can be made.
    All data are compared before that; with `sampled`, some batches of them where few
    suffice, also with a complete store.
    """
    if not exists(path):
        return None
    display.status("comparing the run with the store")
    saved = Saved(path)
    replaces = options.overwrite and not options.resume
    problems = ["resume=False"] if replaces else differences(run, saved)
    if not problems and sampled and (saved.complete or options.overwrite):
        rows, size = range(saved.rows), saved.reader.block_rows
        blocks = [rows[start : start + size] for start in rows[::size]]
        problems = sampled_differences(run, saved, saved.reader, blocks)
    elif not problems and options.overwrite and run.feed.again:
        problems = data_differences(run, saved, display)
    if problems and options.overwrite:
        Writer.check(*store_schema(run), **options.layout)
        # Without holding its files open.
        del saved
        remove(path)
        run.feed.fit_classes([])
        return None
    check_same_run(run, saved, problems)
    if not saved.complete or (run.feed.rows or 0) > saved.rows:
        check_resumable(saved, options)
    if saved.complete:
        # Unless the data have more rows.
        display.outcome = "Compared, not computed."
    return saved


def check_resumable(saved: Saved, options: StoreOptions) -> None:
    """Raises if the options forbid that a store gets the rows that it needs."""
    if not options.resume:
        state = "the data have more" if saved.complete else "is not complete"
        raise StoreError(
            f"{saved.path} has {saved.rows:,} rows of this run, and {state}. "
            "Pass resume=True to resume it, or overwrite=True to replace it."
        )


def reopening(run: Run, saved: Saved) -> Reopening | None:
    """Returns how a complete store is reopened for more rows; None for another.

    It has no statistics until it is complete again, and the notes of all rows.
    """
    if not saved.complete:
        return None
    attributes = {**saved.reader.attributes, **run.notes()}
    attributes.pop(STATISTICS, None)
    return Reopening(saved.reader.store, saved.rows, attributes)


def check_same_run(run: Run, saved: Saved, problems: Sequence[str]) -> None:
    """Raises if there are problems: a store is that of another run."""
    if problems:
        instead = "pass overwrite=True to replace it"
        if not run.feed.again:
            # A new store needs the data from their beginning.
            instead = "delete this one"
        raise OtherRunError(
            f"{saved.path} is the store of another run. {'; '.join(problems)}. Its "
            f"{saved.rows:,} rows stay as they are. Save to another path, or {instead}."
        )


def check_not_replaced(saved: Saved, writer: Writer | SharedWriter) -> None:
    """Raises if a writer has another store than the one that was opened."""
    if saved.reader.store != writer.store:
        raise StoreError(
            f"{saved.path} was replaced by another process. Nothing was written to it. "
            "Repeat the same call."
        )


def differences(run: Run, saved: Saved) -> list[str]:
    """Compares a run with a store by its identity, its rows and its first batch."""
    problems = tolerance.differences(saved.identity, run.identity)
    problems += fit_data(run, saved)
    if run.feed.rows is not None:
        problems += _row_differences(saved, run.feed.rows)
    return problems or batch_differences(
        run, saved.reader, run.feed.first(), range(saved.rows), compute=True
    )


def fit_data(run: Run, saved: Saved) -> list[str]:
    """Gives ids the width, and classes the numbers, that a store has.

    Returns why that is impossible, if it is.
    """
    problems = []
    if saved.identity[IDS] == "text":
        width = saved.reader.array(IDS).shape[1]
        if not run.fit_ids(width):
            problems.append(f"ids: the store has room for {width} bytes, one is longer")
    expected = saved.class_names
    run.feed.fit_classes(expected)
    names = [*run.feed.notes.get("class_names", [])]
    if names[: len(expected)] != expected or bool(names) != bool(expected):
        ours, theirs = (text.listed(part) or "none" for part in (names, expected))
        problems.append(f"labels: the store has the classes {theirs}, the data {ours}")
    return problems


def data_differences(run: Run, saved: Saved, display: Progress) -> list[str]:
    """Compares the data of all rows, and recomputes the batch of the last one."""
    rows = 0
    for batch in run.feed.batches():
        rows = batch.row + batch.rows
        display.status("comparing saved rows with the data", saved.rows, rows)
        last = batch.row < saved.rows <= rows
        kept = range(saved.rows)
        problems = batch_differences(run, saved.reader, batch, kept, compute=last)
        if problems or last:
            return problems
    return _row_differences(saved, rows)


def sampled_differences(
    run: Run, saved: Saved, stored: StoredRows, blocks: Sequence[range]
) -> list[str]:
    """Compares a batch in each of some blocks of rows with the data, or all rows."""
    some = _few_suffice(run, saved)
    count = min(len(blocks), _SAMPLED) if some else len(blocks)
    for number in np.linspace(0, len(blocks) - 1, count).astype(int):
        rows = blocks[number]
        for batch in run.feed.batches(rows.start, rows.stop):
            problems = batch_differences(run, stored, batch, rows)
            if problems:
                return problems
            if some:
                break
    return []


def _few_suffice(run: Run, saved: Saved) -> bool:
    """Whether nothing shows that saved rows may have changed.

    Files show it, and so do more rows than a complete store has, of data that are not
    in files.
    """
    files = saved.reader.attributes.get(FILES)
    grown = saved.complete and (run.feed.rows or 0) > saved.rows
    if not grown:
        return bool(files == run.files())
    # New files may have come after the others.
    match files:
        case [int(count), _]:
            return run.feed.in_files and files == run.files(count)
    return False


def batch_differences(
    run: Run, stored: StoredRows, batch: Batch, rows: range, *, compute: bool = False
) -> list[str]:
    """Compares stored rows of a batch with its data; with `compute`, also its values.

    Only `rows` are compared: a batch may also have rows that are not stored.
    """
    rows = range(max(batch.row, rows.start), min(batch.row + batch.rows, rows.stop))
    if not rows:
        return []
    part = slice(rows.start - batch.row, rows.stop - batch.row)
    arrays = {name: array[part] for name, array in run.data_arrays(batch).items()}
    problems = list(_differences(run, stored, arrays, rows))
    if problems or not compute:
        return problems
    return list(_differences(run, stored, run.begin(batch, part)(), rows))


def _differences(
    run: Run, stored: StoredRows, arrays: Arrays, rows: range
) -> Iterator[str]:
    computed = {*run.plan.known, *auxiliary_arrays(run.plan)}
    for name, fresh in arrays.items():
        saved = stored.array(name)[rows.start : rows.stop]
        if name == GAPS:
            # These are the rounding of the attributions.
            continue
        if name in computed:
            dtype, least = run.plan.narrowed.get(name), least_share(run.plan, name)
            if tolerance.compare(saved, fresh, dtype, least) == "different":
                yield f"{name} of {describe_difference(saved, fresh, rows.start)}"
        elif saved.tobytes() != fresh.tobytes():
            if name == DIGESTS:
                row = rows.start + int(np.flatnonzero(saved != fresh)[0])
                yield f"data: the inputs of row {row} are not those in the store"
                continue
            if name == IDS and saved.ndim > 1:
                saved, fresh = text.decode(saved), text.decode(fresh)
            yield f"data: {name} of {describe_difference(saved, fresh, rows.start)}"


def _row_differences(saved: Saved, rows: int) -> list[str]:
    if rows >= saved.rows:
        return []
    return [f"rows: the store has {saved.rows}, the data {rows}"]
