"""Saved values: a store with its plan."""

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layertap.core import tables
from layertap.core.values import unknown_address
from layertap.errors import AddressError
from layertap.results.joined_array import JoinedArray
from layertap.results.manifest import STATISTICS, report_damage
from layertap.results.saved_rows import SavedRows
from layertap.results.statistics import encoding, feature_axes
from layertap.results.statistics.moments import Statistics
from layertap.results.training import selection
from layertap.results.training.batches import Batches, Examples
from layertap.results.training.row_order import RowOrder
from layertap.results.training.selection import Globs

if TYPE_CHECKING:
    from layertap.results.training.keras import SavedDataset
    from layertap.results.training.torch import TorchDataset


class Saved(SavedRows):
    """Values on disk, by address: a read-only mapping of lazy arrays.

    Slicing an array reads those rows: `saved["fusion/in/0"][10:20]`.

    Args:
        path: The folder of the store.

    Attributes:
        path: The folder of the store, as it was passed.
        plan: The `Plan` of the values.
        identity: What makes two runs the same: model, versions, options.
        labels: The labels that came with the data, as lazy arrays, or None.
        sample_weight: The sample weights that came with the data, in the same form.
        class_names: What the numbers among the labels stand for, if those were strings,
            or the data a folder of images.
        skipped: The images that could not be decoded and were left out, and why.
        passed_over: How many other files the folder of images has, by suffix.
        not_used: The columns of the data that were used for nothing.
        complete: Whether the save has finished: the store has all rows of the data.
        reader: The store itself, for arrays other than values.
    """

    @property
    def bytes_on_disk(self) -> int | None:
        """The bytes of all files of the arrays, labels, ids and digests too.

        None for a compressed store in an object store, which does not report them.
        """
        sizes = [size.bytes for size in self.reader.sizes().values()]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    @functools.cached_property
    def statistics(self) -> Mapping[str, Statistics]:
        """The `Statistics` of each value, by address.

        They are gathered during the save, and stored when it finishes: a store that is
        not complete has none. Complex values have none.

        Raises:
            StoreCorruptError: If they are damaged.
            AddressError: For a value without statistics, when it is looked up.
        """
        texts = self.reader.attributes.get(STATISTICS, {})
        with report_damage(self.path):
            stored = encoding.decode_all(self.plan, self.rows, texts)
            known = feature_axes.derive_statistics(self.plan, stored)
            return _KnownStatistics(self, known)

    def dataset(
        self,
        before: Globs = None,
        *,
        outputs: Globs = None,
        joined: bool = False,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int | None = None,
        rows: Any = None,
        labels: Any = True,
        sample_weight: Any = True,
        drop_remainder: bool = False,
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
    ) -> "SavedDataset":
        """Returns batches for `fit`, `evaluate` and `predict`, on any backend.

        Batches are read from disk when Keras asks for them; values of at most 64 MiB in
        all are cached in memory. An incomplete store gives the rows that were committed
        when it was opened.

        Args:
            before: Globs over paths of joins, whose branches are `x`; None for all.
            outputs: Globs over paths of operations, whose outputs are `x`; with
                `before`, both are. By default, all outputs of a store without joins.
            joined: Whether `x` is one array: the concatenated branches of the one
                chosen join, for heads that know nothing of branches.
            batch_size: Rows per batch.
            shuffle: Whether to shuffle the store's blocks, and the rows in each block,
                differently in each epoch. `fit` also shuffles the batches of any
                `PyDataset`; pass it `shuffle=False` for exactly this order, and to
                read large stores from one end to the other. With `shuffle=False` here,
                `fit` gives batches of the same rows in random order.
            seed: Makes the random orders repeatable. `dataset.epoch` is the number of
                the current order; `fit` begins with 1, because it ends an epoch first.
            rows: Which rows, for validation say: a range, a slice, a list of row
                numbers (also repeated), or one boolean for each row.
            labels: True for the saved labels, if any; False for none, as for `predict`;
                or an array, or a dictionary or list of arrays, with one entry for each
                row of the store.
            sample_weight: Sample weights, in the same forms. Without labels there are
                none.
            drop_remainder: Whether to leave out a last batch with fewer rows.
            workers: See `keras.utils.PyDataset`: with 2 or more, threads read ahead.
                If `fit` has to build the model's metrics first, its first epoch
                repeats batches that were read ahead, in place of others.
            use_multiprocessing: See `keras.utils.PyDataset`: processes read ahead.
            max_queue_size: See `keras.utils.PyDataset`: how many batches to read ahead.

        Returns:
            A `keras.utils.PyDataset`. Its batches are `(x,)`, `(x, y)` or
            `(x, y, sample_weight)`; `x` is a dictionary, address -> array, in the order
            of the joins and their branches. (A function that JAX compiles gets the
            keys of a dictionary sorted: take branches by address there.)

        Raises:
            AddressError: If a glob matches nothing.
            OptionError: If `rows`, `batch_size`, `seed` or `joined` can't be used.
            DataError: If labels or weights don't match the rows.
            BackendMissingError: If Keras' backend is not installed.

        Example:
        ```python
        train = saved.dataset("fusion", rows=range(0, 50_000), shuffle=True)
        valid = saved.dataset("fusion", rows=range(50_000, 60_000))
        head.fit(train, validation_data=valid, epochs=5)
        head.predict(saved.dataset("fusion", labels=False))
        ```
        """
        from layertap.results.training.keras import SavedDataset

        parts = self._parts(before, outputs, joined, labels, sample_weight)
        examples = Examples(parts, self._order(rows, shuffle, seed))
        return SavedDataset(
            Batches(examples, batch_size, drop_remainder),
            workers=workers,
            use_multiprocessing=use_multiprocessing,
            max_queue_size=max_queue_size,
        )

    def torch(
        self,
        before: Globs = None,
        *,
        outputs: Globs = None,
        joined: bool = False,
        rows: Any = None,
        labels: Any = True,
        sample_weight: Any = True,
    ) -> "TorchDataset":
        """Returns the rows for a PyTorch `DataLoader`, on any backend of Keras.

        Args:
            before: See `dataset`.
            outputs: See `dataset`.
            joined: See `dataset`.
            rows: See `dataset`.
            labels: See `dataset`.
            sample_weight: See `dataset`.

        Returns:
            A map-style `torch.utils.data.Dataset`. Its rows are those of the batches of
            `dataset`, as tensors, bfloat16 too. A `DataLoader` reads each batch at
            once; with `collate_fn=data.collate`, it does not split and stack it again.

        Raises:
            LayertapError: See `dataset`.
            BackendMissingError: If PyTorch is not installed.

        Example:
        ```python
        data = saved.torch("fusion")
        DataLoader(data, batch_size=32, shuffle=True, collate_fn=data.collate)
        ```
        """
        from layertap.results.training.torch import TorchDataset

        parts = self._parts(before, outputs, joined, labels, sample_weight)
        return TorchDataset(Examples(parts, self._order(rows)))

    def tf(
        self,
        before: Globs = None,
        *,
        outputs: Globs = None,
        joined: bool = False,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int | None = None,
        rows: Any = None,
        labels: Any = True,
        sample_weight: Any = True,
        drop_remainder: bool = False,
    ) -> Any:
        """Returns the batches as a `tf.data.Dataset`, on any backend of Keras.

        On TensorFlow, `fit` reads batches of small rows faster from it than from
        `dataset`, where Python returns each batch.

        Args:
            before: See `dataset`.
            outputs: See `dataset`.
            joined: See `dataset`.
            batch_size: See `dataset`.
            shuffle: See `dataset`; the order differs in each iteration.
            seed: See `dataset`; it repeats the orders from the first iteration on.
            rows: See `dataset`.
            labels: See `dataset`.
            sample_weight: See `dataset`.
            drop_remainder: See `dataset`.

        Returns:
            A `tf.data.Dataset` that reads ahead. All sizes in its shapes are known,
            that of the batch only with `drop_remainder`.

        Raises:
            LayertapError: See `dataset`.
            BackendMissingError: If TensorFlow is not installed.

        Example:
        ```python
        head.fit(saved.tf("fusion", shuffle=True), epochs=5)
        ```
        """
        from layertap.results.training.tensorflow import dataset

        parts = self._parts(before, outputs, joined, labels, sample_weight)
        examples = Examples(parts, self._order(rows, shuffle, seed))
        batches = Batches(examples, batch_size, drop_remainder)
        return dataset(batches, drop_remainder=drop_remainder)

    def _parts(
        self, before: Globs, outputs: Globs, joined: bool, labels: Any, weights: Any
    ) -> tuple[Any, ...]:
        """Returns `(x,)`, `(x, y)` or `(x, y, sample_weight)` of all rows."""
        names = selection.select_addresses(self.plan, before, outputs)
        x: Any = {name: self[name] for name in names}
        if joined:
            branches, axis = selection.branches_of_join(self.plan, names)
            x = JoinedArray([self[name] for name in branches], axis)
        targets = selection.select_targets(self, labels, weights)
        return (x, *(part for part in targets if part is not None))

    def _order(
        self, rows: Any, shuffle: bool = False, seed: int | None = None
    ) -> RowOrder:
        chosen = selection.select_rows(rows, self.rows)
        return RowOrder(chosen, self.reader.block_rows, shuffle=shuffle, seed=seed)

    def to_json(self) -> dict[str, Any]:
        """Returns a description of the saved values as data for JSON."""
        return {
            "path": self.path,
            "rows": self.rows,
            "complete": self.complete,
            "bytes_on_disk": self.bytes_on_disk,
            "overflowed": self.overflowed,
            **self.notes,
            "statistics": {n: known.to_json() for n, known in self.statistics.items()},
            "identity": self.identity,
            "plan": self.plan.to_json(),
        }

    def __repr__(self) -> str:
        state = "complete" if self.complete else "not complete"
        size = f"{len(self)} values, {self.rows:,} rows"
        if self.skipped:
            state += f", {tables.counted(len(self.skipped), 'image')} skipped"
        if self.not_used:
            state += f", not used: {', '.join(map(repr, self.not_used))}"
        return f"<layertap.Saved {self.path}: {size}, {state}>"


class _KnownStatistics(dict[str, Statistics]):
    """Statistics by address; the error for others says why there are none."""

    def __init__(self, saved: Saved, known: Mapping[str, Statistics]) -> None:
        super().__init__(known)
        self._saved = saved

    def __missing__(self, name: str) -> Statistics:
        saved = self._saved
        if name not in saved.plan.known:
            raise unknown_address(saved.plan, name)
        why = "its numbers are complex" if saved.complete else "the save has not ended"
        raise AddressError(f"{name} has no statistics: {why}.")


def open(path: Saved | str | os.PathLike[str]) -> Saved:
    """Opens saved values; an array is read when it is sliced. Keras is not needed.

    Only committed rows are visible, also during a save or after one was killed.

    Args:
        path: The folder of the store, or its URL. Open values stay as they are.

    Returns:
        The values by address, as lazy arrays.

    Raises:
        NotAStoreError: If there is no store at the path.
        StoreFormatError: If a newer layertap wrote it.
        StoreCorruptError: If its manifest is damaged.
        OptionError: If this is neither saved values nor a path.

    Example:
    ```python
    saved = layertap.open("values.zarr")
    saved["fusion/in/0"][:100]
    ```
    """
    return path if isinstance(path, Saved) else Saved(path)
