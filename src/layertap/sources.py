"""Where batches come from: arrays that are sliced, or streams of batches."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from numbers import Integral
from typing import Any

import keras
import numpy as np

from layertap.errors import DataError, DataTypeError, OptionError
from layertap.inputs import arrange, array_of, check_dense, is_array

BATCH_SIZE = 32


class Arrays:
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
        x, y, weight = unpack(data, specs)
        x = keras.tree.map_structure(_column, _taken(x, specs))
        self._arrays: Any = keras.tree.map_structure(_sliceable, (x, y, weight))
        shapes = {
            leaf_name(
                ("inputs", "labels", "sample_weight")[path[0]], path[1:]
            ): leaf.shape
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
        """Yields the first element."""
        return (element for _, element in self.elements(0))

    def elements(self, start: int) -> Iterator[tuple[int, Any]]:
        """Yields what has the rows from one on, each with the number of its first."""
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


class Stream:
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
        """Yields what has the rows from one on, each with the number of its first."""
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


def source(data: Any, specs: Any, batch_size: int | None) -> Arrays | Stream:
    """Returns where the batches of some data come from.

    Args:
        data: As of `feed.Feed`.
        specs: As of `feed.Feed`.
        batch_size: As of `feed.Feed`.

    Raises:
        DataTypeError: If these are no data.
        OptionError: If `batch_size` is given with data that bring their own batches.
    """
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
        return Arrays(data, specs, batch_size)
    if batch_size is not None:
        raise OptionError(
            f"`batch_size` is for arrays; {type(data).__name__} brings its own batches."
        )
    return Stream(batches, specs)


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


def unpack(element: Any, specs: Any) -> tuple[Any, Any, Any]:
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
    x, _, _ = unpack(element, specs)
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


def leaf_name(what: str, path: tuple[Any, ...]) -> str:
    """Returns what to call a leaf of a structure, by its path."""
    return what + "".join(f"[{key!r}]" for key in path)
