"""Digests: what tells that a part of a store is as it was written, and in its place.

The checksums inside a shard find bits that have changed. They can't find a whole shard
that is another one, or an older one: all of those are right in themselves. So every
array keeps a digest of the values of each of its blocks, and every `zarr.json` a seal:
a digest of what it says, and of which store it says it.

Both are XXH3 with 64 bits, which finds mistakes. It keeps no secret: whoever means to
can make a store with any values and right seals.
"""

import json
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

# Hexadecimal digits of a digest.
DIGITS = 16

# What to tell of a file whose rows have another digest.
WRONG = "holds other values than were written: it is another file, or an older one"


def of_rows(values: NDArray[Any]) -> str:
    """Returns the digest of the bytes of some rows."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return xxhash.xxh3_64_hexdigest(flat.view(np.uint8).data)


def of_content(content: Any) -> str:
    """Returns the digest of what is written as JSON, however that is laid out."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_64_hexdigest(text.encode())
