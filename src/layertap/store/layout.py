"""What a store looks like: its arrays, their sizes, the text of every `zarr.json`.

A store is a Zarr v3 group of arrays with one row each per sample. All arrays are cut
into the same blocks of rows; a block of one array is one shard, which is one file.
A shard is cut into chunks of rows, each with its own checksum. `shape[0]` of an array
is the number of its rows that are committed: nothing after them counts.

Nothing here touches a disk.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np

from layertap.errors import OptionError, StoreCorruptError

FORMAT = 1
DEFAULT_MEMORY = 512 * 2**20
METADATA_FILE = "zarr.json"

# In memory at a time: the block being filled, and two on their way to the disk.
BLOCKS_IN_MEMORY = 3
SHARD_BYTES = 32 * 2**20
CHUNK_BYTES = 256 * 2**10

DTYPES = {
    np.dtype(dtype).name: np.dtype(dtype)
    for dtype in (
        *(np.bool_, np.int8, np.int16, np.int32, np.int64),
        *(np.uint8, np.uint16, np.uint32, np.uint64),
        *(np.float16, ml_dtypes.bfloat16, np.float32, np.float64),
        *(np.complex64, np.complex128),
    )
}


@dataclass(frozen=True)
class ArraySpec:
    """An array to be stored.

    Args:
        path: Its place inside the group, `"fusion/in/0"`.
        shape: The shape of one row.
        dtype: A name: `bool`, `int*`, `uint*`, `float16`, `bfloat16`, `float32`,
            `float64`, `complex64` or `complex128`.
        attributes: What else is to be known of the array, as JSON.

    Raises:
        OptionError: If no such array can be stored.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if any(part in ("", ".", "..", METADATA_FILE) for part in parts):
            raise OptionError(
                f"{self.path!r} can't be the path of an array. "
                "A path is names joined by '/', such as 'fusion/in/0'."
            )
        if self.dtype not in DTYPES:
            raise OptionError(
                f"{self.path} has dtype {self.dtype}, which can't be stored. "
                f"Convert it to one of {', '.join(DTYPES)}."
            )
        if any(size < 1 for size in self.shape):
            raise OptionError(
                f"Rows of {self.path} have shape {self.shape}, which holds no values. "
                "Leave that array out."
            )

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype of the array in NumPy."""
        return DTYPES[self.dtype]

    @property
    def row_bytes(self) -> int:
        """The bytes of one row, not compressed."""
        return math.prod(self.shape) * self.numpy_dtype.itemsize


def rows_per_block(arrays: Sequence[ArraySpec], memory: int) -> int:
    """Returns how many rows a block has, the same for all arrays.

    Args:
        arrays: All arrays of the store.
        memory: Bytes that all blocks in memory may take together. One row is held
            whatever its size.
    """
    budget = memory // BLOCKS_IN_MEMORY // sum(array.row_bytes for array in arrays)
    shard = SHARD_BYTES // max(array.row_bytes for array in arrays)
    most = max(min(budget, shard), 1)
    chunks = (rows_per_chunk(array, most) for array in arrays)
    # All are powers of two, save those that are whole blocks.
    return most - most % max((rows for rows in chunks if rows < most), default=1)


def rows_per_chunk(array: ArraySpec, block_rows: int) -> int:
    """Returns how many rows a chunk of an array has: a divisor of `block_rows`.

    A chunk is a whole block if that is small. Else it has a power of two of rows, and
    at most a quarter of the block's, so that blocks can be cut to a multiple of it
    without becoming much smaller.
    """
    if block_rows * array.row_bytes <= CHUNK_BYTES:
        return block_rows
    most = min(CHUNK_BYTES // array.row_bytes, block_rows // 4)
    return 1 << (most.bit_length() - 1) if most else 1


@dataclass(frozen=True)
class ArrayLayout:
    """An array as it is stored.

    Args:
        spec: What was to be stored.
        rows: How many rows are committed.
        block_rows: Rows of one shard.
        chunk_rows: Rows of one chunk.
        compression: None or `"zstd"`.
    """

    spec: ArraySpec
    rows: int
    block_rows: int
    chunk_rows: int
    compression: str | None

    def metadata(self) -> dict[str, Any]:
        """Returns the contents of the array's `zarr.json`."""
        spec = self.spec
        # The order of bytes in an element means nothing where there is only one.
        bytes_codec = _BYTES if spec.numpy_dtype.itemsize > 1 else {"name": "bytes"}
        chunk_codecs: list[Any] = [bytes_codec, {"name": "crc32c"}]
        if self.compression is not None:
            chunk_codecs.insert(1, _COMPRESSORS[self.compression])
        sharding = {
            "chunk_shape": [self.chunk_rows, *spec.shape],
            "codecs": chunk_codecs,
            "index_codecs": [_BYTES, {"name": "crc32c"}],
            "index_location": "end",
        }
        name = PurePosixPath(spec.path).name
        axes = range(1, 1 + len(spec.shape))
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [self.rows, *spec.shape],
            "data_type": spec.dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [self.block_rows, *spec.shape]},
            },
            "chunk_key_encoding": {
                "name": "default",
                "configuration": {"separator": "."},
            },
            "fill_value": _FILL_VALUES.get(spec.numpy_dtype.kind, 0.0),
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            # Unlike each other: xarray takes axes of one name for the same axis.
            "dimension_names": ["row", *(f"{name}_{axis}" for axis in axes)],
            "attributes": dict(spec.attributes),
        }

    def shard(self, block: int) -> str:
        """Returns the name of the file that holds one block, in the array's folder."""
        return ".".join(["c", str(block)] + ["0"] * len(self.spec.shape))


_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_COMPRESSORS = {
    "zstd": {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
}
_FILL_VALUES: dict[str, Any] = {"b": False, "i": 0, "u": 0, "c": [0.0, 0.0]}


def lay_out(
    arrays: Sequence[ArraySpec], *, compression: str | None, memory: int
) -> list[ArrayLayout]:
    """Returns how arrays are to be stored, with no rows yet.

    Args:
        arrays: At least one array.
        compression: None or `"zstd"`.
        memory: Bytes that all blocks in memory may take together.

    Raises:
        OptionError: If these arrays can't be in one store, or there is no such
            compression.
    """
    if not arrays:
        raise OptionError("A store needs at least one array; found none.")
    if compression is not None and compression not in _COMPRESSORS:
        raise OptionError(
            f"There is no compression {compression!r}. "
            f"Choose None or one of {', '.join(map(repr, _COMPRESSORS))}."
        )
    if memory < 1:
        raise OptionError(f"`memory` is a number of bytes above 0; found {memory}.")
    _check_paths([array.path for array in arrays])
    block_rows = rows_per_block(arrays, memory)
    return [
        ArrayLayout(
            array, 0, block_rows, rows_per_chunk(array, block_rows), compression
        )
        for array in arrays
    ]


def _check_paths(paths: Sequence[str]) -> None:
    seen = set(paths)
    if len(seen) < len(paths):
        twice = sorted(path for path in seen if paths.count(path) > 1)
        raise OptionError(f"Two arrays have the path {twice[0]!r}. Rename one.")
    for path in paths:
        for parent in map(str, PurePosixPath(path).parents):
            if parent in seen:
                raise OptionError(
                    f"{parent!r} is an array, so {path!r} can't be inside it. "
                    "Rename one."
                )


def parse_layout(path: str, file: Path, metadata: Any) -> ArrayLayout:
    """Returns the layout that an array's `zarr.json` tells of.

    Args:
        path: The path of the array in its store.
        file: The file it was read from, for errors.
        metadata: Its contents.

    Raises:
        StoreCorruptError: If it isn't as layertap writes it.
    """
    try:
        rows, *shape = metadata["shape"]
        sharding = metadata["codecs"][0]["configuration"]
        names = [codec["name"] for codec in sharding["codecs"]]
        layout = ArrayLayout(
            ArraySpec(
                path, tuple(shape), metadata["data_type"], metadata["attributes"]
            ),
            rows,
            metadata["chunk_grid"]["configuration"]["chunk_shape"][0],
            sharding["chunk_shape"][0],
            next((name for name in names if name in _COMPRESSORS), None),
        )
        sound = rows >= 0 and 0 < layout.chunk_rows <= layout.block_rows
        # Other tools may have added to it, as zarr-python does on any change.
        if sound and layout.metadata().items() <= metadata.items():
            return layout
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        pass
    raise StoreCorruptError(
        f"{file} is not as layertap writes the metadata of an array. "
        "Restore it from a copy, or save the values again."
    )


def group_metadata(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the contents of a group's `zarr.json`."""
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": dict(attributes),
    }


def to_json(metadata: Mapping[str, Any]) -> bytes:
    """Returns the contents of a `zarr.json` as bytes.

    Raises:
        OptionError: If an attribute can't be written as JSON.
    """
    try:
        text = json.dumps(metadata, indent=2, ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError) as error:
        raise OptionError(f"Attributes have to be JSON: {error}.") from error
