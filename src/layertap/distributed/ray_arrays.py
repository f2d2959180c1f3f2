"""Arrays in Ray's object store, in pieces along their rows; a slice fetches its own.

Ray is imported when something is put or fetched, Keras only when arrays are put.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap.errors import DataError
from layertap.inputs.lazy_array import PiecewiseRows

PIECE_BYTES = 64 * 2**20


class RayArray(PiecewiseRows):
    """An array whose rows lie, piece after piece, in Ray's object store.

    A slice within one piece is a read-only view. The array can be pickled, and Ray
    keeps the pieces of an array that it sends. A `problem` is raised when rows are
    read: columns that nobody reads may have any form.
    """

    def __init__(
        self,
        refs: Sequence[Any],
        rows: Sequence[int],
        row_shape: Sequence[int],
        dtype: Any,
        problem: str | None = None,
    ) -> None:
        super().__init__(rows)
        self._problem = problem
        self._refs = list(refs)
        self.shape = (self.rows, *row_shape)
        self.dtype = np.dtype(dtype)

    def fetch(self, numbers: Sequence[int]) -> Sequence[NDArray[Any]]:
        """Fetches pieces together from Ray's object store."""
        if self._problem:
            raise DataError(self._problem)
        if not numbers:
            return []
        import ray

        return ray.get([self._refs[number] for number in numbers])


def put_array(array: Any, piece_bytes: int = PIECE_BYTES) -> RayArray:
    """Puts anything that is sliced by rows into Ray's object store, piece by piece."""
    import ray

    from layertap.inputs.convert import array_of

    total, *row_shape = map(int, array.shape)
    # An array without rows has a dtype, too.
    sample = array_of(array[:1])
    size = max(piece_bytes // max(sample.nbytes, 1), 1)
    refs, rows = [], []
    for start in range(0, total, size):
        part = array_of(array[start : min(start + size, total)])
        refs.append(ray.put(np.ascontiguousarray(part)))
        rows.append(len(part))
    return RayArray(refs, rows, row_shape, sample.dtype)


def dataset_columns(dataset: Any) -> dict[str, RayArray]:
    """Computes a `ray.data.Dataset`, and returns its columns in the pieces Ray made."""
    import ray

    # Rows keep the data set's order, if it has one: from files, or after sorting.
    options = dataset.context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        computed = dataset.materialize()
        names = list(computed.columns() or [])
        blocks = computed.to_numpy_refs() if names else []
    finally:
        options.preserve_order = before
    split: Any = ray.remote(_split_block).options(num_returns=1 + len(names))
    # One reference for each column: a reader of labels needs no images.
    split_blocks = [split.remote(block, names) for block in blocks]
    all_forms = ray.get([forms for forms, *_ in split_blocks])
    pieces = [
        list(zip(forms, refs, strict=True))
        for forms, (_, *refs) in zip(all_forms, split_blocks, strict=True)
        if forms is not None
    ]
    if not pieces:
        raise DataError("The ray.data.Dataset is empty. Expected at least one row.")
    return {
        name: _column(name, *zip(*column, strict=True))
        for name, column in zip(names, zip(*pieces, strict=True), strict=True)
    }


class _Form(NamedTuple):
    """The form of a column in one block.

    `odd` is the number of the first row that differs from row 0, and its form.
    """

    rows: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    odd: tuple[int, str] | None = None

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.row_shape}"


def _split_block(
    block: Mapping[str, NDArray[Any]], names: Sequence[str]
) -> tuple[Any, ...]:
    """Returns the forms of a block's columns, then each column; runs on Ray."""
    arrays = [np.asarray(block[name]) for name in names if name in block]
    if len(arrays) < len(names) or not all(map(len, arrays)):
        # A block without rows may lack columns, too.
        return (None,) * (1 + len(names))
    forms, columns = zip(*map(_join_rows, arrays), strict=True)
    return (list(forms), *columns)


def _join_rows(rows: NDArray[Any]) -> tuple[_Form, NDArray[Any]]:
    """Makes rows that are arrays, as lists of Arrow are, one array if they fit."""
    form = _Form(len(rows), rows.shape[1:], rows.dtype)
    if rows.dtype != object or not any(isinstance(row, np.ndarray) for row in rows):
        return form, rows
    arrays: list[NDArray[Any]] = []
    for number, row in enumerate(rows):
        inner, array = _join_rows(np.atleast_1d(row))
        arrays.append(array)
        first, shape = arrays[0], array.shape
        if inner.odd or (shape, array.dtype) != (first.shape, first.dtype):
            text = f"{array.dtype} of shape {shape}"
            if inner.odd or row is None:
                text = "None" if row is None else "lists of several forms"
            return _Form(len(rows), first.shape, first.dtype, (number, text)), rows
    joined = np.stack(arrays)
    return _Form(len(joined), joined.shape[1:], joined.dtype), joined


def _column(name: str, forms: Sequence[_Form], refs: Sequence[Any]) -> RayArray:
    first = forms[0]
    same = all(form.dtype == first.dtype for form in forms)
    dtype = first.dtype if same else np.dtype(object)
    rows = [form.rows for form in forms]
    return RayArray(refs, rows, first.row_shape, dtype, _problem(name, forms))


def _problem(name: str, forms: Sequence[_Form]) -> str | None:
    """Describes the first rows of two forms, if there are any."""
    first, start = forms[0], 0
    # These have any length.
    texts = all(form.dtype.kind in "OSU" for form in forms)
    for form in forms:
        fits = texts or form.dtype == first.dtype
        number, received = form.odd or (0, str(form))
        if form.odd or form.row_shape != first.row_shape or not fits:
            return (
                f"Column {name!r} of the ray.data.Dataset changes its form. Expected "
                f"{form if number else first}, as in row {start if number else 0}. "
                f"Received {received} in row {start + number}. Give its rows one form, "
                f"or drop it: dataset.drop_columns([{name!r}])."
            )
        start += form.rows
    return None
