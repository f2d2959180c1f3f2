"""Strings: stored as arrays of bytes, which every reader of Zarr knows, and shown."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.errors import DataError


def encode(texts: Sequence[str]) -> NDArray[np.uint8]:
    """Encodes strings as rows of UTF-8 bytes, padded with zero bytes.

    A string that ends in a NUL would look padded; it is refused.

    Example:
    >>> encode(["a", "bc"]).tolist()
    [[97, 0], [98, 99]]
    """
    try:
        encoded = [text.encode() for text in texts]
    except UnicodeEncodeError as error:
        raise DataError(
            f"The id {error.object!r} is not Unicode text: {error.reason}. Rename it."
        ) from error
    for text, data in zip(texts, encoded, strict=True):
        if data.endswith(b"\0"):
            raise DataError(f"The id {text!r} ends in a NUL character. Remove it.")
    width = max([1, *map(len, encoded)])
    matrix = np.array(encoded, dtype=f"S{width}")
    return matrix.view(np.uint8).reshape(len(texts), width)


def decode(rows: NDArray[np.uint8]) -> NDArray[Any]:
    """Decodes the rows of `encode`: a NumPy array of strings."""
    return np.array([bytes(row).rstrip(b"\0").decode() for row in rows], np.str_)


def printable(text: object) -> str:
    """Returns a stranger's text without characters that a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in str(text))


def shorten(name: str, longest: int) -> str:
    """Returns a name as one line of text; the middle of a long one is left out."""
    half = longest // 2
    if len(name) > longest:
        name = f"{name[: longest - half - 1]}…{name[-half:]}"
    return printable(name).replace("\n", " ")


def counted(count: int, noun: str) -> str:
    """Formats a number of things: `1 value`, `1,797 rows`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def listed(names: Sequence[str], most: int = 8) -> str:
    """Formats the first of some names: `cat, dog, and 3 more`."""
    more = f", and {len(names) - most:,} more" * (len(names) > most)
    return f"{', '.join(names[:most])}{more}"
