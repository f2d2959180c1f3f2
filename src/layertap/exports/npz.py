"""NumPy's archive: a `.npy` member for each value, streamed, without pickle."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from layertap.exports.content import NUMBERS, Content, raw
from layertap.results.views.columns import Column

# The member with the metadata, as JSON. No address is called so.
METADATA = "metadata"


def write(content: Content, path: Path) -> None:
    """Writes a file that `numpy.load` reads."""
    columns = content.columns((*NUMBERS, "complex64", "complex128"), "NumPy")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        metadata = np.array(json.dumps(content.metadata))
        with _member(archive, METADATA, (), metadata.dtype) as member:
            member.write(raw(metadata))
        for column in columns:
            dtype = _text_dtype(content, column) if column.is_text else column.dtype
            shape = (content.rows, *column.shape)
            with _member(archive, column.name, shape, dtype) as member:
                for (array,) in content.pieces([column]):
                    member.write(raw(array.astype(dtype, copy=False)))


def _member(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Any:
    """Opens a member for its numbers, of any size; the header is written."""
    member = archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)
    descr = npy.dtype_to_descr(dtype)
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(member, header)
    return member


def _text_dtype(content: Content, column: Column) -> np.dtype[Any]:
    """Returns the dtype of the longest text; all are read for it."""
    widths = [array.dtype.itemsize // 4 for (array,) in content.pieces([column])]
    return np.dtype(f"U{max([1, *widths])}")
