"""Arrays of rows that are read when they are sliced, as data to save."""

import os
import re
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap.core.lru import LRU
from layertap.errors import DataError

# Rows may begin in one piece and end in the next.
_CACHED_PIECES = 2


class FileVersion(NamedTuple):
    """The facts of a file that change with its content."""

    size: int
    # In nanoseconds.
    changed: int
    number: int

    def __str__(self) -> str:
        return f"{self.size:,} bytes of {datetime.fromtimestamp(self.changed / 1e9)}"


# By path or URL; of an object, its generation or ETag.
Versions = Mapping[str, FileVersion | str]


def file_versions(files: Iterable[str | os.PathLike[str]]) -> Versions:
    """Returns the versions of those files that are there, by their paths."""
    versions = {}
    for file in files:
        with suppress(OSError):
            known = Path(file).stat()
            version = FileVersion(known.st_size, known.st_mtime_ns, known.st_ino)
            versions[os.fspath(file)] = version
    return versions


def versions_of(data: Any) -> Versions:
    """Returns the versions of the files or objects that data are read from, if any."""
    if isinstance(data, np.memmap):
        return file_versions([] if data.filename is None else [data.filename])
    return data.versions() if isinstance(data, FromFiles) else {}


class FromFiles:
    """Data that may be read from files, or from objects of a bucket."""

    def versions(self) -> Versions:
        """Returns the versions that its files or objects have now."""
        return {}


class LazyRows(FromFiles, ABC):
    """An array that is sliced along its first axis, and reads only those rows."""

    # Some know these once they are opened, by a `cached_property`.
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        wanted = range(*rows.indices(len(self)))
        if not wanted:
            return np.empty((0, *self.shape[1:]), self.dtype)
        array = self.read(min(wanted), max(wanted) + 1)
        return array if wanted.step == 1 else array[:: wanted.step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = self[:]
        return array if dtype is None else array.astype(dtype, copy=False)

    @abstractmethod
    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Reads rows, at least one of them, from `start` to before `stop`."""


class PiecewiseRows(LazyRows):
    """Rows in pieces, one after the other; the pieces used last are cached.

    Args:
        rows: The number of rows of each piece, at least one.
    """

    def __init__(self, rows: Iterable[int]) -> None:
        self._starts = list(accumulate(rows, initial=0))
        self.rows = self._starts[-1]
        self._cached: LRU[int, NDArray[Any]] = LRU(_CACHED_PIECES)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Fetches only the pieces with these rows, or finds them in the cache."""
        first = bisect_right(self._starts, start) - 1
        numbers = range(first, bisect_left(self._starts, stop))
        pieces: dict[int, Any] = {n: self._cached.get(n) for n in numbers}
        missing = [number for number, piece in pieces.items() if piece is None]
        for number, piece in zip(missing, self.fetch(missing), strict=True):
            pieces[number] = piece
            self._cached.put(number, piece)
        parts = [
            piece[max(start - self._starts[number], 0) : stop - self._starts[number]]
            for number, piece in pieces.items()
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @abstractmethod
    def fetch(self, numbers: Sequence[int]) -> Iterable[NDArray[Any]]:
        """Fetches the pieces of some numbers, maybe of none, in their order."""


@contextmanager
def reporting(problem: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns errors of a library that reads data into a DataError with the problem."""
    try:
        yield
    except errors as error:
        # Without the places in TensorStore's own source.
        why = re.split(r" \[(?:tensorstore_spec|source locations)", str(error))[0]
        raise DataError(f"{problem}: {why}") from error
