"""Compares two stores: which numbers differ, by how much, and where."""

import math
import os
from collections.abc import Iterator
from typing import Any

from layertap.analysis.comparison import Compared
from layertap.analysis.reports import Difference
from layertap.core import text, tolerance
from layertap.core.address import IDS, LABELS, LENGTHS, SAMPLE_WEIGHT
from layertap.errors import StoreError, check_number
from layertap.results.saved import Saved

# Numbers that are compared at a time: in 64 bits, and a few times, they take memory.
_AT_A_TIME = 2**19


def diff(
    a: Saved | str | os.PathLike[str],
    b: Saved | str | os.PathLike[str],
    *,
    rows: int | None = None,
) -> Difference:
    """Compares the values of two stores, number by number.

    The stores may be of two backends, of a model before and after a change, or of two
    dtypes. A `float16` store is compared with a `float32` one in 64 bits: it is within
    rounding if all differences are those of its own precision. Neither the model nor
    Keras is needed.

    Args:
        a: A store, or its path.
        b: Another one.
        rows: How many rows to compare, from the first on; None for all that both have.

    Returns:
        The report: true if nothing differs beyond rounding.

    Raises:
        NotAStoreError: If a path has no store.
        StoreCorruptError: If the compared rows are damaged.
        OptionError: If `rows` is less than one.

    Example:
    ```python
    report = layertap.diff("on_jax.zarr", "on_torch.zarr")
    assert report, report
    ```
    """
    check_number("`rows`", rows, 1)
    first, second = (s if isinstance(s, Saved) else Saved(s) for s in (a, b))
    names = _names(first, second)
    compared = [_begin(name, first, second) for name in names]
    end = min(first.rows, second.rows, rows or first.rows)
    for block in _blocks(first, second, end):
        for comparison in compared:
            if not comparison.why:
                _compare(comparison, block, first, second)
    return Difference(
        (first.path, second.path),
        (first.rows, second.rows),
        compared,
        len(set(first) & set(second) - set(names)),
        _identity(first, second),
        rows,
    )


def _names(first: Saved, second: Saved) -> list[str]:
    """Returns the addresses to compare, without those rebuilt alike in both."""
    rebuilt = dict(first.plan.recipes.items() & second.plan.recipes.items())
    auxiliary = [
        name
        for saved in (first, second)
        for name in saved.reader.paths
        if name.partition("/")[0] in (IDS, LABELS, LENGTHS, SAMPLE_WEIGHT)
    ]
    names = dict.fromkeys([*first, *second, *auxiliary])
    return [name for name in names if name not in rebuilt]


def _array(saved: Saved, name: str) -> Any:
    """Returns an array of a store, stored or rebuilt; None if it has no such array."""
    if name in saved.plan.addresses:
        return saved[name]
    return saved.reader.array(name) if name in saved.reader.paths else None


def _begin(name: str, first: Saved, second: Saved) -> Compared:
    """Begins the comparison at an address; fails it if no rows can be compared."""
    one, other = _array(first, name), _array(second, name)
    if one is None or other is None:
        only = "B" if one is None else "A"
        return Compared(name, verdict="different", why=f"only in {only}")
    comparison = Compared(name, dtypes=(one.dtype.name, other.dtype.name))
    both_texts = name == IDS and len(one.shape) == len(other.shape) == 2
    if one.shape[1:] != other.shape[1:] and not both_texts:
        comparison.verdict = "different"
        comparison.why = f"rows of {one.shape[1:]} in A, of {other.shape[1:]} in B"
    return comparison


def _blocks(first: Saved, second: Saved, end: int) -> Iterator[range]:
    """Yields the rows of each block, read ahead in both stores if blocks are equal."""
    size = first.reader.block_rows
    blocks = range(-(-end // size))
    readers = [first.reader.ahead(blocks)]
    if second.reader.block_rows == size:
        readers.append(second.reader.ahead(blocks))
    for block, *_ in zip(*readers, strict=True):
        yield range(block * size, min((block + 1) * size, end))


def _share(name: str, first: Saved, second: Saved) -> float:
    """Returns the tolerance, relative to the largest number of a row.

    It is that of the dtype of the computation. A step of the stored dtype is added if
    that is coarser. Labels and ids are exact.
    """
    if name not in first.plan.addresses:
        return 0.0
    stored = [s[name].dtype.name for s in (first, second)]
    computed = [s.plan.narrowed.get(name, s[name].dtype.name) for s in (first, second)]
    fine = min(map(_step, computed))
    coarse = max(map(_step, stored))
    return tolerance.ROUNDING * fine + (coarse if coarse > fine else 0.0)


def _step(dtype: str) -> float:
    exact = dtype.startswith(("int", "uint", "bool"))
    return 0.0 if exact else tolerance.precision(dtype)


def _compare(comparison: Compared, block: range, first: Saved, second: Saved) -> None:
    """Compares the rows of a block, not too many numbers at a time."""
    name = comparison.address
    one, other = _array(first, name), _array(second, name)
    size = max(_AT_A_TIME // max(math.prod(one.shape[1:]), 1), 1)
    for start in range(block.start, block.stop, size):
        rows = slice(start, min(start + size, block.stop))
        if name == IDS and one.ndim == 2:
            comparison.add_texts(start, first.ids_of(rows), second.ids_of(rows))
            continue
        pair = one[rows], other[rows]
        try:
            comparison.add(start, *pair, _share(name, first, second))
        except MemoryError as error:
            raise StoreError(
                f"{name}: a row of {pair[0][0].size:,} numbers does not fit into memory"
                " several times, to be compared. Compare it on a larger machine."
            ) from error


def _identity(first: Saved, second: Saved) -> list[str]:
    """Lists the points in which two runs differ."""
    return [
        text.printable(f"{name}: A {one}, B {other}")
        for name in dict.fromkeys([*first.identity, *second.identity])
        if name not in (IDS, LABELS, SAMPLE_WEIGHT)
        for one, other in [(first.identity.get(name), second.identity.get(name))]
        if one != other
    ]
