"""A worker of a distributed save: opens model and data once, then saves blocks.

Nothing of Keras is imported before the worker knows the driver's backend.
"""

import os
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layertap.distributed.retries import START, check_attempts
from layertap.distributed.shared_data import SharedData
from layertap.errors import LayertapError, ModelFileError, OtherRunError, StoreError
from layertap.store.writing.block_worker import BlockWorker, Claim

if TYPE_CHECKING:
    from layertap.planning.selection import Selection

# Data and models may end a program. Ray would start a worker that ended again.
_ERRORS = (Exception, SystemExit)
# Workers check so many files. The driver checks all at the end.
_FEW_FILES = 64


@dataclass(frozen=True)
class SharedModel:
    """A model for workers: the path of a file that all can read, or its contents."""

    path: str = ""
    contents: bytes = b""
    # Classes and functions that the model may need, by name, pickled.
    objects: Mapping[str, bytes] = field(default_factory=dict)
    trust: bool = True
    modules: tuple[str, ...] = ()
    # Whether its loss is needed.
    compiled: bool = False

    def open(self) -> Any:
        """Loads the model."""
        from layertap.inputs.model_file import load_model

        options: dict[str, Any] = {
            "trust": self.trust,
            "modules": self.modules,
            "compiled": self.compiled,
        }
        if self.path:
            return load_model(self.path, **options)
        objects, missing = {}, {}
        for name, pickled in self.objects.items():
            try:
                objects[name] = pickle.loads(pickled)
            # They import modules of their own. Most belong to other models.
            except Exception as error:
                missing[name] = error
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.keras"
            file.write_bytes(self.contents)
            try:
                return load_model(str(file), objects=objects, **options)
            except ModelFileError as error:
                for name, reason in missing.items():
                    error.add_note(
                        f"layertap: {name} is not known in this process: {reason}. Put "
                        "its module where workers can import it."
                    )
                raise


@dataclass(frozen=True)
class Assignment:
    """Everything that a worker needs, sent by Ray."""

    floatx: str
    image_data_format: str
    model: SharedModel
    data: SharedData
    batch_size: int | None
    selection: "Selection"
    claim: Claim
    workers: int
    # Those that the driver has seen, of the files of the data.
    file_versions: Mapping[str, Any]


class Worker:
    """Saves blocks: an actor of Ray, called with their numbers.

    It returns errors instead of raising them: Ray would log and wrap an error, and
    retry some without end.
    """

    def __init__(self, backend: str, references: list[Any]) -> None:
        # Before Keras is imported; unpickling an assignment imports it.
        os.environ["KERAS_BACKEND"] = backend
        self._error: bytes = b""
        assignment, self._attempts = references
        try:
            times = self._begin(START)
            self._open(assignment, times)
            self._attempts.end.remote(START)
        except _ERRORS as error:
            self._error = _pickled(error)

    def _begin(self, task: int) -> int:
        import ray

        return ray.get(self._attempts.begin.remote(task))

    def _open(self, reference: Any, times: int) -> None:
        import ray

        try:
            assignment: Assignment = ray.get(reference)
        except ray.exceptions.RaySystemError as error:
            message = str(error).strip().splitlines()[-1]
            raise LayertapError(
                f"A worker on {os.uname().nodename} can't unpickle the driver's "
                f"assignment: {message}. Put the module where workers can import it: "
                "in a package on all nodes, or in a folder of PYTHONPATH."
            ) from error
        # All workers may start at the same time.
        check_attempts(times - assignment.workers, "Workers were started")
        import keras

        from layertap.core.tolerance import differences
        from layertap.pipeline.resume import fit_data
        from layertap.pipeline.run import Run
        from layertap.results.saved import Saved
        from layertap.results.statistics.gather import Gatherer

        keras.config.set_floatx(assignment.floatx)
        keras.config.set_image_data_format(assignment.image_data_format)
        self._store = BlockWorker(assignment.claim)
        saved = Saved(assignment.claim.path)
        model = assignment.model.open()
        self._feed = assignment.data.open(model, assignment.batch_size)
        self._run = Run(model, self._feed, saved.plan, assignment.selection)
        self._gatherer = Gatherer(saved.plan)
        problems = differences(saved.identity, self._run.identity)
        problems += fit_data(self._run, saved)
        rows = assignment.claim.rows
        if self._feed.rows != rows:
            problems.append(
                f"rows: the driver has {rows}, the worker {self._feed.rows}"
            )
        if len(assignment.file_versions) <= _FEW_FILES:
            versions = self._feed.watched().versions
            problems += _size_differences(versions, assignment.file_versions)
        if problems:
            raise OtherRunError(
                f"A worker on {os.uname().nodename} differs from the driver. "
                f"{'; '.join(problems)}. Give nodes the same packages, files and data."
            )

    def __call__(self, numbers: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Saves the block of a number; returns its rows and bytes, or an error."""
        if self._error:
            return _result(error=self._error)
        number = int(numbers["block"][0])
        try:
            return _result(*self._save(number))
        except _ERRORS as error:
            rows = self._store.rows_of(number)
            error.add_note(
                f"layertap: this happened in rows {rows.start} to {rows.stop - 1}, in "
                f"a worker on {os.uname().nodename}."
            )
            return _result(error=_pickled(error))

    def _save(self, number: int) -> tuple[int, int]:
        from layertap.pipeline.prefetch import prefetch

        rows = self._store.rows_of(number)
        if self._store.written(number):
            return len(rows), 0
        begun = f"Block {number} (rows {rows.start} to {rows.stop - 1}) was begun"
        check_attempts(self._begin(number) - 1, begun)
        block = self._store.begin(number)
        start = block.end
        # Cut as in a save of all rows: the first and the last may have other rows, too.
        batches = (
            self._run.begin(
                batch, slice(max(start - batch.row, 0), rows.stop - batch.row)
            )
            for batch in self._feed.batches(start, rows.stop)
        )
        for arrays in prefetch(batches):
            block.append(arrays)
        if block.filled != len(rows):
            raise StoreError(
                f"Block {number} has the wrong size. Expected {len(rows)} rows. "
                f"Received {block.filled} rows of data."
            )
        values = {name: part[: len(rows)] for name, part in block.values.items()}
        if self._feed.versions:
            self._feed.check_unchanged()
        written = self._store.write(block, self._gatherer.summarize(values))
        self._attempts.end.remote(number)
        return len(rows), written


def _size_differences(
    versions: Mapping[str, Any], expected: Mapping[str, Any]
) -> list[str]:
    """Compares files with the driver's; copies on other nodes have other times."""
    return [
        f"{file}: the driver has {version}, the worker {here}"
        for file, version in expected.items()
        for here in [versions.get(file, version)]
        if getattr(here, "size", here) != getattr(version, "size", version)
    ]


def _result(rows: int = 0, written: int = 0, error: bytes = b"") -> dict[str, Any]:
    return {"rows": [rows], "bytes": [written], "error": [error]}


def _pickled(error: BaseException) -> bytes:
    """Pickles an error with its notes, or its message where that is impossible."""
    from ray import cloudpickle

    try:
        pickled = cloudpickle.dumps(error)
        cloudpickle.loads(pickled)
        return pickled
    except Exception:
        plain = LayertapError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", ()):
            plain.add_note(note)
        return cloudpickle.dumps(plain)
