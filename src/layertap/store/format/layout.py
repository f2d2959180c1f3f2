"""The layout of a store: its arrays, their sizes, and every `zarr.json`.

A store is a Zarr v3 group of arrays with one row per sample. All arrays are cut into
the same blocks of rows. A block of one array is a shard: one file of several chunks.
The rows up to `shape[0]` of an array are committed; rows after them do not count.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np

from layertap.errors import OptionError
from layertap.store.format.digests import DIGITS, digest_json
from layertap.store.format.zarr_json import BLOCKS, METADATA_FILE, OURS, SEAL, WRITER

# The folder of the records of blocks that workers wrote. No address begins so.
RECORDS = "~blocks"

# No file system has longer paths.
_LONGEST_PATH, _MOST_PARTS = 4096, 256

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
    """An array to be stored: its path in the group, and the shape of one row."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_path(self.path)
        if self.dtype not in DTYPES:
            raise OptionError(
                f"{self.path} has a dtype that can't be stored. Expected one of "
                f"{', '.join(DTYPES)}. Received {self.dtype}. Convert the array."
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
        """The bytes of one uncompressed row."""
        return math.prod(self.shape) * self.numpy_dtype.itemsize


@dataclass(frozen=True)
class ArrayLayout:
    """An array as it is stored."""

    spec: ArraySpec
    # Those that are committed.
    rows: int
    block_rows: int
    chunk_rows: int
    compression: str | None
    # The identifier in the root of its store.
    store: str = ""
    # Of the committed rows of each block, one after the other.
    digests: str = ""
    # Those that other programs added.
    foreign_attributes: Mapping[str, Any] = field(default_factory=dict)
    # In a bucket, the mark of its last writer.
    writer: str = ""

    @property
    def chunks(self) -> int:
        """The number of chunks of a full block."""
        return self.block_rows // self.chunk_rows

    @property
    def blocks(self) -> int:
        """The number of blocks with committed rows."""
        return -(-self.rows // self.block_rows)

    def row_range(self, block: int) -> range:
        """Returns the committed rows of a block."""
        first = block * self.block_rows
        return range(first, min(first + self.block_rows, self.rows))

    def digest(self, block: int) -> str:
        """Returns the digest of the committed rows of a block."""
        return self.digests[block * DIGITS : (block + 1) * DIGITS]

    def committed(self, block: int, rows: int, digests: str) -> "ArrayLayout":
        """Returns the layout with `rows` rows, and digests from a block on."""
        kept = self.digests[: block * DIGITS]
        return replace(self, rows=rows, digests=kept + digests)

    def metadata(self) -> dict[str, Any]:
        """Returns the content of the array's `zarr.json`."""
        structure = self.structure()
        ours = {**self.spec.attributes, BLOCKS: self.digests}
        if self.writer:
            ours[WRITER] = self.writer
        ours[SEAL] = digest_json([self.store, self.spec.path, structure, ours])
        return structure | {"attributes": {**self.foreign_attributes, OURS: ours}}

    def structure(self) -> dict[str, Any]:
        """Returns the content of the array's `zarr.json`, but for its attributes."""
        spec = self.spec
        # Elements of one byte have no byte order.
        bytes_codec = _BYTES if spec.numpy_dtype.itemsize > 1 else {"name": "bytes"}
        chunk_codecs: list[Any] = [bytes_codec, {"name": "crc32c"}]
        if self.compression is not None:
            chunk_codecs.insert(1, CODECS[self.compression])
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
            # All different: to xarray, axes of one name are the same axis.
            "dimension_names": ["row", *(f"{name}_{axis}" for axis in axes)],
        }

    def shard_name(self, block: int) -> str:
        """Returns the name of the file of a block, in the array's folder."""
        return ".".join(["c", str(block)] + ["0"] * len(self.spec.shape))

    @property
    def metadata_file(self) -> str:
        """The name of the array's `zarr.json` in the store."""
        return f"{self.spec.path}/{METADATA_FILE}"

    def shard_file(self, block: int) -> str:
        """Returns the name of the file of a block, in the store."""
        return f"{self.spec.path}/{self.shard_name(block)}"

    def shard_sizes(self, rows: int) -> range:
        """Returns the possible sizes in bytes of a shard with at least `rows` rows."""
        chunks = -(-rows // self.chunk_rows)
        chunk = self.chunk_rows * self.spec.row_bytes
        index = 16 * self.chunks + 4
        least, most = chunk + 4, chunk + 4
        if self.compression is not None:
            # Zstandard makes four bytes of 128 KiB at best, and at worst adds a little.
            least, most = chunk >> 15, chunk + (chunk >> 7) + 512
        return range(index + chunks * least, index + self.chunks * most + 1)


_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
ZSTD_LEVEL = 1
CODECS = {
    "zstd": {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}}
}
_FILL_VALUES: dict[str, Any] = {"b": False, "i": 0, "u": 0, "c": [0.0, 0.0]}


# Those of all arrays of a store.
Layouts = Sequence[ArrayLayout]


def disk_size(layouts: Layouts, blocks: Iterable[range]) -> tuple[int, int]:
    """Returns how many shards blocks of rows take, and their uncompressed bytes."""
    plain = [replace(layout, compression=None) for layout in layouts]
    # All blocks but the last are alike.
    counts = Counter(map(len, blocks))
    size = sum(
        count * layout.shard_sizes(rows)[0]
        for rows, count in counts.items()
        for layout in plain
    )
    return counts.total() * len(plain), size


def check_paths(paths: Sequence[str]) -> None:
    """Raises OptionError if arrays can't be in one store, or lead out of it."""
    for path in paths:
        _check_path(path)
    seen = set(paths)
    if len(seen) < len(paths):
        twice = min(path for path, count in Counter(paths).items() if count > 1)
        raise OptionError(f"Two arrays have the path {twice!r}. Rename one.")
    for path in paths:
        for parent in map(str, PurePosixPath(path).parents):
            if parent in seen:
                raise OptionError(
                    f"{parent!r} is an array, so {path!r} can't be inside it. "
                    "Rename one."
                )


def _check_path(path: str) -> None:
    parts = path.split("/")
    if (
        not path.isprintable()
        or len(path) > _LONGEST_PATH
        or len(parts) > _MOST_PARTS
        or any(part in ("", ".", "..", METADATA_FILE) for part in parts)
    ):
        raise OptionError(
            f"{path[:200]!r} can't be the path of an array. Expected names joined by "
            "'/', such as 'fusion/in/0'."
        )
