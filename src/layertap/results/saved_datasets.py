"""Saved values as data sets for training, on each framework."""

from typing import TYPE_CHECKING, Any

from layertap.results.joined_array import JoinedArray
from layertap.results.saved_rows import SavedRows
from layertap.results.training import selection
from layertap.results.training.batches import Batches, Examples
from layertap.results.training.row_order import RowOrder
from layertap.results.training.selection import Globs

if TYPE_CHECKING:
    from layertap.results.training.keras import SavedDataset
    from layertap.results.training.torch import TorchDataset


class SavedDatasets(SavedRows):
    """Saved rows as data sets for training."""

    def dataset(
        self,
        before: Globs = None,
        *,
        outputs: Globs = None,
        joined: bool = False,
        inputs: Any = None,
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
                chosen join, for heads with a single input.
            inputs: Arrays with one entry for each row of the store, in any structure.
                Then they are `x`, and the values are `y`: another model learns to
                compute them. A dictionary of `labels` is added to them.
            batch_size: Rows per batch.
            shuffle: Whether to shuffle the store's blocks, and the rows in each block,
                differently in each epoch. `fit` also shuffles the batches of any
                `PyDataset`; pass it `shuffle=False` for exactly this order, and to
                read large stores from one end to the other. With `shuffle=False` here,
                `fit` gives batches of the same rows in random order.
            seed: Makes the random orders repeatable. `dataset.epoch` is the number of
                the current order; `fit` begins with 1, because it ends an epoch first.
            rows: Which rows to read, such as those for validation: a range, a slice, a
                list of row numbers (also repeated), or one boolean for each row.
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
        student.fit(saved.dataset("fusion", inputs=images))  # values as targets
        ```
        """
        from layertap.results.training.keras import SavedDataset

        parts = self._parts(before, outputs, joined, inputs, labels, sample_weight)
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
        inputs: Any = None,
        rows: Any = None,
        labels: Any = True,
        sample_weight: Any = True,
    ) -> "TorchDataset":
        """Returns the rows for a PyTorch `DataLoader`, on any backend of Keras.

        Args:
            before: See `dataset`.
            outputs: See `dataset`.
            joined: See `dataset`.
            inputs: See `dataset`.
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

        parts = self._parts(before, outputs, joined, inputs, labels, sample_weight)
        return TorchDataset(Examples(parts, self._order(rows)))

    def tf(
        self,
        before: Globs = None,
        *,
        outputs: Globs = None,
        joined: bool = False,
        inputs: Any = None,
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
            inputs: See `dataset`.
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

        parts = self._parts(before, outputs, joined, inputs, labels, sample_weight)
        examples = Examples(parts, self._order(rows, shuffle, seed))
        batches = Batches(examples, batch_size, drop_remainder)
        return dataset(batches, drop_remainder=drop_remainder)

    def grain(
        self,
        before: Globs = None,
        *,
        outputs: Globs = None,
        joined: bool = False,
        inputs: Any = None,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int | None = None,
        rows: Any = None,
        labels: Any = True,
        sample_weight: Any = True,
        drop_remainder: bool = False,
    ) -> Any:
        """Returns the batches as a `grain.MapDataset`, on any backend of Keras.

        Args:
            before: See `dataset`.
            outputs: See `dataset`.
            joined: See `dataset`.
            inputs: See `dataset`.
            batch_size: See `dataset`.
            shuffle: See `dataset`; after `.repeat()`, the order of each epoch differs.
            seed: See `dataset`.
            rows: See `dataset`.
            labels: See `dataset`.
            sample_weight: See `dataset`.
            drop_remainder: See `dataset`.

        Returns:
            A `grain.MapDataset` of batches. Its `mp_prefetch` reads in other processes.

        Raises:
            LayertapError: See `dataset`.
            BackendMissingError: If grain is not installed.

        Example:
        ```python
        data = saved.grain("fusion", shuffle=True)
        head.fit(data.repeat(), steps_per_epoch=len(data), epochs=5, shuffle=False)
        ```
        """
        from layertap.results.training.grain import GrainDataset

        parts = self._parts(before, outputs, joined, inputs, labels, sample_weight)
        examples = Examples(parts, self._order(rows, shuffle, seed))
        return GrainDataset(Batches(examples, batch_size, drop_remainder))

    def _parts(
        self,
        before: Globs,
        outputs: Globs,
        joined: bool,
        inputs: Any,
        labels: Any,
        weights: Any,
    ) -> tuple[Any, ...]:
        """Returns `(x,)`, `(x, y)` or `(x, y, sample_weight)` of all rows."""
        names = selection.select_addresses(self.plan, before, outputs)
        x: Any = {name: self[name] for name in names}
        if joined:
            branches, axis = selection.branches_of_join(self.plan, names)
            x = JoinedArray([self[name] for name in branches], axis)
        if inputs is not None:
            labels = selection.values_as_targets(x, labels)
            x = selection.row_arrays("inputs", inputs, self.rows)
        targets = selection.select_targets(self, labels, weights)
        return (x, *(part for part in targets if part is not None))

    def _order(
        self, rows: Any, shuffle: bool = False, seed: int | None = None
    ) -> RowOrder:
        chosen = selection.select_rows(rows, self.rows)
        return RowOrder(chosen, self.reader.block_rows, shuffle=shuffle, seed=seed)
