"""Where batches come from: arrays, streams of batches, or batches by their numbers."""

import operator
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from threading import Thread
from typing import Any

import keras
import numpy as np

from layertap.errors import DataError, DataTypeError, OptionError, check_number
from layertap.inputs import convert
from layertap.inputs.columns import Parts, as_table
from layertap.inputs.convert import Converter
from layertap.inputs.images import ImageFolder
from layertap.store.storage.ahead import map_ahead

BATCH_SIZE = 32


class Source(ABC):
    """Elements of data that are not converted yet, in the order of their rows.

    Attributes:
        rows: The number of rows, or None if only the end shows it.
        batch_size: Rows per batch, or None if the data bring their own batches.
        size: Rows of every batch but the last, or None if batches have any size.
        stable: Whether an element stays as it is when the next one is read.
        ids: The ids of all rows, unless there are none or each element has its own.
        classes: The strings that the labels of all rows were, if they were strings:
            their numbers are the labels.
        images: The folder of images among the inputs, or None.
    """

    rows: int | None = None
    batch_size: int | None = None
    size: int | None = None
    # A generator may fill one buffer again for each of its batches.
    stable = False
    ids: Any = None
    classes: Sequence[str] = ()
    images: ImageFolder | None = None

    @property
    def notes(self) -> Mapping[str, Any]:
        """What a store notes of the data: see `Feed.notes`."""
        return {}

    @abstractmethod
    def elements(self, start: int, stop: int | None) -> Iterator[tuple[int, Any]]:
        """Yields the elements with rows from `start` on, and their first rows."""

    def peek(self) -> Iterator[Any]:
        """Yields the first element with rows."""
        return (element for _, element in self.elements(0, 1))


class ArrayBatches(Source):
    """A structure of arrays, sliced into batches."""

    stable = True
    rows: int
    batch_size: int

    def __init__(self, data: Any, converter: Converter, batch_size: int | None) -> None:
        size = check_number("`batch_size`", batch_size, 1) or converter.fixed_rows
        self.batch_size = self.size = size or BATCH_SIZE
        x, y, weight, self.ids = converter.unpack(data)
        of_folder = isinstance(x, ImageFolder) and y is x.labels
        self._folder_names = x.class_names if of_folder else []
        check_arrays(x)
        check_arrays([x, y, weight])
        x = keras.tree.map_structure(partial(convert.sliceable, is_input=True), x)
        y, weight = keras.tree.map_structure(convert.sliceable, (y, weight))
        y, self.classes = _numbered(y)
        self._numbered = self.classes, y
        self._leaves = convert.named_leaves(x, y, weight)
        self.rows = convert.common_rows(self._leaves)
        last = max(self.rows - 1, 0) // self.size * self.size
        converter.check_rows(last, self.rows - last)
        self._arrays = Parts(x, y, weight)
        for leaf in keras.tree.flatten(x):
            if isinstance(leaf, ImageFolder):
                self.images = leaf
        self._converter = converter

    @property
    def notes(self) -> Mapping[str, Any]:
        """See `Source`."""
        notes: dict[str, Any] = {"class_names": self.classes or self._folder_names}
        if self.images is not None:
            notes["skipped"] = self.images.skipped
            notes["passed_over"] = self.images.passed_over
        return notes

    def fit_classes(self, names: Sequence[str]) -> None:
        """Numbers labels that were strings so that these have the first numbers."""
        own, labels = self._numbered
        self.classes = [*dict.fromkeys([*names, *own])]
        numbers = {name: number for number, name in enumerate(self.classes)}
        renumbered = np.array([numbers[name] for name in own])
        self._arrays = self._arrays._replace(labels=renumbered[labels])

    def elements(self, start: int, stop: int | None) -> Iterator[tuple[int, Any]]:
        """Yields batches, or all rows at once where that needs no memory."""
        if start >= self.rows:
            return
        few = self.rows <= self.batch_size
        size = self.batch_size if few or self._conversion_copies else self.rows
        first = start // self.batch_size * self.batch_size
        stop = self.rows if stop is None else min(self.rows, stop)
        for row in range(first, stop, size):
            yield row, self._part(slice(row, row + size))

    def _part(self, rows: slice) -> Any:
        part = operator.itemgetter(rows)
        return Parts(*(convert.mapped(part, array) for array in self._arrays))

    @cached_property
    def _conversion_copies(self) -> bool:
        """Whether converted inputs are anything else than views of these arrays."""
        leaves = self._leaves.values()
        if not all(isinstance(leaf, np.ndarray) for leaf in leaves):
            return True
        part = self._part(slice(0, self.batch_size))
        batch = self._converter.convert(part, 0, copy=False)
        return not all(
            any(np.may_share_memory(array, leaf) for leaf in leaves)
            for array in keras.tree.flatten(batch.inputs)
            if array is not None
        )


@dataclass
class StreamBatches(Source):
    """Batches that come one after the other."""

    iterate: Callable[[], Iterator[Any]]
    converter: Converter
    _last: Iterator[Any] | None = None
    _peeked: Iterator[Any] | None = None

    def peek(self) -> Iterator[Any]:
        """Yields the first element with rows; the next reading begins with it."""
        reading = self._start()
        for element in reading:
            if self.converter.count_rows(element):
                self._peeked = chain([element], reading)
                yield element
                return

    def elements(self, start: int, stop: int | None) -> Iterator[tuple[int, Any]]:
        """Reads from the beginning, and yields the elements with these rows."""
        reading, self._peeked = self._peeked or self._start(), None
        row = 0
        for element in reading:
            rows = self.converter.count_rows(element)
            if rows and row + rows > start:
                yield row, element
            row += rows
            if stop is not None and row >= stop:
                return

    def _start(self) -> Iterator[Any]:
        reading = self.iterate()
        if reading is self._last:
            raise DataError(
                f"{type(reading).__name__} was read before, and gives its batches only "
                "once. Create a new one, or pass arrays or a data set."
            )
        self._last = reading
        return reading


class IndexedBatches(Source):
    """Batches of a `PyDataset`, of one size but for the last, from any row on.

    Args:
        dataset: The `keras.utils.PyDataset`. Its first and its last batch are read.
    """

    rows: int
    size: int

    def __init__(self, dataset: Any, converter: Converter) -> None:
        self._dataset = dataset
        self._converter = converter
        self._batches = int(dataset.num_batches)
        self.size = self.rows = 0
        if self._batches:
            self.size = last = self._read_size(0)
            if self._batches > 1:
                last = self._read_size(self._batches - 1)
            self._check_size(self._batches - 1, last)
            self.rows = self.size * (self._batches - 1) + last

    def elements(self, start: int, stop: int | None) -> Iterator[tuple[int, Any]]:
        """Reads only the batches with these rows."""
        stop = self.rows if stop is None else min(stop, self.rows)
        if start >= stop:
            return
        numbers = range(start // self.size, -(-stop // self.size))
        elements = _read_dataset(self._dataset, numbers)
        for number, element in zip(numbers, elements, strict=True):
            self._check_size(number, self._converter.count_rows(element))
            yield number * self.size, element

    def _read_size(self, number: int) -> int:
        (element,) = _read_dataset(self._dataset, [number])
        return self._converter.count_rows(element)

    def _check_size(self, number: int, rows: int) -> None:
        last = number == self._batches - 1
        if 0 < rows == self.size or (last and 0 < rows < self.size):
            return
        raise DataError(
            f"Batch {number} of {type(self._dataset).__name__} has {rows} rows. "
            f"Expected {self.size}, as in its first batch, or fewer in its last one. "
            "Save data with batches of several sizes with layertap.save."
        )


def _numbered(labels: Any) -> tuple[Any, list[str]]:
    """Returns labels with numbers in place of texts, and what those stand for."""
    if getattr(labels, "ndim", 0) != 1 or np.dtype(labels.dtype).kind not in "OSUT":
        return labels, []
    texts = np.asarray(labels).tolist()
    if not any(isinstance(text, str | bytes) for text in texts):
        return labels, []
    for row, text in enumerate(texts):
        try:
            texts[row] = (
                text.decode() if isinstance(text, bytes) else str.strip(text, "")
            )
        except (TypeError, UnicodeDecodeError):
            raise DataTypeError(
                f"The label of row {row} is invalid. Expected a string in UTF-8, since "
                f"others are strings. Received {text!r}."
            ) from None
    numbers = {text: number for number, text in enumerate(sorted(set(texts)))}
    return np.array([numbers[text] for text in texts]), [*numbers]


def open_source(
    data: Any, converter: Converter, batch_size: int | None, *, anywhere: bool
) -> Source:
    """Returns the source of any data; `anywhere` needs batches from any row on."""
    data = as_table(data)
    if anywhere:
        check_no_stream(data)
    iterate = _stream_of(data)
    if iterate is None:
        return ArrayBatches(data, converter, batch_size)
    if batch_size is not None:
        raise OptionError(
            f"`batch_size` is for arrays, but {type(data).__name__} brings its own "
            "batches. Leave it out."
        )
    if anywhere:
        return IndexedBatches(data, converter)
    return StreamBatches(iterate, converter)


def check_arrays(data: Any) -> None:
    """Raises unless the data are arrays, or lists or dictionaries of arrays."""
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    symbolic = keras.KerasTensor
    others = [x for x in leaves if isinstance(x, symbolic) or not convert.is_array(x)]
    if leaves and not others:
        return
    other = others[0] if others else data
    is_path = isinstance(other, str | bytes | os.PathLike)
    raise DataTypeError(
        "The data have an unknown type. Expected arrays, lists or dictionaries of "
        "arrays, data sets or iterables of batches. Received "
        f"{type(other).__name__}. "
        + ("Load the file first." if is_path else "Convert it to an array first.")
    )


def check_end(dataset: Any) -> None:
    """Raises if a `keras.utils.PyDataset` has no end."""
    if dataset.num_batches is None:
        raise DataError(
            f"{type(dataset).__name__} has no end: its num_batches is None. Set that."
        )


def check_no_stream(data: Any) -> None:
    """Raises if rows of the data are only available one after the other."""
    if isinstance(data, keras.utils.PyDataset) or _stream_of(data) is None:
        return
    raise DataTypeError(
        f"{type(data).__name__} gives its batches one after the other, but each worker "
        "reads rows from any place. Expected arrays, a path, a keras.utils.PyDataset, "
        "a ray.data.Dataset, or package.module:callable. Save a stream with "
        "`layertap.save`."
    )


def is_ray_dataset(data: Any) -> bool:
    """Whether the data are a `ray.data.Dataset`."""
    ray_data = sys.modules.get("ray.data")
    return ray_data is not None and isinstance(data, ray_data.Dataset)


def _stream_of(data: Any) -> Callable[[], Iterator[Any]] | None:
    """Returns a function that starts a stream of batches, or None for arrays."""
    if isinstance(data, keras.utils.PyDataset):
        check_end(data)
        return lambda: _read_dataset(data, range(data.num_batches))
    if is_ray_dataset(data):
        raise DataTypeError(
            "A ray.data.Dataset is for `layertap.distributed.save`. Pass its batches "
            "here: data.iter_batches()."
        )
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and isinstance(data, tensorflow.data.Dataset):
        if int(data.cardinality()) == tensorflow.data.INFINITE_CARDINALITY:
            raise DataError("The tf.data.Dataset has no end. Bound it with .take(n).")
        return lambda: _read_tensorflow(data)
    torch_data = sys.modules.get("torch.utils.data")
    if torch_data is not None and isinstance(data, torch_data.DataLoader):
        return lambda: map(_as_tuple, data)
    if isinstance(data, Mapping | list | tuple | str | bytes) or convert.is_array(data):
        return None
    return (lambda: iter(data)) if isinstance(data, Iterable) else None


def _as_tuple(element: Any) -> Any:
    """Makes a list a tuple, `(x, y)`, as Keras does for these sources."""
    return tuple(element) if isinstance(element, list) else element


def _read_tensorflow(data: Any) -> Iterator[Any]:
    """Reads a `tf.data.Dataset`, and frees its iterator in the background.

    TensorFlow may wait there for a thread that tunes the data set, until it wakes up:
    for 0.9 s after a reading of 1.6 s, and 1.9 s after one of 3.2.
    """
    held = [iter(data)]
    try:
        yield from held[0]
    finally:
        # Python starts none when it ends.
        with suppress(RuntimeError):
            Thread(target=held.clear, name="layertap-data").start()


def _read_dataset(data: Any, numbers: Iterable[int]) -> Iterator[Any]:
    """Reads batches of a PyDataset in order, ahead by its workers."""

    def read(number: int) -> Any:
        return _as_tuple(data[number])

    if data.workers <= 1:
        return map(read, numbers)
    return map_ahead(
        read, numbers, threads=data.workers, most=max(data.max_queue_size, 1)
    )
