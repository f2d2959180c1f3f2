"""Checksums of chunks, and digests of rows and of metadata.

A checksum (CRC32C) detects changed bits inside a shard. A digest (XXH3, 64 bits) also
detects a shard of another block, array, store or time, whose checksums are all right.
Neither is a secret: whoever wants to can make a store of any values with right digests.
"""

import functools
import json
from typing import Any

import numpy as np
import xxhash
from crc32c import crc32c
from numpy.typing import NDArray

# Hexadecimal digits of a digest, and bytes of a checksum.
DIGITS, CHECKSUM_BYTES = 16, 4

# The problem of a file whose rows have another digest.
WRONG_ROWS = "holds other values than were written: it is another file, or an older one"

_ZEROS = bytes(2**16)

RowDigest = xxhash.xxh3_64


def digest_rows(values: NDArray[Any]) -> str:
    """Returns the digest of the bytes of rows."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return RowDigest(flat.view(np.uint8).data).hexdigest()


def digest_json(content: Any) -> str:
    """Returns the digest of a JSON value, however it is laid out as text."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_64_hexdigest(text.encode())


def checksum(content: Any) -> bytes:
    """Returns the checksum of bytes, as it is stored."""
    return int(crc32c(content)).to_bytes(CHECKSUM_BYTES, "little")


@functools.lru_cache(maxsize=1024)
def checksum_of_chunks(size: int, chunks: int) -> bytes:
    """Returns the checksum of consecutive chunks of `size` bytes and their checksums.

    It does not depend on the content of the chunks, if their checksums are right: the
    checksum of a chunk undoes what the chunk did to the checksum of all.
    """
    end = _extend_by_zeros(0, size).to_bytes(CHECKSUM_BYTES, "little")
    value = 0
    for _ in range(chunks):
        value = int(crc32c(end, _extend_by_zeros(value, size)))
    return value.to_bytes(CHECKSUM_BYTES, "little")


def _extend_by_zeros(value: int, size: int) -> int:
    for start in range(0, size, len(_ZEROS)):
        value = int(crc32c(_ZEROS[: size - start], value))
    return value
