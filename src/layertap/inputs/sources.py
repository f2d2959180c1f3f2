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
from layertap.inputs.convert import arrange, is_array, matched
from layertap.inputs.elements import column, count, leaf_name, sliceable, taken, unpack

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
        self.size: int | None = self.batch_size
        x, y, weight = unpack(data, specs)
        if isinstance(x, Mapping) and specs is not None:
            # A name that is not there is told before arrays that nobody wants are read.
            matched(x, specs)
        x = keras.tree.map_structure(column, taken(x, specs))
        self._arrays: Any = keras.tree.map_structure(sliceable, (x, y, weight))
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
        return (element for _, element in self.elements(0, None))

    def elements(self, start: int, stop: int | None) -> Iterator[tuple[int, Any]]:
        """Yields what has the rows from one on, each with the number of its first."""
        rows = self.rows or 0
        # What needs no memory is arranged all at once.
        size = self.batch_size if self._converted() else max(rows, 1)
        first = start // self.batch_size * self.batch_size if start < rows else rows
        for row in range(first, rows if stop is None else min(rows, stop), size):
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
    size = None
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
            if count(element, self._specs):
                self._begun = chain([element], reading)
                yield element
                return

    def elements(self, start: int, stop: int | None) -> Iterator[tuple[int, Any]]:
        """Yields what has the rows from one on, each with the number of its first."""
        reading, self._begun = self._begun or self._read(), None
        row = 0
        for element in reading:
            rows = count(element, self._specs)
            if rows and row + rows > start:
                yield row, element
            row += rows
            if stop is not None and row >= stop:
                return

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
        check_arrays(data)
        return Arrays(data, specs, batch_size)
    check_no_size(data, batch_size)
    return Stream(batches, specs)


def check_arrays(data: Any) -> None:
    """Raises unless these are arrays, in lists or dictionaries perhaps.

    Raises:
        DataTypeError: If they are not.
    """
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    other = next((leaf for leaf in leaves if not is_array(leaf)), None)
    if other is None and leaves:
        return
    strange = data if other is None else other
    a_path = isinstance(strange, str | bytes | os.PathLike)
    raise DataTypeError(
        "Data are arrays, lists or dictionaries of them, data sets or "
        f"iterables of batches; found {type(strange).__name__}. "
        + ("Load the file first." if a_path else "Make it an array first.")
    )


def check_no_size(data: Any, batch_size: int | None) -> None:
    """Raises if a batch size is given for data with batches of their own.

    Raises:
        OptionError: If it is.
    """
    if batch_size is not None:
        raise OptionError(
            f"`batch_size` is for arrays; {type(data).__name__} brings its own batches."
        )


def check_end(dataset: Any) -> None:
    """Raises if a `keras.utils.PyDataset` goes on for ever.

    Raises:
        DataError: If it does.
    """
    if dataset.num_batches is None:
        raise DataError(
            f"{type(dataset).__name__} has no end: its num_batches is None. Give it a "
            "number of batches."
        )


def is_numbered(data: Any) -> bool:
    """Whether any batch of these data can be had by its number."""
    return isinstance(data, keras.utils.PyDataset)


def check_no_stream(data: Any) -> None:
    """Raises if rows of these data can only be had one after the other.

    Raises:
        DataTypeError: If that is so.
    """
    if is_numbered(data) or _batches(data) is None:
        return
    raise DataTypeError(
        f"{type(data).__name__} gives its batches one after the other, but each worker "
        "needs rows from any place, without those before them. Save it with "
        "`layertap.save`, which takes any stream; or pass arrays, a path, a "
        "keras.utils.PyDataset, a ray.data.Dataset, or package.module:callable."
    )


def _batches(data: Any) -> Callable[[], Iterator[Any]] | None:
    """Returns what starts a stream of batches, or None if these are arrays."""
    if is_numbered(data):
        check_end(data)
        return lambda: of_dataset(data, range(data.num_batches))
    if is_of_ray(data):
        raise DataTypeError(
            "A ray.data.Dataset is for `layertap.distributed.save`. To save it here, "
            "pass its batches: data.iter_batches()."
        )
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


def is_of_ray(data: Any) -> bool:
    """Whether this is a `ray.data.Dataset`."""
    ray_data = sys.modules.get("ray.data")
    return ray_data is not None and isinstance(data, ray_data.Dataset)


def _as_tuple(element: Any) -> Any:
    """Makes a list a tuple, `(x, y)`, as Keras does for these sources."""
    return tuple(element) if isinstance(element, list) else element


def of_dataset(data: Any, numbers: Iterable[int]) -> Iterator[Any]:
    """Yields batches of a PyDataset in order, read ahead by its workers."""
    return map(_as_tuple, _read_ahead(data, numbers))


def _read_ahead(data: Any, numbers: Iterable[int]) -> Iterator[Any]:
    if data.workers <= 1:
        yield from map(data.__getitem__, numbers)
        return
    pool = ThreadPoolExecutor(data.workers)
    ahead: deque[Any] = deque()
    try:
        for index in numbers:
            if len(ahead) >= max(data.max_queue_size, 1):
                yield ahead.popleft().result()
            ahead.append(pool.submit(data.__getitem__, index))
        while ahead:
            yield ahead.popleft().result()
    finally:
        # After an error, or where nobody wants the rest, what waits is not read.
        pool.shutdown(cancel_futures=True)
