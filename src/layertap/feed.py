"""Any data that `model.predict` takes, as batches of what the model takes."""

import operator
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from numbers import Integral
from typing import Any

import keras
import numpy as np

from layertap.errors import DataError, DataTypeError, OptionError
from layertap.inputs import arrange, array_of, check_dense, is_array, rows_of

BATCH_SIZE = 32


@dataclass(frozen=True)
class Batch:
    """Some consecutive rows of a data set.

    Attributes:
        row: The number of its first row in the data set.
        rows: How many rows it has.
        inputs: What `model(x)` takes: a NumPy array, or a structure of them.
        labels: The labels, likewise, or None.
        sample_weight: The weights of the samples, likewise, or None.
    """

    row: int
    rows: int
    inputs: Any
    labels: Any = None
    sample_weight: Any = None

    def parts(self, size: int | None) -> "Iterator[Batch]":
        """Yields the same rows in batches of a size; None leaves them as they are."""
        if size is None or self.rows <= size:
            yield self
            return
        structures = (self.inputs, self.labels, self.sample_weight)
        for start in range(0, self.rows, size):
            cut = operator.itemgetter(slice(start, start + size))
            yield Batch(
                self.row + start,
                min(size, self.rows - start),
                *(
                    s if s is None else keras.tree.map_structure(cut, s)
                    for s in structures
                ),
            )


class Feed:
    """Data as batches, always cut at the same rows.

    Args:
        data: Arrays (NumPy, a backend's, pandas, anything that can be sliced), lists or
            dictionaries of them, a `tf.data.Dataset`, a torch `DataLoader`, a
            `keras.utils.PyDataset`, or any iterable of batches. A tuple is `(x, y)` or
            `(x, y, sample_weight)`, unless it is just what a model of several inputs
            takes. A list is several inputs; from a `DataLoader` or a `PyDataset` it
            is what a tuple is, as in Keras.
        specs: The structure of `InputSpec` that the model takes, or None if it has
            none.
        batch_size: Rows per batch of arrays; 32 by default.

    Attributes:
        rows: How many rows there are, or None where only the end will tell.
        batch_size: Rows per batch, or None where the data bring their own batches.
        again: Whether the data can be read more than once.

    Raises:
        DataError: If the data don't fit the model.
        DataTypeError: If they are no data, or of a type that the model can't take.
        OptionError: If `batch_size` is given with data that bring their own batches.
    """

    def __init__(self, data: Any, specs: Any = None, batch_size: int | None = None):
        self._specs = specs
        self._source = _source(data, specs, batch_size)
        self.rows = self._source.rows
        self.batch_size = self._source.batch_size
        self.again = not isinstance(data, Iterator)
        self._first: Batch | None = None

    def first(self) -> Batch:
        """Returns the first batch. A one-shot iterator loses nothing by it.

        Raises:
            DataError: If there is none.
        """
        if self._first is None:
            for element in self._source.peek():
                self._first = next(self._batch(0, element).parts(self.batch_size))
                break
            else:
                raise DataError(
                    "The data are empty: not one row came. If they are an iterator, it "
                    "was used up before; make a new one."
                )
        return self._first

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Yields the batches, from the one that holds the row `start`.

        They are cut as in a run from row 0. Arrays are sliced there; other data are
        read from their beginning.

        Raises:
            DataError: If a batch does not fit the model, or the first batch, or if an
                iterator was used up before.
        """
        first = _forms(self.first())
        for row, element in self._source.elements(start):
            batch = self._batch(row, element)
            _check_form(_forms(batch), first, row)
            yield from batch.parts(self.batch_size)

    def _batch(self, row: int, element: Any) -> Batch:
        x, y, weight = _unpack(element, self._specs)
        inputs = arrange(x, self._specs, row)
        rows = rows_of(inputs, "inputs", row)
        others = []
        for name, structure in (("labels", y), ("sample weights", weight)):
            if structure is not None:
                structure = keras.tree.map_structure(array_of, structure)
                found = rows_of(structure, name, row)
                if found != rows:
                    raise DataError(
                        f"From row {row} on there are {rows} rows of inputs, but "
                        f"{found} of {name}; there has to be one for each row."
                    )
            others.append(structure)
        if not self._source.stable:
            inputs, *others = _owned([inputs, *others], element)
        return Batch(row, rows, inputs, *others)


class _Arrays:
    """A structure of arrays, which are sliced."""

    stable = True

    def __init__(self, data: Any, specs: Any, batch_size: int | None) -> None:
        self.batch_size = BATCH_SIZE if batch_size is None else batch_size
        if not isinstance(self.batch_size, Integral) or self.batch_size < 1:
            raise OptionError(
                "`batch_size` is a whole number of rows, at least 1; found "
                f"{batch_size!r}."
            )
        self.batch_size = int(self.batch_size)
        x, y, weight = _unpack(data, specs)
        x = keras.tree.map_structure(_column, _taken(x, specs))
        self._arrays: Any = keras.tree.map_structure(_sliceable, (x, y, weight))
        shapes = {
            _name(("inputs", "labels", "sample_weight")[path[0]], path[1:]): leaf.shape
            for path, leaf in keras.tree.flatten_with_path(self._arrays)
            if leaf is not None
        }
        lengths = {int(shape[0]) for shape in shapes.values()}
        if len(lengths) > 1:
            found = ", ".join(f"{name} {tuple(shapes[name])}" for name in shapes)
            raise DataError(
                "Inputs and labels have to have the same number of rows; found shapes "
                f"{found}."
            )
        self.rows: int | None = lengths.pop() if lengths else 0
        self._specs: Any = specs

    def peek(self) -> Iterator[Any]:
        return (element for _, element in self.elements(0))

    def elements(self, start: int) -> Iterator[tuple[int, Any]]:
        rows = self.rows or 0
        # What needs no memory is arranged all at once.
        size = self.batch_size if self._converted() else max(rows, 1)
        first = start // self.batch_size * self.batch_size if start < rows else rows
        for row in range(first, rows, size):
            yield row, self._rows(slice(row, row + size))

    def _rows(self, part: slice) -> Any:
        return keras.tree.map_structure(
            lambda leaf: None if leaf is None else leaf[part], self._arrays
        )

    def _converted(self) -> bool:
        """Whether the model takes something else than views of these arrays."""
        given = keras.tree.flatten(self._arrays)
        if not all(leaf is None or isinstance(leaf, np.ndarray) for leaf in given):
            return True
        x, _, _ = self._rows(slice(0, self.batch_size))
        return any(
            not any(np.may_share_memory(taken, leaf) for leaf in given)
            for taken in keras.tree.flatten(arrange(x, self._specs, 0))
        )


class _Stream:
    """Batches one after the other."""

    batch_size = None
    rows = None
    # A generator may fill one buffer anew for each of its batches.
    stable = False

    def __init__(self, batches: Callable[[], Iterator[Any]], specs: Any) -> None:
        self._batches = batches
        self._specs = specs
        self._last: Iterator[Any] | None = None
        self._begun: Iterator[Any] | None = None

    def peek(self) -> Iterator[Any]:
        """Yields the first element with rows; the next reading begins with it."""
        reading = self._read()
        for element in reading:
            if _count(element, self._specs):
                self._begun = chain([element], reading)
                yield element
                return

    def elements(self, start: int) -> Iterator[tuple[int, Any]]:
        reading, self._begun = self._begun or self._read(), None
        row = 0
        for element in reading:
            rows = _count(element, self._specs)
            if rows and row + rows > start:
                yield row, element
            row += rows

    def _read(self) -> Iterator[Any]:
        reading = self._batches()
        if reading is self._last:
            raise DataError(
                f"{type(reading).__name__} gives its batches only once, and was read "
                "before. Make a new one, or pass arrays or a data set."
            )
        self._last = reading
        return reading


def _source(data: Any, specs: Any, batch_size: int | None) -> _Arrays | _Stream:
    batches = _batches(data)
    if batches is None:
        leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
        other = next((leaf for leaf in leaves if not is_array(leaf)), None)
        if other is not None or not leaves:
            strange = data if other is None else other
            a_path = isinstance(strange, str | bytes | os.PathLike)
            raise DataTypeError(
                "Data are arrays, lists or dictionaries of them, data sets or "
                f"iterables of batches; found {type(strange).__name__}. "
                + ("Load the file first." if a_path else "Make it an array first.")
            )
        return _Arrays(data, specs, batch_size)
    if batch_size is not None:
        raise OptionError(
            f"`batch_size` is for arrays; {type(data).__name__} brings its own batches."
        )
    return _Stream(batches, specs)


def _batches(data: Any) -> Callable[[], Iterator[Any]] | None:
    """Returns what starts a stream of batches, or None if these are arrays."""
    if isinstance(data, keras.utils.PyDataset):
        if data.num_batches is None:
            raise DataError(
                f"{type(data).__name__} has no end: its num_batches is None. Give it a "
                "number of batches."
            )
        return lambda: map(_as_tuple, _of_dataset(data))
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and isinstance(data, tensorflow.data.Dataset):
        if int(data.cardinality()) == tensorflow.data.INFINITE_CARDINALITY:
            raise DataError("The tf.data.Dataset has no end: bound it with .take(n).")
        return lambda: iter(data)
    loading = sys.modules.get("torch.utils.data")
    if loading is not None and isinstance(data, loading.DataLoader):
        return lambda: map(_as_tuple, data)
    if isinstance(data, Mapping | list | tuple | str | bytes) or is_array(data):
        return None
    return (lambda: iter(data)) if isinstance(data, Iterable) else None


def _as_tuple(element: Any) -> Any:
    """Makes a list a tuple, `(x, y)`, as Keras does for these sources."""
    return tuple(element) if isinstance(element, list) else element


def _of_dataset(data: Any) -> Iterator[Any]:
    """Yields the batches of a PyDataset in order, read ahead by its workers."""
    if data.workers <= 1:
        yield from map(data.__getitem__, range(data.num_batches))
        return
    pool = ThreadPoolExecutor(data.workers)
    ahead: deque[Any] = deque()
    try:
        for index in range(data.num_batches):
            if len(ahead) >= max(data.max_queue_size, 1):
                yield ahead.popleft().result()
            ahead.append(pool.submit(data.__getitem__, index))
        while ahead:
            yield ahead.popleft().result()
    finally:
        # After an error, or where nobody wants the rest, what waits is not read.
        pool.shutdown(cancel_futures=True)


def _unpack(element: Any, specs: Any) -> tuple[Any, Any, Any]:
    """Splits `(x, y, sample_weight)`, as far as it is that."""
    if not isinstance(element, tuple):
        return element, None, None
    count = 0 if specs is None else len(keras.tree.flatten(specs))
    plain = all(is_array(member) for member in element)
    if plain and len(element) == count >= 2:
        return list(element), None, None
    if not 1 <= len(element) <= 3:
        raise DataError(
            f"A tuple is (x,), (x, y) or (x, y, sample_weight); found one of "
            f"{len(element)} members. Several inputs are a list or a dictionary."
        )
    x, y, weight = (*element, None, None)[:3]
    return x, y, weight


def _taken(x: Any, specs: Any) -> Any:
    """Leaves out of a dictionary what the model does not take."""
    if not isinstance(x, Mapping) or specs is None:
        return x
    if isinstance(specs, Mapping):
        names = set(specs)
    else:
        names = {spec.name for spec in keras.tree.flatten(specs)}
    # Where a name is missing, the error to come tells those that are there.
    return {name: x[name] for name in names} if names <= set(x) else x


def _count(element: Any, specs: Any) -> int:
    x, _, _ = _unpack(element, specs)
    for leaf in keras.tree.flatten(_taken(x, specs)):
        shape: Any = getattr(leaf, "shape", ())
        if len(shape) and shape[0] is not None:
            return int(shape[0])
    # Not an array with rows: `arrange` says what is wrong with it.
    return 1


def _column(leaf: Any) -> Any:
    """Makes a pandas Series of inputs a column, as Keras does."""
    series = hasattr(leaf, "iloc") and leaf.ndim == 1
    return array_of(leaf)[:, None] if series else leaf


def _sliceable(leaf: Any) -> Any:
    """Returns an array that is sliced by rows; a table of pandas slices by names."""
    if leaf is None:
        return None
    check_dense(leaf)
    jax = sys.modules.get("jax")
    if (
        hasattr(leaf, "iloc")
        or not hasattr(leaf, "shape")
        # As in Keras: NumPy slices faster than JAX, and shares memory on a CPU.
        or (jax is not None and isinstance(leaf, jax.Array))
    ):
        leaf = array_of(leaf)
    if not leaf.shape:
        raise DataError(
            "Data have rows: an array with at least one axis; found a scalar."
        )
    return leaf


def _owned(structures: list[Any], given: Any) -> list[Any]:
    """Copies the arrays that share memory with what was given."""
    leaves = keras.tree.flatten(given)
    theirs = {id(leaf) for leaf in leaves}
    # What else makes an array of itself may give one that it will write to.
    plain = all(
        leaf is None
        or isinstance(leaf, np.ndarray | int | float)
        or type(leaf).__module__.startswith(("tensorflow", "jax", "torch"))
        for leaf in leaves
    )

    def own(leaf: Any) -> Any:
        shared = leaf is not None and (
            not plain or leaf.base is not None or id(leaf) in theirs
        )
        return leaf.copy() if shared else leaf

    return [keras.tree.map_structure(own, structure) for structure in structures]


def _name(what: str, path: tuple[Any, ...]) -> str:
    return what + "".join(f"[{key!r}]" for key in path)


def _forms(batch: Batch) -> dict[str, str]:
    """Says of each array of a batch what has to be the same in all batches."""
    forms = {}
    for what in ("inputs", "labels", "sample_weight"):
        for path, leaf in keras.tree.flatten_with_path(getattr(batch, what)):
            if leaf is not None:
                # Inputs may change their sizes, where the model lets them.
                sizes = leaf.shape[1:] if what != "inputs" else "?" * (leaf.ndim - 1)
                dtype = "text" if leaf.dtype.kind in "SU" else leaf.dtype.name
                shape = ", ".join(["rows", *map(str, sizes)])
                forms[_name(what, path)] = f"{dtype} of shape ({shape})"
    return forms


def _check_form(found: dict[str, str], first: dict[str, str], row: int) -> None:
    for name in {**first, **found}:
        if found.get(name) != first.get(name):
            raise DataError(
                f"The batch that begins at row {row} has {name}: "
                f"{found.get(name, 'none')}. The first batch has "
                f"{first.get(name, 'none')}; all have to be alike."
            )
