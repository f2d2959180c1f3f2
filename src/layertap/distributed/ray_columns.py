"""The columns of a `ray.data.Dataset`, as arrays in the pieces that Ray cut."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap.distributed.ray_arrays import Pieces
from layertap.errors import DataError

TEXT = "OSU"


class _Form(NamedTuple):
    """What a column is like in one block."""

    rows: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.dtype} of shape {(self.rows, *self.row_shape)}"

    def like(self, other: "_Form") -> bool:
        """Whether both can be rows of one array. Texts have any length."""
        texts = self.dtype.kind in TEXT and other.dtype.kind in TEXT
        return self.row_shape == other.row_shape and (
            texts or self.dtype == other.dtype
        )


def columns_of(dataset: Any) -> dict[str, Pieces]:
    """Computes a data set, and returns its columns by name.

    Rows have the order that Ray gives them: where the data set itself has one, as after
    reading files or sorting, it is kept.

    Args:
        dataset: The `ray.data.Dataset`.

    Raises:
        DataError: If it is empty, or a column is not alike in all of its blocks.
    """
    import ray

    options = dataset.context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        computed = dataset.materialize()
        names = list(computed.columns() or [])
        blocks = computed.to_numpy_refs()
    finally:
        options.preserve_order = before
    cut: Any = ray.remote(_cut).options(num_returns=1 + len(names))
    forms, parts = [], []
    for block in blocks if names else []:
        # One reference for each column, for who reads labels needs no images.
        form, *arrays = cut.remote(block, names)
        forms.append(form)
        parts.append(arrays)
    found = [
        (form, arrays)
        for form, arrays in zip(ray.get(forms), parts, strict=True)
        if form is not None
    ]
    if not found:
        raise DataError("The ray.data.Dataset is empty: it has not one row.")
    return {
        name: _column(
            name,
            [block_forms[i] for block_forms, _ in found],
            [arrays[i] for _, arrays in found],
        )
        for i, name in enumerate(names)
    }


def _cut(
    block: Mapping[str, NDArray[Any]], names: Sequence[str]
) -> tuple[Any, ...] | Any:
    """Returns the forms of a block's columns, then each column; runs on Ray."""
    arrays = [np.asarray(block[name]) if name in block else None for name in names]
    whole = [array for array in arrays if array is not None and len(array)]
    if len(whole) < len(names):
        # A block without rows may lack columns, too.
        return (None,) * (1 + len(names))
    forms = [_Form(len(array), array.shape[1:], array.dtype) for array in whole]
    return (forms, *whole)


def _column(name: str, forms: Sequence[_Form], refs: Sequence[Any]) -> Pieces:
    first = forms[0]
    for form in forms[1:]:
        if not form.like(first):
            raise DataError(
                f"Column {name!r} of the ray.data.Dataset is {first} in its first "
                f"block, and {form} in another. Make its rows alike, or drop it: "
                f"dataset.drop_columns([{name!r}])."
            )
    alike = {form.dtype for form in forms} == {first.dtype}
    dtype = first.dtype if alike else np.dtype(object)
    return Pieces(refs, [form.rows for form in forms], first.row_shape, dtype)
