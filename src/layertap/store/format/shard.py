"""One shard: chunks of rows, each with its checksum, and then where they are.

As Zarr's codec `sharding_indexed` has it, with the index at the end: the chunks one
after the other; for each, its offset and its length in 64 bits, all ones for one that
is missing; the CRC32C of that. A chunk is its rows, compressed or not, and a CRC32C.

Bytes are little endian, as all machines are that Keras' backends run on.
"""

import ctypes
import errno
import functools
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
import zstandard
from crc32c import crc32c
from numpy.typing import NDArray

from layertap.store.format.layout import ZSTD_LEVEL, ArrayLayout
from layertap.store.storage.files import open_plainly

Bytes = NDArray[np.uint8]

_CHECKSUM = 4
_ZEROS = 2**16
_MISSING = 2**64 - 1
# Linux' MADV_POPULATE_READ. Where a page can't be read, it is an error of this call,
# while reading the page itself would end the process.
_POPULATE = 22
# Bytes of chunks that are read ahead; larger ones are when they are needed.
_SMALL_CHUNK = 2**26
_LIBC = ctypes.CDLL(None, use_errno=True)


class ShardError(ValueError):
    """A shard is not as it was written; says what is wrong with it."""


class Contents:
    """What a shard holds, made piece by piece as it is written.

    Args:
        values: The rows of a block, with room for all: only what is to be written is
            looked at.
        rows: How many rows there are. The last chunk is written whole.
        layout: The array.

    Attributes:
        digest: The digest of the rows, once all was iterated.
        size: How many bytes there were.
    """

    def __init__(self, values: NDArray[Any], rows: int, layout: ArrayLayout) -> None:
        self.digest = ""
        self.size = 0
        self._bytes: Bytes = values.reshape(-1).view(np.uint8)
        self._rows = rows
        self._layout = layout

    def __iter__(self) -> Iterator[memoryview | bytes]:
        layout, digest = self._layout, xxhash.xxh3_64()
        size = layout.chunk_rows * layout.spec.row_bytes
        compress = _compressor(layout)
        index = np.full((layout.chunks, 2), _MISSING, "<u8")
        offset = 0
        end = self._rows * layout.spec.row_bytes
        for number, start in enumerate(range(0, end, size)):
            digest.update(self._bytes[start : min(start + size, end)].data)
            chunk = compress(self._bytes[start : start + size].data)
            yield chunk
            yield _checksum(chunk)
            index[number] = offset, len(chunk) + _CHECKSUM
            offset += len(chunk) + _CHECKSUM
        yield index.tobytes()
        yield _checksum(index.tobytes())
        self.size = offset + index.nbytes + _CHECKSUM
        self.digest = digest.hexdigest()


@functools.lru_cache(maxsize=1024)
def _running(size: int, chunks: int) -> int:
    """Returns the checksum of chunks that follow each other, with their checksums.

    It is the same whatever is in them, as long as their own checksums are right: with
    that of a chunk, what the chunk has done to the running one is undone.

    Args:
        size: The bytes of a chunk, without its checksum.
        chunks: How many chunks.
    """
    zeros = bytes(min(size, _ZEROS))

    def after(found: int) -> int:
        for start in range(0, size, _ZEROS):
            found = int(crc32c(zeros[: size - start], found))
        return found

    end = after(0).to_bytes(_CHECKSUM, "little")
    found = 0
    for _ in range(chunks):
        found = int(crc32c(end, after(found)))
    return found


def _compressor(layout: ArrayLayout) -> Any:
    if layout.compression is None:
        return lambda chunk: chunk
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress


def _checksum(content: Any) -> bytes:
    return int(crc32c(content)).to_bytes(_CHECKSUM, "little")


class Shard:
    """A shard on disk. Each of its chunks is checked when it is first needed.

    Rows that are not compressed are taken from a map of the file. Others are put into
    memory, chunk by chunk: those that are, and those of which the chunks do not follow
    each other, as layertap writes them.

    Args:
        file: The file.
        layout: The array.

    Raises:
        ShardError: If its index is not as it was written.
        OSError: If it can't be read.
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
        # Which chunks were checked.
        self._known = bytearray(layout.chunks)
        stride = self._chunk + _CHECKSUM
        regular = np.arange(layout.chunks, dtype=np.uint64) * np.uint64(stride)
        there = self._index[:, 0] != _MISSING
        # The rows, each in one piece: in the file, or else where chunks are put.
        self._in_place = not self._zstd and bool(
            (self._index[there, 0] == regular[there]).all()
        )
        self._gap = _CHECKSUM if self._in_place else 0
        self._bytes: Bytes = (
            self._file
            if self._in_place
            else np.empty(layout.chunks * self._chunk, np.uint8)
        )

    @property
    def in_memory(self) -> int:
        """The bytes of it that are in memory, besides the map of the file."""
        return 0 if self._in_place else len(self._bytes)

    def _read_index(self, chunks: int) -> NDArray[np.uint64]:
        size = 16 * chunks
        start = len(self._file) - size - _CHECKSUM
        if start < 0:
            raise ShardError("it is too short for its index")
        self._populate(start, len(self._file))
        index = self._file[start : start + size]
        if _checksum(index.data) != self._file[start + size :].tobytes():
            raise ShardError("its index has another checksum")
        found = index.tobytes()
        return np.frombuffer(found, "<u8").reshape(chunks, 2)

    def check(self, first: int, last: int) -> None:
        """Checks the chunks with some rows, all those that are in between too.

        Args:
            first: The first row.
            last: The last row.

        Raises:
            ShardError: If one is not as it was written.
            OSError: If one can't be read.
        """
        end = last // self._chunk_rows + 1
        unknown = self._known.find(0, first // self._chunk_rows, end)
        while unknown >= 0:
            self._check(unknown)
            unknown = self._known.find(0, unknown + 1, end)

    def check_all(self, rows: int) -> None:
        """Checks the first rows, in one go where that is possible.

        Args:
            rows: How many.

        Raises:
            ShardError: If one is not as it was written.
            OSError: If one can't be read.
        """
        chunks = -(-rows // self._chunk_rows)
        if self._known.find(0, 0, chunks) < 0:
            return
        end = chunks * (self._chunk + _CHECKSUM)
        there = self._index[:chunks, 0] != _MISSING
        small = self._chunk <= _SMALL_CHUNK
        if self._in_place and small and there.all() and end <= len(self._file):
            self._populate(0, end)
            if crc32c(self._file[:end].data) == _running(self._chunk, chunks):
                self._known[:chunks] = b"\1" * chunks
                return
        # One by one, so that it can be said which one it is.
        if small:
            self.check(0, rows - 1)

    def check_of(self, rows: NDArray[np.intp]) -> None:
        """Checks the chunks with some rows: see `check`."""
        if self._known.find(0) >= 0:
            for chunk in np.unique(rows // self._chunk_rows).tolist():
                if not self._known[chunk]:
                    self._check(chunk)

    def _check(self, chunk: int) -> None:
        offset, size = map(int, self._index[chunk])
        if offset == _MISSING:
            raise ShardError(f"chunk {chunk} is missing")
        whole = self._zstd or size == self._chunk + _CHECKSUM
        if not whole or size < _CHECKSUM or offset + size > len(self._file):
            raise ShardError(f"chunk {chunk} can't be where its index says")
        self._populate(offset, offset + size)
        content = self._file[offset : offset + size - _CHECKSUM]
        end = self._file[offset + size - _CHECKSUM : offset + size]
        if _checksum(content.data) != end.tobytes():
            raise ShardError(f"chunk {chunk} has another checksum")
        if not self._in_place:
            place = self._bytes[chunk * self._chunk :][: self._chunk]
            place[:] = self._decompressed(content, chunk) if self._zstd else content
        self._known[chunk] = 1

    def _decompressed(self, content: Bytes, chunk: int) -> Bytes:
        try:
            # What a frame says of its size is taken for granted below; -1 says nothing.
            size = zstandard.frame_content_size(content.data)
            if size not in (-1, self._chunk):
                raise ShardError(f"chunk {chunk} says that it has {size:,} bytes")
            found = zstandard.ZstdDecompressor(max_window_size=2**27).decompress(
                content.data, max_output_size=self._chunk, allow_extra_data=False
            )
        except zstandard.ZstdError as error:
            raise ShardError(f"chunk {chunk}: {error}") from error
        if len(found) != self._chunk:
            raise ShardError(f"chunk {chunk} has {len(found):,} bytes of rows")
        return np.frombuffer(found, np.uint8)

    def _populate(self, start: int, end: int) -> None:
        """Has some of the file in memory, or raises why that is not possible."""
        start -= start % mmap.PAGESIZE
        # Not by `mmap.madvise`, which keeps other threads waiting.
        failed = _LIBC.madvise(
            ctypes.c_void_p(self._file.ctypes.data + start),
            ctypes.c_size_t(end - start),
            _POPULATE,
        )
        # An older Linux, or another system, does not know this advice.
        code = ctypes.get_errno() if failed else 0
        if code == errno.ENOMEM:
            raise OSError(code, os.strerror(code))
        if code not in (0, errno.EINVAL):
            raise OSError(errno.EIO, "its pages can't be read")

    def copy(self, first: int, rows: NDArray[Any]) -> None:
        """Copies rows that follow each other, and were checked.

        Args:
            first: The first row.
            rows: Where to.
        """
        place = rows.reshape(len(rows), -1).view(np.uint8)
        done = 0
        while done < len(rows):
            chunk, within = divmod(first + done, self._chunk_rows)
            rest = len(rows) - done
            many = rest // self._chunk_rows if not within else 0
            stride = self._chunk + self._gap
            if many:
                count = many * self._chunk_rows
                taken = self._pieces(chunk * stride, (many, self._chunk), stride)
            else:
                count = min(rest, self._chunk_rows - within)
                start = chunk * stride + within * self._row
                taken = self._pieces(start, (1, count * self._row), stride)
            place[done : done + count].reshape(taken.shape)[...] = taken
            done += count

    def _pieces(self, start: int, shape: tuple[int, int], stride: int) -> Bytes:
        return np.ndarray(shape, np.uint8, self._bytes, start, (stride, 1))

    def take(self, rows: NDArray[np.intp]) -> NDArray[np.void]:
        """Returns rows in any order, which were checked, each as one element.

        Args:
            rows: Which rows.
        """
        # Wherever a row might begin.
        size = len(self._bytes) - self._row + 1
        begins = np.ndarray((size,), f"V{self._row}", self._bytes, 0, (1,))
        taken: NDArray[np.void] = begins[
            rows * self._row + rows // self._chunk_rows * self._gap
        ]
        return taken
