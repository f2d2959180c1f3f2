"""One run of a model over data: everything that it computes of a batch."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from layertap.core import text, tree
from layertap.core.address import DIGESTS, IDS, LABELS, SAMPLE_WEIGHT
from layertap.core.plan import Plan
from layertap.errors import DataError, DataTypeError
from layertap.inputs.convert import Batch
from layertap.inputs.feed import Feed
from layertap.pipeline import fingerprint
from layertap.pipeline.planned_pass import planned_pass, with_means
from layertap.planning.planner import data_specs, plan_for_batch, warn_of_missing
from layertap.planning.selection import Selection
from layertap.results.manifest import FILES, NOTES, STATISTICS
from layertap.tracing.forward_pass import Arrays
from layertap.tracing.reuse.function_fingerprint import digest, function_fingerprint
from layertap.tracing.reuse.memo import compared_once

# What backends report when there is no memory for a tensor.
_NO_MEMORY = re.compile(
    "out of memory|oom when|resource_exhausted|allocate|bad_alloc", re.IGNORECASE
)

# Ids that come batch by batch may be twice as long as those of the first batch, and
# have at least so many bytes: a hexadecimal digest of 256 bits.
_LEAST_ID_BYTES = 64
# Text ids have a multiple of so many bytes: those of rows to come may be longer.
_ID_ROOM = 16


def planned_run(model: keras.Model, feed: Feed, selection: Selection) -> "Run":
    """Returns the run of a selection, planned with the first batch of the data."""
    selection = with_means(model, feed, selection)
    # Reading the data may run code that changes the model.
    specs, first = data_specs(model, feed, selection), feed.first()
    with compared_once(model):
        plan = plan_for_batch(model, specs, selection, first).plan
        run = Run(model, feed, plan, selection)
    warn_of_missing(plan, 4)
    return run


class Run:
    """A model, its plan and data: computes the arrays of a batch.

    `identity` describes the run, to be compared with that of a store.
    """

    def __init__(
        self, model: keras.Model, feed: Feed, plan: Plan, selection: Selection
    ) -> None:
        self.feed = feed
        self.plan = plan
        # How the planned values are computed, for another process.
        self.passes = Selection(
            reduction=selection.reduction, derivatives=selection.derivatives
        )
        chosen = selection.reduction, selection.derivatives
        self._pass = planned_pass(model, plan, *chosen)
        self._ids, kind = _encode_ids(feed)
        # The bytes of each id, for texts that come batch by batch.
        self._id_bytes = 0
        first = feed.first().ids
        if feed.ids is None and first is not None:
            encoded, kind = _encode(first)
            if kind == "text":
                self._id_bytes = max(_LEAST_ID_BYTES, 2 * encoded.shape[1])
        self._labels = tree.paths(feed.first().labels, LABELS)
        self._weights = tree.paths(feed.first().sample_weight, SAMPLE_WEIGHT)
        size = feed.batch_size or feed.first().rows
        self.identity: dict[str, Any] = {
            **fingerprint.run_identity(model, plan, size),
            "labels": self._labels,
            "ids": kind,
        }
        if self._weights is not None:
            # Only if there are any: stores without them have no such key.
            self.identity[SAMPLE_WEIGHT] = self._weights
        if feed.images is not None and feed.images.preprocess is not None:
            function = function_fingerprint(feed.images.preprocess)
            self.identity["preprocess"] = function

    def files(self, count: int | None = None) -> list[Any]:
        """Returns how many files the data have, and a digest of their versions.

        With `count`, those of the first files only.
        """
        versions = list(self.feed.versions.items())[:count]
        return [len(versions), digest(versions)]

    def begin(self, batch: Batch, rows: slice = slice(None)) -> Callable[[], Arrays]:
        """Begins to compute a batch, and returns a function that returns its arrays.

        These have all rows of the batch, or some. Errors of the model get a note with
        the rows and the inputs of the batch.
        """
        # First, since the backend soon needs the same memory.
        data = self.data_arrays(batch)
        with _noting(batch):
            finish = self._pass.begin(batch)

        def finished() -> Arrays:
            with _noting(batch):
                arrays = finish() | data
            return {name: array[rows] for name, array in arrays.items()}

        return finished

    def data_arrays(self, batch: Batch) -> Arrays:
        """Returns the arrays of a batch that follow from the data alone.

        These are its labels, its sample weights, its ids and the digest of its inputs.
        """
        arrays = {DIGESTS: fingerprint.inputs_digests(batch.inputs)}
        arrays |= _by_path(LABELS, self._labels, batch.labels)
        arrays |= _by_path(SAMPLE_WEIGHT, self._weights, batch.sample_weight)
        if self._ids is None and batch.ids is not None:
            arrays[IDS] = self._encode_batch_ids(batch)
        elif self._ids is not None:
            end = batch.row + batch.rows
            if end > len(self._ids):
                raise DataError(
                    f"The data have more rows than the {len(self._ids)} ids. Row "
                    f"{len(self._ids)} has no id."
                )
            arrays[IDS] = np.asarray(self._ids[batch.row : end])
        return arrays

    def fit_ids(self, width: int) -> bool:
        """Makes text ids as wide as those of a store; returns whether all fit."""
        ids = self._ids
        if ids is None and self._id_bytes:
            # They come in batches.
            first, _ = _encode(self.feed.first().ids)
            self._id_bytes = width
            return first.shape[1] <= width
        if ids is None or ids.ndim == 1:
            return True
        if ids[:, width:].any():
            return False
        more = max(width - ids.shape[1], 0)
        self._ids = np.pad(ids[:, :width], ((0, 0), (0, more)))
        return True

    def _encode_batch_ids(self, batch: Batch) -> NDArray[Any]:
        encoded, _ = _encode(batch.ids)
        if not self._id_bytes:
            return encoded
        more = self._id_bytes - encoded.shape[1]
        if more < 0:
            raise DataError(
                f"An id in the batch from row {batch.row} on is too long. Expected at "
                f"most {self._id_bytes} bytes, the room that the first ids got. "
                f"Received {encoded.shape[1]}. Pass `ids=` with the ids of all rows."
            )
        return np.pad(encoded, ((0, 0), (0, more)))

    def attributes(self, statistics: dict[str, Any]) -> dict[str, Any]:
        """Returns the attributes of a complete store that only its end shows.

        Raises DataError if a file of the data was changed: then it is not complete.
        """
        self.feed.check_unchanged()
        return {STATISTICS: statistics, **self.notes()}

    def notes(self) -> dict[str, Any]:
        """Returns the attributes of a store that describe the data."""
        return {NOTES: self.feed.notes, FILES: self.files()}


@contextmanager
def _noting(batch: Batch) -> Iterator[None]:
    """Adds a note about a batch to errors that are raised in the context."""
    try:
        yield
    except Exception as error:
        inputs = ", ".join(
            f"{array.dtype.name} of shape {array.shape}"
            for array in keras.tree.flatten(batch.inputs)
            if array is not None
        )
        rows = f"rows {batch.row} to {batch.row + batch.rows - 1}"
        note = f"layertap: this happened in {rows}, with inputs {inputs}."
        if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            note += " A smaller batch_size needs less memory."
        error.add_note(note)
        raise


def _by_path(name: str, paths: Any, structure: Any) -> Arrays:
    """Returns labels or sample weights by path, if they are those of the first batch.

    `paths` are the paths of the first batch; `structure` has the arrays of this one.
    """
    expected = list(tree.leaves(paths))
    received = list(tree.leaves(tree.paths(structure, name)))
    if set(received) != set(expected):
        raise DataError(
            f"A batch has other {name} than the first batch. "
            f"Expected {', '.join(expected) or 'none'}. "
            f"Received {', '.join(received) or 'none'}."
        )
    arrays = dict(zip(received, tree.leaves(structure), strict=True))
    for path, array in arrays.items():
        if array.dtype.kind in "OSUV":
            raise DataTypeError(
                f"{path} of dtype {array.dtype} can't be saved. Expected numbers, or "
                "one array of strings for all rows. Pass other strings as `ids=`."
            )
    return arrays


def _encode_ids(feed: Feed) -> tuple[Any, str | None]:
    """Returns the ids of all rows, if any, as they are stored, and their kind."""
    if feed.ids is None:
        return None, None
    # As wide as with the images that are skipped: a store may be older than that.
    encoded, kind = _encode(feed.ids, feed.images.skipped if feed.images else ())
    if kind == "text":
        room = -encoded.shape[1] % _ID_ROOM
        encoded = np.pad(encoded, ((0, 0), (0, room)))
    return encoded, kind


def _encode(ids: Any, others: Iterable[str] = ()) -> tuple[Any, str]:
    """Returns ids as they are stored, as wide as `others` are too, and their kind."""
    if ids.ndim == 1 and ids.dtype.kind in "iu":
        return ids, "number"
    if ids.ndim == 1 and ids.dtype.kind in "OSU":
        # Bytes that are not UTF-8 are refused when they are encoded again.
        texts = [
            text_id.decode(errors="surrogateescape")
            if isinstance(text_id, bytes)
            else text_id
            for text_id in ids.tolist()
        ]
        if all(isinstance(text_id, str) for text_id in texts):
            return text.encode([*texts, *others])[: len(texts)], "text"
    raise DataTypeError(
        "The ids are invalid. Expected one integer or string for each row. Received "
        f"{ids.dtype} of shape {ids.shape}."
    )
