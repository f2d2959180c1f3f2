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
    keeps the pieces of an array that it sends.
    """

    def __init__(
        self,
        refs: Sequence[Any],
        rows: Sequence[int],
        row_shape: Sequence[int],
        dtype: Any,
    ) -> None:
        super().__init__(rows)
        self._refs = list(refs)
        self.shape = (self.rows, *row_shape)
        self.dtype = np.dtype(dtype)

    def fetch(self, numbers: Sequence[int]) -> Sequence[NDArray[Any]]:
        """Fetches pieces together from Ray's object store."""
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
    """The form of a column in one block."""

    rows: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.dtype} of shape {(self.rows, *self.row_shape)}"


def _split_block(
    block: Mapping[str, NDArray[Any]], names: Sequence[str]
) -> tuple[Any, ...]:
    """Returns the forms of a block's columns, then each column; runs on Ray."""
    arrays = [np.asarray(block[name]) for name in names if name in block]
    if len(arrays) < len(names) or not all(map(len, arrays)):
        # A block without rows may lack columns, too.
        return (None,) * (1 + len(names))
    return ([_Form(len(a), a.shape[1:], a.dtype) for a in arrays], *arrays)


def _column(name: str, forms: Sequence[_Form], refs: Sequence[Any]) -> RayArray:
    first = forms[0]
    same = all(form.dtype == first.dtype for form in forms)
    # These have any length.
    texts = all(form.dtype.kind in "OSU" for form in forms)
    for form in forms:
        fits = texts or form.dtype == first.dtype
        if form.row_shape != first.row_shape or not fits:
            raise DataError(
                f"Column {name!r} of the ray.data.Dataset changes its form. Expected "
                f"{first}, as in its first block. Received {form}. Give its rows one "
                f"form, or drop it: dataset.drop_columns([{name!r}])."
            )
    dtype = first.dtype if same else np.dtype(object)
    return RayArray(refs, [form.rows for form in forms], first.row_shape, dtype)
