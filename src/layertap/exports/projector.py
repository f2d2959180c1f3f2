"""The embedding projector: vectors and metadata, as texts with tabs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from layertap.core.address import LABELS
from layertap.exports.content import NUMBERS, Array, Content
from layertap.results.views.columns import Column

# The bytes of numbers that are text at a time; the text has some times as many.
_PIECE_BYTES = 2**20


def metadata_path(path: Path) -> Path:
    """Returns the path of the metadata: `x.metadata.tsv` for `x.tsv`."""
    return path.with_suffix(".metadata.tsv")


def write(content: Content, path: Path) -> None:
    """Writes the vectors and, if anything came with the data, the metadata."""
    columns = content.columns(NUMBERS, "the embedding projector")
    vectors = [column for column in columns if column.facts]
    others = [column for column in columns if not column.facts]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for piece in content.pieces(vectors, _PIECE_BYTES):
            _write_lines(file, [_cells_of_numbers] * len(piece), piece)
    if not others:
        return
    cells = [_cells(content, column) for column in others]
    with metadata_path(path).open("w", encoding="utf-8", newline="\n") as file:
        # The projector wants the names of columns only where there are several.
        if len(others) > 1:
            file.write("\t".join(column.name for column in others) + "\n")
        for piece in content.pieces(others, _PIECE_BYTES):
            _write_lines(file, cells, piece)


def _write_lines(
    file: TextIO, cells: list[Callable[[Any], list[str]]], piece: list[Array]
) -> None:
    """Writes a line for each row: the cells of all arrays, side by side."""
    for rows in zip(*piece, strict=True):
        line = [
            text for make, row in zip(cells, rows, strict=True) for text in make(row)
        ]
        file.write("\t".join(line) + "\n")


def _cells_of_numbers(row: Any) -> list[str]:
    """Returns the shortest texts that are read back as the same numbers."""
    numbers = np.reshape(row, -1)
    # The projector knows no booleans.
    return list(map(str, numbers.astype(np.uint8) if row.dtype == bool else numbers))


def _cells(content: Content, column: Column) -> Callable[[Any], list[str]]:
    """Returns the function that makes one cell of a row of metadata."""
    classes = content.saved.class_names

    def in_one_line(text: str) -> list[str]:
        return [" ".join(text.splitlines()).replace("\t", " ")]

    def class_name(row: Any) -> list[str]:
        known = 0 <= row < len(classes)
        return in_one_line(classes[row]) if known else [str(row)]

    if column.is_text:
        return in_one_line
    if column.name == LABELS and not column.shape and column.dtype.kind in "iu":
        return class_name
    return lambda row: [" ".join(_cells_of_numbers(row))]
