"""The `zarr.json` of groups and arrays, as JSON with a digest of layertap's part."""

import json
from collections.abc import Mapping
from typing import Any

from layertap.errors import OptionError
from layertap.store.format.digests import digest_json

METADATA_FILE = "zarr.json"

# Keys in the attributes of a `zarr.json`: the mapping with those of layertap. In it,
# the digests of the blocks, the mark of a writer of a bucket, and the digest of all.
OURS = "layertap"
BLOCKS = "blocks"
WRITER = "writer"
SEAL = "seal"


def group_metadata(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a group's `zarr.json`."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def is_group(metadata: Mapping[str, Any]) -> bool:
    """Returns whether a `zarr.json` is that of a group, with any attributes."""
    return group_metadata({}).items() <= {**metadata, "attributes": {}}.items()


def to_json(metadata: Mapping[str, Any], indent: int | None = 2) -> bytes:
    """Returns the bytes of a `zarr.json`, or raises OptionError for other values."""
    try:
        return json.dumps(
            metadata, indent=indent, ensure_ascii=False, allow_nan=False
        ).encode()
    except (TypeError, ValueError) as error:
        raise OptionError(f"Attributes have to be JSON: {error}.") from error


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON object with its own digest."""
    # As it is read back: its keys are strings, and its tuples are lists. Without an
    # indent, Python uses its fast encoder.
    content = json.loads(to_json(content, indent=None))
    return {**content, SEAL: digest_json(content)}


def unseal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON object without its own digest, or raises ValueError."""
    rest = {key: content[key] for key in content if key != SEAL}
    if content.get(SEAL) != digest_json(rest):
        raise ValueError("it does not have its own digest")
    return rest


def is_count(value: Any, least: int = 0, most: int = 2**62) -> bool:
    """Returns whether a JSON value is a whole number, of a size that can be stored."""
    return type(value) is int and least <= value <= most
