"""Values on disk: what a save leaves, and what it is opened as."""

import functools
import operator
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import tables, text, tree
from layertap.core.plan import Plan, Recipe
from layertap.core.values import (
    LENGTHS,
    OVERFLOWED,
    Values,
    auxiliary_arrays,
    branches,
    length_columns,
    overflows,
    unknown,
)
from layertap.errors import OptionError, StoreCorruptError
from layertap.results.joined_array import JoinedArray
from layertap.results.statistics import encoding, feature_axes
from layertap.results.statistics.moments import Statistics
from layertap.results.training.row_order import Order
from layertap.results.training.trainable import Trainable
from layertap.store import LazyArray, Reader

DIGESTS = "digests"
IDS = "ids"
LABELS = "labels"
# What the root of a complete store has of them.
STATISTICS = "statistics"

# What comes of a manifest that does not say what it should.
_DAMAGED = (
    *(KeyError, TypeError, ValueError, AttributeError, IndexError),
    *(OverflowError, RecursionError),
)
SAMPLE_WEIGHT = "sample_weight"

# About as much as the processor holds close.
_READ_BYTES = 2**20


class Saved(Trainable, Mapping[str, LazyArray | JoinedArray]):
    """Values on disk, by address: a read-only mapping of lazy arrays.

    Slicing an array reads those rows: `saved["fusion/in/0"][10:20]`.

    Args:
        path: The folder of the store.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.reader = Reader(path)
        self.path = os.fspath(path)
        manifest = self.reader.attributes
        try:
            self.plan = Plan.from_json(manifest["plan"])
            self.identity: dict[str, Any] = dict(manifest["identity"])
            self._labels = self.identity["labels"]
            self._ids: str | None = self.identity["ids"]
            self._weights = self.identity.get(SAMPLE_WEIGHT)
            self._check()
            self._values: dict[str, LazyArray | JoinedArray] = {}
            for value in self.plan.values:
                found = self._value(value.address, ())
                if found.shape[1:] != value.shape[1:]:
                    raise ValueError(f"{found!r} should have rows of {value.shape[1:]}")
        except _DAMAGED as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StoreCorruptError:
        why = f"{type(error).__name__}: {text.printable(error)[:300]}"
        return StoreCorruptError(
            f"{self.path}: its manifest is damaged ({why}). Restore it, or delete the "
            "folder and save again."
        )

    def _check(self) -> None:
        """Checks that the manifest and the arrays go together.

        Raises:
            ValueError: If they don't.
            TypeError: If a part is of another type.
            AddressError: If there is no such array.
        """
        for value in self.plan.stored:
            array = self.reader.array(value.address)
            expected = (value.shape[1:], value.dtype)
            if (array.shape[1:], array.dtype.name) != expected:
                raise ValueError(f"{array!r} should have rows of {expected}")
        if not self.plan.stored:
            raise ValueError("nothing is stored")
        for name, axes in self.plan.padded.items():
            axis_count = self.reader.array(name).ndim
            if not axes or not all(1 <= axis < axis_count for axis in axes):
                raise ValueError(f"{name} can't be padded along axes {axes}")
        for name, columns in auxiliary_arrays(self.plan).items():
            array = self.reader.array(name)
            if (array.shape[1:], array.dtype.name) != ((len(columns),), "int32"):
                raise ValueError(f"{name} should have {len(columns)} whole numbers")
        if self.digested:
            array = self.reader.array(DIGESTS)
            if (array.ndim, array.dtype.name) != (1, "uint64"):
                raise ValueError(f"{array!r} are no digests")
        self._along(self._labels)
        self._along(self._weights)
        if self._ids not in (None, "number", "text"):
            raise ValueError(f"ids are no {self._ids!r}")
        if self._ids is not None:
            ids = self.reader.array(IDS)
            if ids.ndim != 1 + (self._ids == "text") or ids.dtype.kind not in "iu":
                raise ValueError(f"{ids!r} are no ids")

    def _value(self, name: str, within: tuple[str, ...]) -> LazyArray | JoinedArray:
        """Returns a value, made of others where it is not stored itself."""
        if name in self._values:
            return self._values[name]
        recipe = self.plan.recipes.get(name)
        if name in within or recipe == Recipe(()):
            raise ValueError(f"{name} is made of nothing else")
        if name not in self.plan.addresses:
            raise ValueError(f"{name} is no value of the plan")
        if recipe is None:
            found: LazyArray | JoinedArray = self.reader.array(name)
        else:
            parts = [self._value(part, (*within, name)) for part in recipe.addresses]
            found = parts[0] if len(parts) == 1 else JoinedArray(parts, recipe.axis)
        self._values[name] = found
        return found

    @property
    def rows(self) -> int:
        """The number of rows that are committed."""
        return self.reader.rows

    @property
    def complete(self) -> bool:
        """Whether the save has ended: all rows of the data are here."""
        return self.reader.complete

    @property
    def digested(self) -> bool:
        """Whether digests of the inputs are kept; the first stores have none."""
        return DIGESTS in self.reader.paths

    @property
    def bytes_on_disk(self) -> int | None:
        """The bytes of all files of the arrays, labels, ids and digests too.

        None for what is compressed in an object store, which does not tell.
        """
        sizes = [member.bytes_on_disk for member in self.reader.members()]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    @property
    def ids(self) -> NDArray[Any] | None:
        """The ids of the rows that were given to `save`, or None."""
        return None if self._ids is None else self.ids_of(slice(None))

    def ids_of(self, rows: slice | NDArray[np.intp]) -> NDArray[Any]:
        """Returns the ids of some rows.

        Args:
            rows: Which ones.

        Raises:
            AddressError: If no ids were given to `save`.
        """
        return self._decoded(self.reader.array(IDS)[rows])

    @property
    def labels(self) -> Any:
        """The labels that came with the data, as lazy arrays, or None."""
        return self._along(self._labels)

    @property
    def sample_weight(self) -> Any:
        """The weights of the samples that came with the data, likewise, or None."""
        return self._along(self._weights)

    def _along(self, paths: Any) -> Any:
        """Returns the arrays of labels or sample weights, in their structure.

        Raises:
            TypeError: If there is anything but paths in it.
            AddressError: If there is no such array.
        """
        for path in tree.leaves(paths):
            if not isinstance(path, str):
                raise TypeError(f"{path!r} should be the path of an array")
        return tree.mapped(self.reader.array, paths)

    @property
    def overflowed(self) -> dict[str, int]:
        """How many finite numbers became infinite by `dtype=`, by address, if any."""
        if not self.plan.narrowed:
            return {}
        counts = np.zeros(len(self.plan.narrowed), np.int64)
        array = self.reader.array(OVERFLOWED)
        for start in range(0, self.rows, self.reader.block_rows):
            part = array[start : min(start + self.reader.block_rows, self.rows)]
            counts += part.sum(axis=0, dtype=np.int64)
        return overflows(self.plan, counts)

    @functools.cached_property
    def statistics(self) -> Mapping[str, Statistics]:
        """What is known of the numbers of each value, by address.

        They were gathered while the values were saved, and are kept when a save has
        ended: of a store that is not complete, or that an older layertap wrote, there
        are none. Complex values have none.

        Raises:
            StoreCorruptError: If they are damaged.
        """
        found = self.reader.attributes.get(STATISTICS, {})
        try:
            kept = encoding.kept(self.plan, self.rows, found)
            return feature_axes.of_values(self.plan, kept)
        except _DAMAGED as error:
            raise self._damaged(error) from error

    def lengths(self, name: str) -> NDArray[Any]:
        """Returns the true sizes of the rows of a value that was padded.

        Args:
            name: Its address.

        Returns:
            One number for each row; or, if several axes were padded, one for each of
            them: `(rows, axes)`.

        Raises:
            AddressError: If there is no such value.
            OptionError: If it was not padded: its rows all have one size.
        """
        columns = length_columns(self.plan, name)
        return self.reader.array(LENGTHS)[:, columns]

    def __getitem__(self, name: str) -> LazyArray | JoinedArray:
        if name not in self.plan.addresses:
            raise unknown(name, self.plan)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.plan.addresses)

    def __len__(self) -> int:
        return len(self.plan.addresses)

    def before(self, join: str) -> dict[str, LazyArray | JoinedArray]:
        """Returns the branches of one join, by what made them, in their order.

        Args:
            join: The path of the join.

        Raises:
            AddressError: If there is no such join.
        """
        return {made_by: self[name] for made_by, name in branches(self.plan, join)}

    def batches(
        self, n: int, *, shuffle: bool = False, seed: int | None = None
    ) -> Iterator[Values]:
        """Yields all rows, so many at a time.

        Args:
            n: Rows per batch; the last one may have fewer.
            shuffle: Whether to go through the store's blocks of rows, and through the
                rows of each, in random order.
            seed: For the same random order again.

        Yields:
            Each batch as `Values`.
        """
        n = operator.index(n)
        if n < 1:
            raise OptionError(f"A batch has at least 1 row; found n={n}.")
        order = Order(
            range(self.rows), self.reader.block_rows, shuffle=shuffle, seed=seed
        )
        # Small batches are read some at a time.
        row_bytes = sum(self.reader.array(name).row_bytes for name in self.reader.paths)
        many = n * max(_READ_BYTES // (n * row_bytes), 1)
        for rows in self._pieces(order, many):
            values = self._read(rows)
            for start in range(0, values.rows, n):
                yield values.map(operator.itemgetter(slice(start, start + n)))

    def _pieces(self, order: Order, n: int) -> Iterator[slice | NDArray[np.intp]]:
        """Yields all rows, so many at a time, their blocks being read ahead."""
        blocks, ends = zip(*order.blocks(), strict=True) if len(order) else ((), ())
        start = 0
        for end, _ in zip(ends, self.reader.ahead(blocks), strict=True):
            while start + n <= end or start < end == len(order):
                yield order.rows(start, min(start + n, end))
                start += n

    def to_json(self) -> dict[str, Any]:
        """Returns what there is, as data for JSON."""
        return {
            "path": self.path,
            "rows": self.rows,
            "complete": self.complete,
            "bytes_on_disk": self.bytes_on_disk,
            "overflowed": self.overflowed,
            "statistics": {n: known.to_json() for n, known in self.statistics.items()},
            "identity": self.identity,
            "plan": self.plan.to_json(),
        }

    def _read(self, rows: slice | NDArray[np.intp]) -> Values:
        arrays = {
            value.address: self.reader.array(value.address)[rows]
            for value in self.plan.stored
        }
        labels, weights = (
            tree.mapped(lambda path: self.reader.array(path)[rows], paths)
            for paths in (self._labels, self._weights)
        )
        ids = None if self._ids is None else self.ids_of(rows)
        more = {
            name: self.reader.array(name)[rows] for name in auxiliary_arrays(self.plan)
        }
        return Values(self.plan, arrays, labels, ids, weights, more)

    def _decoded(self, ids: NDArray[Any]) -> NDArray[Any]:
        try:
            return text.decode(ids) if self._ids == "text" else ids
        except (UnicodeDecodeError, MemoryError) as error:
            raise StoreCorruptError(
                f"{self.path}: its ids are no UTF-8, or too long ({error}). Save the "
                "values again."
            ) from error

    def __repr__(self) -> str:
        state = "complete" if self.complete else "not complete"
        return (
            f"<layertap.Saved {self.path}: {len(self)} values, {self.rows:,} rows, "
            f"{state}>"
        )

    def _repr_html_(self) -> str:
        return tables.html(self.plan.table(self.rows))


def open(path: str | os.PathLike[str]) -> Saved:
    """Opens saved values. Nothing is read before an array is sliced.

    Keras is not needed. What is shown are the committed rows, also while a save runs
    or after it was killed.

    Args:
        path: The folder of the store.

    Returns:
        The values by address, as lazy arrays.

    Raises:
        NotAStoreError: If there is no store at the path.
        StoreFormatError: If a newer layertap wrote it.
        StoreCorruptError: If its manifest is damaged.

    Example:
    ```python
    saved = layertap.open("values.zarr")
    saved["fusion/in/0"][:100]
    ```
    """
    return Saved(path)
