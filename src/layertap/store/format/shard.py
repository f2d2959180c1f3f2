"""One shard: chunks of rows, each with its checksum, and an index of the chunks.

This is Zarr's codec `sharding_indexed` with the index at the end: for each chunk its
offset and its length in 64 bits, or all ones if it is missing; then a checksum. All
bytes are little endian, as are all machines that Keras' backends run on.
"""

import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from layertap.store.format import digests
from layertap.store.format.digests import CHECKSUM_BYTES, RowDigest, checksum
from layertap.store.format.layout import ZSTD_LEVEL, ArrayLayout
from layertap.store.storage.files import open_plainly

Bytes = NDArray[np.uint8]

# The offset of a missing chunk.
MISSING = 2**64 - 1

# Linux' MADV_POPULATE_READ: it returns an error if a page can't be read, while an
# access to that page would end the process.
_POPULATE = 22
# Far above the window that layertap writes.
_MOST_WINDOW = 2**27
_LIBC = None if sys.platform == "win32" else ctypes.CDLL(None, use_errno=True)


class ShardError(ValueError):
    """A shard is damaged; its text says how."""


class Shard:
    """A shard in a file. Each chunk is checked when it is first needed.

    Rows are read from a map of the file, if they are not compressed and layertap wrote
    their chunks in order. Other chunks are decoded into memory. A damaged shard raises
    ShardError, and one that can't be read OSError.
    """

    def __init__(self, file: Path, layout: ArrayLayout) -> None:
        with open_plainly(file) as opened:
            if not os.fstat(opened.fileno()).st_size:
                raise ShardError("it is empty")
            self._map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        self._file: Bytes = np.frombuffer(self._map, np.uint8)
        self._chunk = layout.chunk_rows * layout.spec.row_bytes
        self._chunk_rows = layout.chunk_rows
        self._row = layout.spec.row_bytes
        self._zstd = layout.compression is not None
        self._index = self._read_index(layout.chunks)
        # Whether each chunk was checked.
        self._checked = bytearray(layout.chunks)
        stride = self._chunk + CHECKSUM_BYTES
        regular = np.arange(layout.chunks, dtype=np.uint64) * np.uint64(stride)
        offsets = self._index[:, 0]
        in_order = (offsets == regular) | (offsets == MISSING)
        self._in_place = not self._zstd and bool(in_order.all())
        # The chunks in order: in the file, or in memory, where they are decoded to.
        self._bytes, self._gap = self._file, CHECKSUM_BYTES
        # The bytes of it in memory, without the map of the file.
        self.in_memory = 0
        if not self._in_place:
            self._bytes, self._gap = np.empty(layout.chunks * self._chunk, np.uint8), 0
            self.in_memory = len(self._bytes)

    def _read_index(self, chunks: int) -> NDArray[np.uint64]:
        size = 16 * chunks
        start = len(self._file) - size - CHECKSUM_BYTES
        if start < 0:
            raise ShardError("it is too short for its index")
        self._populate(start, len(self._file))
        index = self._file[start : start + size].tobytes()
        if checksum(index) != self._file[start + size :].tobytes():
            raise ShardError("its index has another checksum")
        return np.frombuffer(index, "<u8").reshape(chunks, 2)

    def check_range(self, first: int, last: int) -> None:
        """Checks the chunks from a first row to a last row, all at once if possible."""
        end = last // self._chunk_rows + 1
        chunk = self._checked.find(0, first // self._chunk_rows, end)
        if chunk >= 0 and end - chunk > 1:
            self._check_together(chunk, end)
        while chunk >= 0:
            if not self._checked[chunk]:
                self._check(chunk)
            chunk = self._checked.find(0, chunk + 1, end)

    def _check_together(self, chunk: int, end: int) -> None:
        """Checks consecutive chunks, unless one is damaged, checked, or elsewhere."""
        stride = self._chunk + CHECKSUM_BYTES
        offsets, sizes = self._index[chunk:end].T
        present = (offsets != MISSING).all() and (sizes == stride).all()
        start, stop = chunk * stride, end * stride
        if not (self._in_place and present and stop <= len(self._file)):
            return
        if self._checked.find(1, chunk, end) >= 0:
            return
        self._populate(start, stop)
        expected = digests.checksum_of_chunks(self._chunk, end - chunk)
        if checksum(self._file[start:stop].data) == expected:
            self._checked[chunk:end] = b"\1" * (end - chunk)

    def check_rows(self, rows: NDArray[np.intp]) -> None:
        """Checks the chunks of some rows."""
        if self._checked.find(0) >= 0:
            for chunk in np.unique(rows // self._chunk_rows).tolist():
                if not self._checked[chunk]:
                    self._check(chunk)

    def _check(self, chunk: int) -> None:
        offset, size = map(int, self._index[chunk])
        if offset == MISSING:
            raise ShardError(f"chunk {chunk} is missing")
        right_size = self._zstd or size == self._chunk + CHECKSUM_BYTES
        if not right_size or not CHECKSUM_BYTES <= size <= len(self._file) - offset:
            raise ShardError(f"chunk {chunk} can't be where its index says")
        self._populate(offset, offset + size)
        end = offset + size - CHECKSUM_BYTES
        content = self._file[offset:end]
        if checksum(content.data) != self._file[end : offset + size].tobytes():
            raise ShardError(f"chunk {chunk} has another checksum")
        if not self._in_place:
            rows = self._bytes[chunk * self._chunk :][: self._chunk]
            rows[:] = self._decompress(content, chunk) if self._zstd else content
        self._checked[chunk] = 1

    def _decompress(self, content: Bytes, chunk: int) -> Bytes:
        try:
            # The decompressor trusts the size that a frame claims; -1 claims nothing.
            size = zstandard.frame_content_size(content.data)
            if size not in (-1, self._chunk):
                raise ShardError(f"chunk {chunk} claims to have {size:,} bytes")
            rows = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW).decompress(
                content.data, max_output_size=self._chunk, allow_extra_data=False
            )
        except zstandard.ZstdError as error:
            raise ShardError(f"chunk {chunk}: {error}") from error
        if len(rows) != self._chunk:
            raise ShardError(f"chunk {chunk} has {len(rows):,} bytes of rows")
        return np.frombuffer(rows, np.uint8)

    def _populate(self, start: int, end: int) -> None:
        """Reads a part of the file into memory, or raises why that is impossible."""
        if _LIBC is None:
            return
        start -= start % mmap.PAGESIZE
        # Not by `mmap.madvise`, during which no other thread can run.
        failed = _LIBC.madvise(
            ctypes.c_void_p(self._file.ctypes.data + start),
            ctypes.c_size_t(end - start),
            _POPULATE,
        )
        code = ctypes.get_errno() if failed else 0
        if code == errno.ENOMEM:
            raise OSError(code, os.strerror(code))
        # EINVAL: an older Linux, or another system, does not know this advice.
        if code not in (0, errno.EINVAL):
            raise OSError(errno.EIO, "its pages can't be read")

    def copy(self, first: int, rows: NDArray[Any]) -> None:
        """Copies consecutive checked rows, from a first row on, into an array."""
        target = rows.reshape(len(rows), -1).view(np.uint8)
        stride = self._chunk + self._gap
        done = 0
        while done < len(rows):
            chunk, row = divmod(first + done, self._chunk_rows)
            # Complete chunks at once, or a part of one.
            chunks = 1 if row else max((len(rows) - done) // self._chunk_rows, 1)
            count = min(chunks * self._chunk_rows - row, len(rows) - done)
            shape = (chunks, count // chunks * self._row)
            start = chunk * stride + row * self._row
            source = np.ndarray(shape, np.uint8, self._bytes, start, (stride, 1))
            target[done : done + count].reshape(shape)[...] = source
            done += count

    def take(self, rows: NDArray[np.intp]) -> NDArray[np.void]:
        """Returns checked rows in any order, each as one element."""
        # An element for every byte at which a row might begin.
        size = len(self._bytes) - self._row + 1
        begins = np.ndarray((size,), f"V{self._row}", self._bytes, 0, (1,))
        return begins[rows * self._row + rows // self._chunk_rows * self._gap]


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
        compress: Any = memoryview
        if layout.compression is not None:
            compress = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress
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
