"""A store as data for training, on each framework. None is imported here."""

from typing import TYPE_CHECKING, Any, cast

from layertap.results.training.batches import Batches, Examples
from layertap.results.training.selection import Globs

if TYPE_CHECKING:
    from layertap.results.saved import Saved


class Trainable:
    """What a store gives to train on. Its methods are those of `Saved`."""

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
    ) -> Any:
        """Returns batches for `fit`, `evaluate` and `predict`, on any backend.

        They are read from disk as they are needed; values of at most 64 MiB in all are
        kept in memory. Of a store that is not complete, they are of the rows that were
        committed when it was opened.

        Args:
            before: Globs over paths of joins, whose branches are taken; `None` for all.
            outputs: Globs over paths of operations, whose outputs are taken instead,
                or as well if `before` is given. Of a store that has only outputs, all
                are taken by default.
            joined: Whether `x` is one array, the branches of one join concatenated as
                it does: for heads that know nothing of branches.
            batch_size: Rows per batch.
            shuffle: Whether to go through the store's blocks of rows, and through the
                rows of each, in random order, a new one in each epoch. `fit` shuffles
                the batches of any `PyDataset` once more, unless it is told
                `shuffle=False`: for exactly this order, and to read large stores from
                one end to the other, tell it so. Without `shuffle` here, `fit` by
                itself gives batches of the same rows, in random order.
            seed: For the same random orders again. `dataset.epoch` says which of them
                it is; `fit` begins with 1, for it ends an epoch first.
            rows: Which rows, as for validation: a range, a slice, a list of numbers
                (any of them more than once), or one boolean for each row.
            labels: True for those that were saved, if any; False for none, as for
                `predict`; or others: an array, or a dictionary or list of them, with
                one for each row of the store.
            sample_weight: Weights of the samples, likewise. Without labels there are
                none.
            drop_remainder: Whether a last batch that has fewer rows is left out.
            workers: As of `keras.utils.PyDataset`: with 2 or more, threads read ahead.
                Keras gives again what they have read ahead when a `fit` begins: where
                it first has to build the model's metrics, some batches come twice in
                the first epoch, in place of others.
            use_multiprocessing: As of `keras.utils.PyDataset`: processes read ahead.
            max_queue_size: As of `keras.utils.PyDataset`: by how many batches.

        Returns:
            A `keras.utils.PyDataset`. Its batches are `(x,)`, `(x, y)` or
            `(x, y, sample_weight)`; `x` is a dictionary, address -> array, sorted by
            address, as Keras flattens dictionaries.

        Raises:
            AddressError: If a glob matches nothing.
            OptionError: If `rows`, `batch_size` or `seed` make no sense.
            DataError: If labels or weights are not those of the rows.
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

        examples = Examples(
            cast("Saved", self),
            before,
            outputs=outputs,
            joined=joined,
            rows=rows,
            labels=labels,
            sample_weight=sample_weight,
            shuffle=shuffle,
            seed=seed,
        )
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
    ) -> Any:
        """Returns the rows for a PyTorch `DataLoader`, whatever Keras' backend is.

        Args:
            before: As of `dataset`, and so the others.
            outputs: Which outputs.
            joined: Whether they are one array.
            rows: Which rows.
            labels: Which labels.
            sample_weight: Which sample weights.

        Returns:
            A map-style `torch.utils.data.Dataset`. Its rows are those of the batches of
            `dataset`, as tensors, bfloat16 among them. A `DataLoader` reads each batch
            in one go; `collate_fn=data.collate` keeps it from being taken apart and put
            together again.

        Raises:
            LayertapError: As of `dataset`.
            BackendMissingError: If PyTorch is not installed.

        Example:
        ```python
        data = saved.torch("fusion")
        DataLoader(data, batch_size=32, shuffle=True, collate_fn=data.collate)
        ```
        """
        from layertap.results.training.torch import TorchDataset

        return TorchDataset(
            Examples(
                cast("Saved", self),
                before,
                outputs=outputs,
                joined=joined,
                rows=rows,
                labels=labels,
                sample_weight=sample_weight,
            )
        )

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
        """Returns the batches as a `tf.data.Dataset`, whatever Keras' backend is.

        On TensorFlow `fit` takes batches of small rows from it faster than from
        `dataset`, which Keras asks for one batch after the other, in Python.

        Args:
            before: As of `dataset`, and so the others.
            outputs: Which outputs.
            joined: Whether they are one array.
            batch_size: Rows per batch.
            shuffle: Whether they are in random order, a new one in each iteration.
            seed: For the same random orders again, from the first iteration on.
            rows: Which rows.
            labels: Which labels.
            sample_weight: Which sample weights.
            drop_remainder: Whether a last batch that has fewer rows is left out.

        Returns:
            A `tf.data.Dataset` with the shapes known, but for the number of rows, which
            is known with `drop_remainder`. It reads ahead.

        Raises:
            LayertapError: As of `dataset`.
            BackendMissingError: If TensorFlow is not installed.

        Example:
        ```python
        head.fit(saved.tf("fusion", shuffle=True), epochs=5)
        ```
        """
        from layertap.results.training.tensorflow import dataset

        examples = Examples(
            cast("Saved", self),
            before,
            outputs=outputs,
            joined=joined,
            rows=rows,
            labels=labels,
            sample_weight=sample_weight,
            shuffle=shuffle,
            seed=seed,
        )
        batches = Batches(examples, batch_size, drop_remainder)
        return dataset(batches, drop_remainder=drop_remainder)
