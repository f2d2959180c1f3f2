"""Saved values: a store with its plan."""

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from layertap.core import tables, text
from layertap.core.values import unknown_address
from layertap.errors import AddressError
from layertap.results.manifest import STATISTICS, report_damage
from layertap.results.saved_datasets import SavedDatasets
from layertap.results.statistics import encoding, feature_axes, table
from layertap.results.statistics.moments import Statistics

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Saved(SavedDatasets):
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

    def to_arrow(self) -> Any:
        """Returns all rows as a stream of Arrow's record batches.

        Returns:
            A `pyarrow.RecordBatchReader`. It has a column for each value, by address,
            then ids, labels, sample weights and the true sizes of padded values. A row
            of a value is a flat list of its numbers; `shape` in the metadata of the
            field has their shape. Numbers of bfloat16 become float32, which has each
            of them. Some 16 MiB of rows are in memory at a time.

        Raises:
            OptionError: If a value has complex numbers.
            BackendMissingError: If pyarrow is not installed.

        Example:
        ```python
        table = saved.to_arrow().read_all()
        for batch in saved.to_arrow():
            batch["fusion/in/0"]
        ```
        """
        from layertap.results.views import arrow

        return arrow.reader(self)

    def to_pandas(self, address: str | None = None) -> Any:
        """Returns all rows in memory as a data frame.

        Args:
            address: The address of one value. By default all values, labels and sample
                weights.

        Returns:
            A `pandas.DataFrame`. Its index is the ids, if any, or the row numbers. Of
            one value, the columns are its numbers, flat; of all, they are pairs of
            address and number, so that `frame["fusion/in/0"]` is one value and
            `frame["labels"]` the labels. Numbers of bfloat16 become float32.

        Raises:
            AddressError: If there is no such value.
            BackendMissingError: If pandas is not installed.

        Example:
        ```python
        frame = saved.to_pandas()
        frame["fusion/in/0"].groupby(frame["labels"]).mean()
        ```
        """
        from layertap.results.views import pandas

        return pandas.frame(self, address)

    def to_xarray(self) -> Any:
        """Returns the values as a data set of xarray, which reads them as needed.

        Returns:
            An `xarray.Dataset` with a variable for each value, by address. Dimensions
            are `row` and, for the other axes, the address and the number of the axis;
            gradients and attributions have those of their values. Ids, labels and
            sample weights are coordinates.

        Raises:
            BackendMissingError: If xarray is not installed.

        Example:
        ```python
        values = saved.to_xarray()
        values["fusion/in/0"][:100].mean("row")
        values.groupby("labels").mean()
        ```
        """
        from layertap.results.views import xarray

        return xarray.dataset(self)

    def plot(self, address: str, rows: Any = None) -> "Figure":
        """Draws a value, a gradient or an attribution.

        Numbers, vectors and values of more than four axes are a histogram, with the
        mean and the deviation of each unit; dead units are marked. If the labels are
        integers of at most ten classes, each class has its own histogram. Sequences are
        a heat map of their mean, maps a picture of each channel of their mean.

        Args:
            address: The address of the value.
            rows: Which rows to draw one by one, as in `dataset`, or the number of one
                row. Vectors are curves, or a heat map for more than eight rows; of
                sequences and maps, up to eight rows are drawn. By default, a summary of
                all rows.

        Returns:
            A `matplotlib.figure.Figure`, which a notebook shows; `figure.savefig(path)`
            writes it. It is independent of `pyplot`: no window opens. Of large values,
            it shows rows that are spread evenly, and its title says how many. Numbers
            beyond 1e150 are drawn as infinite ones: not at all in curves, grey in
            pictures. Maps have their channels along the last axis, unless the plan
            says that they are first.

        Raises:
            AddressError: If there is no such value.
            OptionError: If `rows` does not choose rows of the store.
            BackendMissingError: If Matplotlib is not installed.

        Example:
        ```python
        saved.plot("fusion/in/0")  # a histogram by class, and the units
        saved.plot("conv/out", rows=[3, 14]).savefig("maps.png")
        ```
        """
        self[address]  # before its statistics are looked up
        from layertap.results.views import plot

        known = self.statistics.get(address)
        return plot.value_figure(self, address, rows, known)

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
            state += f", {text.counted(len(self.skipped), 'image')} skipped"
        if self.not_used:
            state += f", not used: {', '.join(map(repr, self.not_used))}"
        return f"<layertap.Saved {self.path}: {size}, {state}>"

    def _repr_html_(self) -> str:
        from layertap.results.views import display

        return display.display(
            self, lambda: self.bytes_on_disk, lambda: self.statistics
        )


class _KnownStatistics(tables.Tabular, dict[str, Statistics]):
    """Statistics by address, a table; the error for others says why there are none."""

    def __init__(self, saved: Saved, known: Mapping[str, Statistics]) -> None:
        super().__init__(known)
        self._saved = saved

    def __missing__(self, name: str) -> Statistics:
        saved = self._saved
        if name not in saved.plan.known:
            raise unknown_address(saved.plan, name)
        why = "its numbers are complex" if saved.complete else "the save has not ended"
        raise AddressError(f"{name} has no statistics: {why}.")

    def table(self) -> Table:
        """Returns the table for `rich` to print."""
        plan = self._saved.plan
        made_by = {
            value.address: value.made_by for value in (*plan.values, *plan.derived)
        }
        return table.table(self, made_by)


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
