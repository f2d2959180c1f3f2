"""Saves the values of a model by many workers on Ray: `layertap.distributed.save`.

Ray Data hands out the numbers of blocks. It chooses a worker for each one, retries
blocks, and adds workers as a cluster grows.
"""

import math
import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import keras

from layertap.core import tables, text
from layertap.core.plan import Plan
from layertap.core.progress import Progress, Show, show_progress
from layertap.distributed import ray_session
from layertap.distributed.shared_data import share
from layertap.distributed.worker import Assignment, SharedModel
from layertap.effects.derivatives import Baseline, Derivatives, derivatives
from layertap.effects.target import Of
from layertap.errors import ModelError
from layertap.pipeline.resume import (
    check_not_replaced,
    check_same_run,
    find_existing_store,
    reopening,
    sampled_differences,
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
from layertap.store.writing.shared_writer import SharedWriter
from layertap.tracing.keras_internals import without_importing_tensorflow
from layertap.tracing.model_structure import check_model

# Blocks of each worker, at least, if there are rows for them: all workers then end at
# about the same time, and little is lost with one.
_BLOCKS_EACH = 8


def save(
    model: keras.Model | str | os.PathLike[str],
    data: Any,
    path: str | os.PathLike[str],
    *,
    workers: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
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
    """Saves the values of a model for a data set, by many workers on Ray.

    The store is the same as that of `layertap.save`, and each resumes a save that the
    other began. Each worker opens the data by itself, computes blocks of rows, and
    writes them to the store. If a worker dies, another one writes its block. The rows
    count when all blocks are written.

    Ray is started on this machine if it is not running and `RAY_ADDRESS` is not set.

    Args:
        model: A Keras model, which is sent to the workers as a `.keras` file. Its own
            classes must be registered with Keras, or be in a module that workers can
            import. Or the path of such a file that all workers can read.
        data: Data that can be read from any row on: arrays, or a structure of them, see
            `layertap.save`; the path of a `.npy`, `.npz`, Zarr or Parquet file or of a
            folder of images that all workers can read; `layertap.images` of such a
            folder; `"package.module:callable"` that
            returns such data; a `keras.utils.PyDataset` with batches of one size; or a
            `ray.data.Dataset`, whose columns are the inputs by name, in Ray's order.
        path: The store: a folder that all workers can write, `s3://bucket/values.zarr`
            or `gs://bucket/values.zarr`.
        workers: The number of workers; by default one for each `num_cpus` CPUs of the
            cluster or, with `num_gpus`, for each `num_gpus` GPUs.
        num_cpus: CPUs of each worker, see Ray; ignored with `num_gpus`.
        num_gpus: GPUs of each worker, see Ray.
        before: See `layertap.plan`.
        outputs: See `layertap.plan`.
        joins: See `layertap.plan`.
        batch_size: See `layertap.save`.
        dtype: See `layertap.save`.
        reduce: See `layertap.save`.
        pad: See `layertap.save`. To find the largest size, this process reads the data
            once.
        compression: See `layertap.save`.
        labels: See `layertap.save`.
        ids: See `layertap.save`.
        for_head: See `layertap.save`.
        gradients: See `layertap.save`.
        attributions: See `layertap.save`.
        baseline: See `layertap.save`.
        steps: See `layertap.save`.
        resume: See `layertap.save`.
        overwrite: See `layertap.save`.
        progress: See `layertap.save`.
        memory: Bytes for the values of three blocks; a worker holds one.

    Returns:
        The saved values.

    Raises:
        DataTypeError: If the data are a stream, which only `layertap.save` accepts.
        OptionError: If such workers can't run.
        OtherRunError: See `layertap.save`; only some batches of the data are compared.
            Or if a worker has other versions, another model or other data.
        BackendMissingError: If Ray is not installed.
        LayertapError: See `layertap.save`.

    Example:
    ```python
    import layertap.distributed

    saved = layertap.distributed.save(model, "s3://bucket/images.zarr",
                                      "s3://bucket/values.zarr", workers=8)
    ```
    """
    reduction = Reduction(dtype, reduce)
    effects = derivatives(gradients, attributions, baseline, steps)
    selection = Selection(before, outputs, joins, for_head, reduction, pad, effects)
    options = StoreOptions(compression, resume, overwrite, memory)
    with show_progress(progress) as display:
        display.status("starting Ray")
        ray = ray_session.start_ray(num_gpus)
        workers, each = ray_session.plan_resources(ray, workers, num_cpus, num_gpus)
        display.status("planning")
        loaded, shared_model = _load(model, effects)
        shared_data = share(data, ids, labels)
        feed = shared_data.open(loaded, batch_size).watched()
        run = planned_run(loaded, feed, selection)
        saved = find_existing_store(run, path, options, display, sampled=True)
        if saved is not None and saved.complete and saved.rows == feed.rows:
            return saved
        with raise_on_sigterm(), _writer(run, path, saved, workers, options) as writer:
            missing = _missing(run, saved, writer)
            assignment = Assignment(
                *(keras.config.floatx(), keras.config.image_data_format()),
                shared_model or _share_model(loaded, effects),
                shared_data,
                batch_size,
                run.passes,
                writer.claim,
                workers,
                feed.versions,
            )
            blocks = ray_session.write_blocks(ray, missing, assignment, each)
            _follow(blocks, writer, missing, display, len(run.plan.stored))
            writer.finish(lambda: run.attributes(_statistics(run.plan, writer)))
        return Saved(path)


def _load(model: Any, effects: Derivatives) -> tuple[keras.Model, SharedModel | None]:
    """Returns a model, and its file if workers open that by themselves."""
    if isinstance(model, str | os.PathLike):
        model = SharedModel(os.fspath(Path(model).absolute()), trust=False)
    shared = model if isinstance(model, SharedModel) else None
    if shared is not None and effects.need_loss:
        shared = replace(shared, compiled=True)
    loaded = model if shared is None else shared.open()
    check_model(loaded)
    return loaded, shared


def _share_model(model: keras.Model, effects: Derivatives) -> SharedModel:
    """Returns a model as the contents of a file, with all registered objects."""
    from ray import cloudpickle

    objects = {}
    for name, custom in keras.saving.get_custom_objects().items():
        # Objects with a lock or a connection can't be pickled, and may be of another
        # model.
        with suppress(Exception):
            objects[name] = cloudpickle.dumps(custom)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        try:
            with without_importing_tensorflow():
                model.save(file)
        except Exception as error:  # Layers have configurations of their own.
            raise ModelError(
                f"{model.name!r} can't be sent to workers, because Keras can't save "
                f"it: {error}. Give its layers a `get_config`, or pass the path of a "
                ".keras file that all workers can read."
            ) from error
        contents = file.read_bytes()
    return SharedModel("", contents, objects, compiled=effects.need_loss)


def _writer(
    run: Run, path: Any, saved: Saved | None, workers: int, options: StoreOptions
) -> SharedWriter:
    """Returns the writer of a new store, or of one to resume."""
    rows = run.feed.rows or 0
    if saved is not None:
        again = reopening(run, saved)
        return SharedWriter.resume(path, rows=rows, reopening=again)
    # Complete batches, or two workers would compute the same one.
    size = run.feed.size or 1
    most_rows = math.ceil(rows / (workers * _BLOCKS_EACH * size)) * size
    return SharedWriter.create(
        path, *store_schema(run), rows=rows, most_rows=most_rows, **options.layout
    )


def _missing(run: Run, saved: Saved | None, writer: SharedWriter) -> Sequence[int]:
    """Returns the blocks to write; raises if written ones differ from the data.

    Some batches of these are compared.
    """
    if saved is not None:
        check_not_replaced(saved, writer)
    missing = writer.missing()
    if saved is not None and not saved.complete:
        written = sorted(set(range(writer.blocks)) - set(missing))
        rows = [writer.rows_of(block) for block in written]
        check_same_run(run, saved, sampled_differences(run, saved, writer, rows))
    return missing


def _follow(
    blocks: Generator[tuple[int, int]],
    writer: SharedWriter,
    missing: Sequence[int],
    display: Progress,
    values: int,
) -> None:
    """Waits until all blocks are written, and shows the progress."""
    total, title = writer.rows, f"saving {values} values"
    kept = done = total - sum(len(writer.rows_of(block)) for block in missing)
    count = before = writer.blocks - len(missing)
    written = 0
    if kept:
        display.say(
            f"{before:,} of {writer.blocks:,} blocks, {kept:,} of {total:,} rows, are "
            "there; computing the others."
        )
    files, size = writer.estimate(missing)
    display.say(
        f"Writing {text.counted(len(missing), 'block')}, each of up to "
        f"{writer.block_rows:,} rows: {files:,} files, up to {tables.size(size)}."
    )
    try:
        with closing(blocks):
            display.report(title, total, done, 0)
            display.status("starting workers")
            for rows, size in blocks:
                count, done, written = count + 1, done + rows, written + size
                display.report(title, total, done, written)
    except BaseException as error:
        fixed = " once this is fixed" if isinstance(error, Exception) else ""
        # Workers may end others before they stop.
        error.add_note(
            f"layertap: At least {count:,} of {writer.blocks:,} blocks, {done:,} of "
            f"{total:,} rows, are safe in {writer.path}. The same call writes the "
            f"others{fixed}."
        )
        raise
    if kept:
        display.outcome = (
            f"Kept {before:,} blocks ({kept:,} rows), computed {len(missing):,} "
            f"({total - kept:,} rows)."
        )


def _statistics(plan: Plan, writer: SharedWriter) -> dict[str, Any]:
    """Returns the statistics of all rows, from the workers' notes of each block."""
    gatherer = Gatherer(plan)
    for first, noted in writer.notes():
        rows = min(writer.block_rows, writer.rows - first)
        if noted is not None:
            gatherer.add_summary(rows, noted)
            continue
        # A save that was not distributed wrote this block.
        for name in gatherer.names:
            part = writer.array(name)[first : first + rows]
            gatherer.add(first, {name: part})
    return gatherer.to_json()
