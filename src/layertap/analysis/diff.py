"""Compares two stores: which numbers differ, by how much, and where."""

import glob
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from layertap.analysis.comparison import Compared
from layertap.analysis.reports import Difference
from layertap.core import text, tolerance
from layertap.core.address import DIGESTS, IDS, LABELS, LENGTHS, SAMPLE_WEIGHT, match
from layertap.core.values import least_share
from layertap.errors import OptionError, StoreError, check_number
from layertap.results.saved import Saved
from layertap.results.saved import open as open_saved

# Numbers that are compared at a time: in 64 bits, and a few times, they take memory.
_AT_A_TIME = 2**19


def diff(
    a: Saved | str | os.PathLike[str],
    b: Saved | str | os.PathLike[str],
    *,
    rows: int | None = None,
    pairs: Mapping[str, str] | None = None,
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
        pairs: Renamed operations: paths or addresses in `a`, each with its name in `b`.

    Returns:
        The report: true if nothing differs beyond rounding.

    Raises:
        NotAStoreError: If a path has no store.
        AddressError: If a store has no value of a name in `pairs`.
        StoreCorruptError: If the compared rows are damaged.
        OptionError: If `rows` is less than one.

    Example:
    ```python
    report = layertap.diff("on_jax.zarr", "on_torch.zarr")
    assert report, report
    ```
    """
    rows = check_number("`rows`", rows, 1)
    first, second = open_saved(a), open_saved(b)
    names = _paired(first, second, pairs or {})
    compared = [_begin(name, names[name], first, second) for name in names]
    end = min(first.rows, second.rows, rows or first.rows)
    for block in _blocks(first, second, end):
        for comparison in compared:
            if not comparison.why:
                _compare(comparison, block, first, second)
    return Difference(
        (first.path, second.path),
        (first.rows, second.rows),
        compared,
        len({name for name in first if name not in names}),
        _identity(first, second),
        rows,
        _other_inputs(first, second, end),
    )


def _paired(first: Saved, second: Saved, pairs: Mapping[str, str]) -> dict[str, str]:
    """Returns the addresses to compare, each with the one in the second store.

    Values that are rebuilt alike in both are left out.
    """
    try:
        renamed = {new: name for name, new in pairs.items()}
        for saved, paired in ((first, pairs), (second, renamed)):
            known = sorted({start for name in saved for start in _starts(name)})
            match([*map(glob.escape, paired)], known, what="operation")
    except (AttributeError, TypeError) as error:
        raise OptionError(
            "`pairs` is invalid. Expected a dictionary: a name in the first store -> "
            f"its name in the second store. Received {pairs!r}."
        ) from error

    def rename(name: str) -> str:
        start = next((start for start in _starts(name) if start in renamed), "")
        return renamed.get(start, "") + name[len(start) :]

    names_of_b = _names(second)
    in_b = {rename(name): name for name in names_of_b}
    if len(in_b) < len(names_of_b) or len(renamed) < len(pairs):
        raise OptionError(
            "`pairs` gives two values one name. Expected one name in each store for "
            "each value."
        )
    recipes = {
        rename(name): replace(recipe, addresses=(*map(rename, recipe.addresses),))
        for name, recipe in second.plan.recipes.items()
    }
    alike = dict(first.plan.recipes.items() & recipes.items())
    names = dict.fromkeys([*_names(first), *in_b])
    return {name: in_b.get(name, "") for name in names if name not in alike}


def _starts(name: str) -> Iterator[str]:
    """Yields a name, and its parts before a slash, the longest first."""
    while name:
        yield name
        name = name.rpartition("/")[0]


def _names(saved: Saved) -> list[str]:
    """Returns the addresses of all values, and the paths of labels, ids and weights."""
    along = (IDS, LABELS, LENGTHS, SAMPLE_WEIGHT)
    paths = saved.reader.paths
    return [
        *saved.plan.known,
        *(path for path in paths if path.partition("/")[0] in along),
    ]


def _array(saved: Saved, name: str) -> Any:
    """Returns an array of a store, stored or rebuilt; None if it has no such array."""
    if name in saved.plan.known:
        return saved[name]
    return saved.reader.array(name) if name in saved.reader.paths else None


def _begin(name: str, name_in_b: str, first: Saved, second: Saved) -> Compared:
    """Begins the comparison at an address; fails it if no rows can be compared."""
    one, other = _array(first, name), _array(second, name_in_b)
    if one is None or other is None:
        only = "B" if one is None else "A"
        return Compared(name, verdict="different", why=f"only in {only}")
    comparison = Compared(
        name, dtypes=(one.dtype.name, other.dtype.name), name_in_b=name_in_b
    )
    both_texts = name == IDS and len(one.shape) == len(other.shape) == 2
    if one.shape[1:] != other.shape[1:] and not both_texts:
        comparison.verdict = "different"
        comparison.why = f"rows of {one.shape[1:]} in A, of {other.shape[1:]} in B"
    a, b = first.class_names, second.class_names
    if name == LABELS and a[: len(b)] != b[: len(a)]:
        comparison.verdict = "different"
        comparison.why = f"classes {text.listed(a)} in A, {text.listed(b)} in B"
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


def _share(comparison: Compared, first: Saved, second: Saved) -> float:
    """Returns the tolerance, relative to the largest number of a row.

    It is that of the dtype of the computation. A step of the stored dtype is added if
    that is coarser. Labels and ids are exact.
    """
    names = (comparison.address, comparison.name_in_b)
    if names[0] not in first.plan.known:
        return 0.0
    sides = [*zip((first, second), names, strict=True)]
    stored = [s[name].dtype.name for s, name in sides]
    computed = [s.plan.narrowed.get(name, s[name].dtype.name) for s, name in sides]
    fine = min(map(_step, computed))
    coarse = max(map(_step, stored))
    share = tolerance.ROUNDING * fine + (coarse if coarse > fine else 0.0)
    return max(share, least_share(first.plan, names[0]))


def _step(dtype: str) -> float:
    exact = dtype.startswith(("int", "uint", "bool"))
    return 0.0 if exact else tolerance.precision(dtype)


def _compare(comparison: Compared, block: range, first: Saved, second: Saved) -> None:
    """Compares the rows of a block, not too many numbers at a time."""
    name = comparison.address
    one, other = _array(first, name), _array(second, comparison.name_in_b)
    size = max(_AT_A_TIME // max(math.prod(one.shape[1:]), 1), 1)
    for start in range(block.start, block.stop, size):
        rows = slice(start, min(start + size, block.stop))
        if name == IDS and one.ndim == 2:
            comparison.add_texts(start, first.ids_of(rows), second.ids_of(rows))
            continue
        pair = one[rows], other[rows]
        try:
            comparison.add(start, *pair, _share(comparison, first, second))
        except MemoryError as error:
            raise StoreError(
                f"{name}: a row of {pair[0][0].size:,} numbers does not fit into memory"
                " several times, to be compared. Compare it on a larger machine."
            ) from error


def _other_inputs(first: Saved, second: Saved, end: int) -> int | None:
    """Counts the rows with other inputs, by their digests; None without rows."""
    count = 0
    for start in range(0, end, _AT_A_TIME):
        rows = slice(start, min(start + _AT_A_TIME, end))
        one, other = (saved.reader.array(DIGESTS)[rows] for saved in (first, second))
        count += int((one != other).sum())
    return count if end else None


def _identity(first: Saved, second: Saved) -> list[str]:
    """Lists the points in which two runs differ."""
    return [
        text.printable(f"{name}: A {one}, B {other}")
        for name in dict.fromkeys([*first.identity, *second.identity])
        if name not in (IDS, LABELS, SAMPLE_WEIGHT)
        for one, other in [(first.identity.get(name), second.identity.get(name))]
        if one != other
    ]
