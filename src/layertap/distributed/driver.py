"""The same save, by many workers, on Ray: `layertap.distributed.save`.

Ray Data hands out the numbers of blocks; which worker has which one, what is tried
again, and how a cluster grows, is its business.
"""

import math
import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import keras

from layertap.core.plan import Plan
from layertap.core.progress import Show, show_progress
from layertap.distributed import ray_session
from layertap.distributed.shared_data import share
from layertap.distributed.worker import Assignment, SharedModel
from layertap.errors import ModelError, StoreError
from layertap.inputs.feed import Feed
from layertap.pipeline.resume import (
    find_existing_store,
    other_run,
    sampled_differences,
)
from layertap.pipeline.run import Run
from layertap.pipeline.schema import StoreOptions, store_schema
from layertap.pipeline.signals import raise_on_sigterm
from layertap.planning.padding import Pad
from layertap.planning.planner import Selection, plan_from_data
from layertap.planning.reduction import Reduce, Reduction
from layertap.results.manifest import STATISTICS
from layertap.results.saved import Saved
from layertap.results.statistics.gather import Gatherer
from layertap.store import DEFAULT_MEMORY, SharedWriter
from layertap.tracing.model_structure import check_model, input_specs

# So many blocks each worker has at least, where there are rows for them: all end at
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
    """Saves the values of a model for a data set, by many workers on Ray.

    The store is as one of `layertap.save`, and either goes on with what the other has
    begun. Each worker takes blocks of rows, opens the data itself, and writes to the
    store; a block that was being written when its worker died is written by another
    one. The rows count when all blocks are there.

    Ray is started on this machine, if it isn't running and no `RAY_ADDRESS` is set.

    Args:
        model: A Keras model, which is sent to the workers as a `.keras` file; its own
            classes have to be registered with Keras, or in a module that workers can
            import. Or the path of such a file that all can read.
        data: What can be read from any row on: arrays, or a structure of them, as of
            `layertap.save`; the path of a `.npy`, `.npz`, Zarr or Parquet file or of a
            folder of images, that all can read; `"package.module:callable"` that
            returns such data; a `keras.utils.PyDataset` with batches of one size; or a
            `ray.data.Dataset`, of which the columns are the inputs by name, in the
            order that Ray gives them.
        path: The store: a folder that all can write, `s3://bucket/values.zarr` or
            `gs://bucket/values.zarr`.
        workers: How many there are; by default as many as the cluster has CPUs or, with
            `num_gpus`, GPUs for.
        num_cpus: CPUs of each worker, as of Ray; not with `num_gpus`.
        num_gpus: GPUs of each worker, as of Ray.
        before: As of `layertap.plan`.
        outputs: As of `layertap.plan`.
        joins: As of `layertap.plan`.
        batch_size: As of `layertap.save`.
        dtype: As of `layertap.save`.
        reduce: As of `layertap.save`.
        pad: As of `layertap.save`. To look for the longest, the data are read once by
            this process.
        compression: As of `layertap.save`.
        ids: As of `layertap.save`.
        for_head: As of `layertap.save`.
        resume: As of `layertap.save`.
        overwrite: As of `layertap.save`.
        progress: As of `layertap.save`.
        memory: Bytes of values that a worker may have in memory, as of three blocks; it
            has one.

    Returns:
        The saved values.

    Raises:
        DataTypeError: If the data are a stream, which only `layertap.save` takes.
        OptionError: If there can't be such workers.
        OtherRunError: As of `layertap.save`; of data, some batches are compared. Or if
            a worker has other versions, another model or other data.
        BackendMissingError: If Ray is not installed.
        LayertapError: As of `layertap.save`.

    Example:
    ```python
    import layertap.distributed

    saved = layertap.distributed.save(model, "s3://bucket/images.zarr",
                                      "s3://bucket/values.zarr", workers=8)
    ```
    """
    ray = ray_session.started(num_gpus)
    workers = ray_session.count(ray, workers, num_cpus, num_gpus)
    loaded, sent = _sendable(model)
    check_model(loaded)
    shared = share(data, ids)
    opened = shared.open(loaded)
    specs = input_specs(loaded)
    feed = Feed(opened.data, specs, batch_size, anywhere=True)
    reduction = Reduction(dtype, reduce)
    selection = Selection(before, outputs, joins, for_head, reduction, pad)
    plan = plan_from_data(loaded, feed, selection)
    run = Run(loaded, feed, plan, reduction, opened.ids)
    run.check_rows(feed.rows or 0)
    options = StoreOptions(compression, resume, overwrite, memory)
    saved = find_existing_store(run, path, options, sampled=True)
    if saved is not None and saved.complete:
        return saved
    with raise_on_sigterm(), _writer(run, path, saved, workers, options) as writer:
        missing = writer.missing()
        if saved is not None:
            _compare(run, saved, writer, missing)
        assignment = Assignment(
            keras.config.floatx(),
            keras.config.image_data_format(),
            sent or _contents(loaded),
            shared,
            batch_size,
            (dtype, reduce),
            writer.claim,
            workers,
        )
        each = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        found = ray_session.written(ray, missing, assignment, workers, **each)
        _follow(found, writer, missing, progress, len(plan.stored))
        writer.finish(lambda: {STATISTICS: _statistics(plan, writer)})
    return Saved(path)


def _sendable(model: Any) -> tuple[keras.Model, SharedModel | None]:
    """Returns the model, and how it goes to workers, if that is known by itself."""
    if isinstance(model, str | os.PathLike):
        path = os.fspath(Path(model).absolute())
        model = SharedModel(path, trust=False)
    if isinstance(model, SharedModel):
        return model.open(), model
    return model, None


def _contents(model: keras.Model) -> SharedModel:
    """Returns a model as a file's contents.

    Raises:
        ModelError: If Keras can't save it.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        try:
            model.save(file)
        except Exception as error:  # Layers have configurations of their own.
            raise ModelError(
                f"{model.name!r} can't be sent to workers, for Keras can't save it: "
                f"{error}. Give its layers a `get_config`; or pass the path of a "
                ".keras file that all can read."
            ) from error
        return SharedModel(contents=file.read_bytes(), objects=_objects())


def _objects() -> dict[str, bytes]:
    """Returns what is registered with Keras, as far as it can be sent, pickled."""
    from ray import cloudpickle

    found = {}
    for name, one in keras.saving.get_custom_objects().items():
        # What holds a lock or a connection can't, and may be of another model.
        with suppress(Exception):
            found[name] = cloudpickle.dumps(one)
    return found


def _writer(
    run: Run, path: Any, saved: Saved | None, workers: int, options: StoreOptions
) -> SharedWriter:
    """Returns the writer of a new store, or of one to go on with."""
    rows = run.feed.rows or 0
    if saved is not None:
        writer = SharedWriter.resume(path, rows=rows)
        if writer.store == saved.reader.store:
            return writer
        writer.close()
        raise StoreError(
            f"{saved.path} was replaced by another process in the meantime. Nothing "
            "was written to it; do the same again."
        )
    # Whole batches, or two workers would compute the same one.
    size = run.feed.size or 1
    each = math.ceil(rows / (workers * _BLOCKS_EACH * size)) * size
    arrays, manifest = store_schema(run)
    return SharedWriter.create(
        path, arrays, manifest, rows=rows, most_rows=each, **options.layout
    )


def _compare(
    run: Run, saved: Saved, writer: SharedWriter, missing: Sequence[int]
) -> None:
    """Compares some batches of the blocks that are there with the data.

    Raises:
        OtherRunError: If one is another.
    """
    there = sorted(set(range(writer.blocks)) - set(missing))
    starts = [block * writer.block_rows for block in there]
    blocks = [range(s, min(s + writer.block_rows, writer.rows)) for s in starts]
    problems = sampled_differences(run, writer, blocks)
    if problems:
        raise other_run(saved, problems, again=True)


def _follow(
    found: Generator[tuple[int, int]],
    writer: SharedWriter,
    missing: Sequence[int],
    progress: Show | None,
    values: int,
) -> None:
    """Waits until all blocks are written, and shows how far that is.

    Raises:
        Exception: What went wrong in a worker, as it was there.
    """
    done = writer.rows - sum(len(writer.rows_of(block)) for block in missing)
    written = 0
    title = f"saving {values} values"
    try:
        with (
            show_progress(title, writer.rows, done, progress) as report,
            closing(found),
        ):
            report(done, 0)
            for rows, size in found:
                done, written = done + rows, written + size
                report(done, written)
    except BaseException as error:
        error.add_note(
            f"layertap: blocks that were written stay in {writer.path}; the same call "
            "goes on with the others, once this is mended."
        )
        raise


def _statistics(plan: Plan, writer: SharedWriter) -> dict[str, Any]:
    """Returns the statistics of all rows: as the workers noted them, block by block."""
    gatherer = Gatherer(plan)
    for first, noted in writer.notes():
        rows = min(writer.block_rows, writer.rows - first)
        if noted is not None:
            gatherer.add_summary(rows, noted)
            continue
        # Written before by a save that was not distributed.
        for name in gatherer.names:
            part = writer.array(name)[first : first + rows]
            gatherer.add(first, {name: part})
    return gatherer.to_json()
