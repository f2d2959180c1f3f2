"""A worker of a distributed save: opens model and data once, then saves blocks.

Nothing of Keras is imported before the worker knows which backend the driver has.
"""

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layertap.distributed.retries import START, check
from layertap.distributed.shared_data import Shared
from layertap.errors import LayertapError, ModelFileError, OtherRunError, StoreError
from layertap.store import BlockWorker, Claim

if TYPE_CHECKING:
    from layertap.pipeline.tap import Arrays

# Data and models may end a program. A worker that ended would be started again.
_ERRORS = (Exception, SystemExit)


@dataclass(frozen=True)
class SharedModel:
    """A model as it goes to a worker: a path that all can read, or a file's contents.

    Args:
        path: The path of a `.keras` file; empty if the contents go along.
        contents: What is in the file.
        objects: Classes and functions that it may be made of, by their names, pickled.
        trust: As of `loading.load_model`.
        modules: As of `loading.load_model`.
    """

    path: str = ""
    contents: bytes = b""
    objects: Mapping[str, bytes] = field(default_factory=dict)
    trust: bool = True
    modules: tuple[str, ...] = ()

    def open(self) -> Any:
        """Loads the model.

        Raises:
            ModelFileError: If that is not possible in this process.
        """
        from layertap.inputs.model_file import load_model

        options: dict[str, Any] = {"trust": self.trust, "modules": self.modules}
        if self.path:
            return load_model(self.path, **options)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.keras"
            file.write_bytes(self.contents)
            objects, missing = self._unpickled()
            try:
                return load_model(str(file), objects=objects, **options)
            except ModelFileError as error:
                for name, why in missing.items():
                    error.add_note(
                        f"layertap: {name} is not known in this process: {why}. Put "
                        "its module where workers can import it."
                    )
                raise

    def _unpickled(self) -> tuple[dict[str, Any], dict[str, Exception]]:
        """Returns the objects that can be had here, and why others can't."""
        found, missing = {}, {}
        for name, pickled in self.objects.items():
            try:
                found[name] = pickle.loads(pickled)
            # They bring modules of their own. Most are of other models.
            except Exception as error:
                missing[name] = error
        return found, missing


@dataclass(frozen=True)
class Assignment:
    """All that a worker needs, to be sent to it by Ray.

    Args:
        floatx: Keras' default dtype.
        data_format: Which axis of images Keras takes for the channels.
        model: The model.
        data: The data.
        batch_size: As of `layertap.save`.
        reduction: `dtype=` and `reduce=`.
        claim: The store.
        workers: How many workers there are.
    """

    floatx: str
    data_format: str
    model: SharedModel
    data: Shared
    batch_size: int | None
    reduction: tuple[Any, Any]
    claim: Claim
    workers: int


class Worker:
    """Saves blocks: an actor of Ray's, which is called with their numbers.

    What goes wrong is returned, not raised: Ray would log it, wrap it, and try some of
    it again without end.

    Args:
        backend: Keras' backend.
        references: The assignment, as Ray's reference to it in a list; and what counts
            attempts.
    """

    def __init__(self, backend: str, references: list[Any]) -> None:
        # Before anything imports Keras: what is unpickled does, too.
        os.environ["KERAS_BACKEND"] = backend
        self._error: bytes = b""
        reference, self._attempts = references
        try:
            times = self._begin(START)
            self._open(reference, times)
            self._attempts.end.remote(START)
        except _ERRORS as error:
            self._error = _pickled(error)

    def _begin(self, what: int) -> int:
        import ray

        times: int = ray.get(self._attempts.begin.remote(what))
        return times

    def _open(self, reference: Any, times: int) -> None:
        import ray

        assignment = _received(ray, reference)
        check(times, START, range(0), assignment.workers)
        import keras

        from layertap.core.tolerance import differences
        from layertap.inputs.feed import Feed
        from layertap.pipeline.run import Run
        from layertap.planning.reduction import Reduction
        from layertap.results.saved import Saved
        from layertap.results.statistics.gather import Gatherer
        from layertap.tracing.model_structure import input_specs

        keras.config.set_floatx(assignment.floatx)
        keras.config.set_image_data_format(assignment.data_format)
        self._store = BlockWorker(assignment.claim)
        saved = Saved(assignment.claim.path)
        model = assignment.model.open()
        data, ids = assignment.data.open(model)
        specs = input_specs(model)
        self._feed = Feed(data, specs, assignment.batch_size, anywhere=True)
        reduction = Reduction(*assignment.reduction)
        self._run = Run(model, self._feed, saved.plan, reduction, ids)
        self._gatherer = Gatherer(saved.plan)
        found = differences(saved.identity, self._run.identity)
        if self._feed.rows != assignment.claim.rows:
            rows = assignment.claim.rows
            found.append(f"rows: the driver has {rows}, the worker {self._feed.rows}")
        if found:
            raise OtherRunError(
                f"A worker on {os.uname().nodename} does not have what the driver has: "
                f"{'; '.join(found)}. Give all nodes the same packages, files and data."
            )

    def __call__(self, numbers: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Saves a block, if it is not saved yet.

        Args:
            numbers: One number of a block, under `block`.

        Returns:
            The rows and bytes that were written, or the error, pickled.
        """
        if self._error:
            return {"rows": [0], "bytes": [0], "error": [self._error]}
        number = int(numbers["block"][0])
        try:
            rows, written = self._save(number)
        except _ERRORS as error:
            part = self._store.rows_of(number)
            error.add_note(
                f"layertap: this came of rows {part.start} to {part.stop - 1}, in a "
                f"worker on {os.uname().nodename}."
            )
            return {"rows": [0], "bytes": [0], "error": [_pickled(error)]}
        return {"rows": [rows], "bytes": [written], "error": [b""]}

    def _save(self, number: int) -> tuple[int, int]:
        from layertap.pipeline.prefetch import prefetch

        rows = self._store.rows_of(number)
        if self._store.written(number):
            return len(rows), 0
        check(self._begin(number), number, rows, 1)
        block = self._store.empty(number)
        for arrays in prefetch(self._begun(rows)):
            block.append(arrays)
        if block.filled != len(rows):
            raise StoreError(
                f"Block {number} should have {len(rows)} rows; the data gave "
                f"{block.filled}."
            )
        noted = {name: part[: len(rows)] for name, part in block.values.items()}
        written = self._store.write(block, self._gatherer.summarize(noted))
        self._attempts.end.remote(number)
        return len(rows), written

    def _begun(self, rows: range) -> "Iterator[Callable[[], Arrays]]":
        """Begins the batches that some rows are in: cut as in a save of all."""
        for batch in self._feed.batches(rows.start, rows.stop):
            first = max(rows.start - batch.row, 0)
            last = min(rows.stop - batch.row, batch.rows)
            yield self._run.begin(batch, slice(first, last))


def _received(ray: Any, reference: Any) -> Assignment:
    """Returns what the driver has sent.

    Raises:
        LayertapError: If it can't be unpickled here.
    """
    try:
        assignment: Assignment = ray.get(reference)
    except ray.exceptions.RaySystemError as error:
        said = str(error).strip().splitlines()[-1]
        raise LayertapError(
            f"A worker on {os.uname().nodename} can't take what the driver sent: "
            f"{said}. Put the module where workers can import it: in a package on all "
            "nodes, or in a folder of PYTHONPATH."
        ) from error
    return assignment


def _pickled(error: BaseException) -> bytes:
    """Returns an error with its notes; of one that can't be sent, what it says."""
    from ray import cloudpickle

    try:
        pickled: bytes = cloudpickle.dumps(error)
        cloudpickle.loads(pickled)
    except Exception:
        said = LayertapError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", ()):
            said.add_note(note)
        pickled = cloudpickle.dumps(said)
    return pickled
