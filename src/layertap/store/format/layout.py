"""What a store looks like: its arrays, their sizes, the text of every `zarr.json`.

A store is a Zarr v3 group of arrays with one row each per sample. All arrays are cut
into the same blocks of rows; a block of one array is one shard, which is one file.
A shard is cut into chunks of rows, each with its own checksum. `shape[0]` of an array
is the number of its rows that are committed: nothing after them counts.

Nothing here touches a disk.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np

from layertap.errors import OptionError
from layertap.store.format import digests

FORMAT = 2
METADATA_FILE = "zarr.json"
# Where it stands which blocks were written by workers. No address begins so.
RECORDS = "~blocks"

# In the attributes of a `zarr.json`, what is layertap's; and in that, the digests of
# the blocks, in an object store the mark of who writes, and the seal.
OURS = "layertap"
BLOCKS = "blocks"
WRITER = "writer"
SEAL = "seal"

# No file system has longer ones.
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
        _check_path(self.path)
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


@dataclass(frozen=True)
class ArrayLayout:
    """An array as it is stored.

    Args:
        spec: What was to be stored.
        rows: How many rows are committed.
        block_rows: Rows of one shard.
        chunk_rows: Rows of one chunk.
        compression: None or `"zstd"`.
        store: Which store it is in, as of its root.
        digests: Of the committed rows of each block, one after the other.
        others: Attributes that somebody else has added.
        writer: In an object store, the mark of its writer, another one for each.
    """

    spec: ArraySpec
    rows: int
    block_rows: int
    chunk_rows: int
    compression: str | None
    store: str = ""
    digests: str = ""
    others: Mapping[str, Any] = field(default_factory=dict)
    writer: str = ""

    @property
    def chunks(self) -> int:
        """The number of chunks that a block has room for."""
        return self.block_rows // self.chunk_rows

    @property
    def blocks(self) -> int:
        """The number of blocks that have committed rows."""
        return -(-self.rows // self.block_rows)

    def rows_of(self, block: int) -> range:
        """Returns the committed rows of a block."""
        first = block * self.block_rows
        return range(first, min(first + self.block_rows, self.rows))

    def digest(self, block: int) -> str:
        """Returns the digest of the committed rows of a block."""
        return self.digests[block * digests.DIGITS : (block + 1) * digests.DIGITS]

    def committed(self, block: int, rows: int, digest: str) -> "ArrayLayout":
        """Returns the layout with rows up to one of a block, its last.

        Args:
            block: The block.
            rows: How many rows there are then.
            digest: Of those in the block.
        """
        before = self.digests[: block * digests.DIGITS]
        return replace(self, rows=rows, digests=before + digest)

    def metadata(self) -> dict[str, Any]:
        """Returns the contents of the array's `zarr.json`."""
        described = self.described()
        ours = {**self.spec.attributes, BLOCKS: self.digests}
        if self.writer:
            ours[WRITER] = self.writer
        seal = digests.digest_json([self.store, self.spec.path, described, ours])
        sealed = {**self.others, OURS: ours | {SEAL: seal}}
        return described | {"attributes": sealed}

    def described(self) -> dict[str, Any]:
        """Returns what the `zarr.json` says of the form of the array."""
        spec = self.spec
        # The order of bytes in an element means nothing where there is only one.
        bytes_codec = _BYTES if spec.numpy_dtype.itemsize > 1 else {"name": "bytes"}
        chunk_codecs: list[Any] = [bytes_codec, {"name": "crc32c"}]
        if self.compression is not None:
            chunk_codecs.insert(1, COMPRESSORS[self.compression])
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
        }

    def shard(self, block: int) -> str:
        """Returns the name of the file that holds one block, in the array's folder."""
        return ".".join(["c", str(block)] + ["0"] * len(self.spec.shape))

    @property
    def metadata_file(self) -> str:
        """The name of the array's `zarr.json` in the store."""
        return f"{self.spec.path}/{METADATA_FILE}"

    def shard_file(self, block: int) -> str:
        """Returns the name of the file that holds one block, in the store."""
        return f"{self.spec.path}/{self.shard(block)}"

    def shard_bytes(self, rows: int) -> range:
        """Returns how many bytes the shard of a block can have.

        It has its chunks, each with a checksum, and their index. Zstandard makes four
        bytes of 128 KiB at best, and at worst adds a little.

        Args:
            rows: How many rows of the block there are at least.
        """
        chunks = -(-rows // self.chunk_rows)
        chunk = self.chunk_rows * self.spec.row_bytes
        index = 16 * self.chunks + 4
        least, most = chunk + 4, chunk + 4
        if self.compression is not None:
            least, most = chunk >> 15, chunk + (chunk >> 7) + 512
        return range(index + chunks * least, index + self.chunks * most + 1)


_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
ZSTD_LEVEL = 1
COMPRESSORS = {
    "zstd": {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}}
}
_FILL_VALUES: dict[str, Any] = {"b": False, "i": 0, "u": 0, "c": [0.0, 0.0]}


def check_paths(paths: Sequence[str]) -> None:
    """Checks that arrays can be side by side in one store, and nowhere else.

    Raises:
        OptionError: If they can't.
    """
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
            f"{path[:200]!r} can't be the path of an array. "
            "A path is names joined by '/', such as 'fusion/in/0'."
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
