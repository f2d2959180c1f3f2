"""Encodes the rows of a block as a shard, piece by piece."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from layertap.store.format.digests import CHECKSUM_BYTES, RowDigest, checksum
from layertap.store.format.layout import ZSTD_LEVEL, ArrayLayout
from layertap.store.format.shard import MISSING, Bytes


class ShardEncoder:
    """Yields the bytes of a shard with the first rows of a full block.

    The last chunk is complete: of the rows after the first `rows`, it has some, too.
    """

    def __init__(self, values: NDArray[Any], rows: int, layout: ArrayLayout) -> None:
        # Both are known after the last piece.
        self.digest = ""
        self.size = 0
        self._bytes: Bytes = values.reshape(-1).view(np.uint8)
        self._rows = rows
        self._layout = layout

    def __iter__(self) -> Iterator[memoryview | bytes]:
        layout, digest = self._layout, RowDigest()
        size = layout.chunk_rows * layout.spec.row_bytes
        compress = _compressor(layout)
        index = np.full((layout.chunks, 2), MISSING, "<u8")
        offset = 0
        end = self._rows * layout.spec.row_bytes
        for number, start in enumerate(range(0, end, size)):
            digest.update(self._bytes[start : min(start + size, end)].data)
            chunk = compress(self._bytes[start : start + size].data)
            yield chunk
            yield checksum(chunk)
            index[number] = offset, len(chunk) + CHECKSUM_BYTES
            offset += len(chunk) + CHECKSUM_BYTES
        yield index.tobytes()
        yield checksum(index.tobytes())
        self.size = offset + index.nbytes + CHECKSUM_BYTES
        self.digest = digest.hexdigest()


def _compressor(layout: ArrayLayout) -> Any:
    if layout.compression is None:
        return lambda chunk: chunk
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress
