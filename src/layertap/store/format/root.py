"""What a store says of itself, in the `zarr.json` of its folder."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from layertap.errors import NotAStoreError, OptionError, StoreFormatError
from layertap.store.format import digests
from layertap.store.format.layout import (
    FORMAT,
    METADATA_FILE,
    OURS,
    SEAL,
    group_metadata,
    to_json,
)
from layertap.store.storage.base import Storage
from layertap.store.storage.errors import damaged

# What the root says as long as there is only a part of a store: who is making it.
PENDING = "pending"

_KEPT_NAMES = {"format", "store", "complete", "rows", "writer", "arrays", SEAL}


@dataclass(frozen=True)
class Root:
    """What the root of a store says.

    Args:
        arrays: The paths of all arrays, in the order they were given in.
        attributes: The attributes of whoever made the store.
        store: Which store it is: a random text that its arrays have, too.
        complete: Whether no more rows are to come.
        rows: How many rows there are then; None before.
        writer: Who writes the store now, as of `locks.this_process`, or None.
    """

    arrays: tuple[str, ...]
    attributes: Mapping[str, Any]
    store: str = ""
    complete: bool = False
    rows: int | None = None
    writer: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        taken = _KEPT_NAMES & set(self.attributes)
        if taken:
            raise OptionError(
                f"The attribute {min(taken)!r} is the store's own. Rename yours."
            )

    def contents(self) -> bytes:
        """Returns the contents of the root's `zarr.json`."""
        ours = {
            "format": FORMAT,
            "store": self.store,
            "complete": self.complete,
            "rows": self.rows,
            "writer": self.writer,
            "arrays": list(self.arrays),
            **self.attributes,
        }
        # Sealed as it is read back: keys of JSON are strings, and tuples lists.
        ours = json.loads(to_json(ours))
        return to_json(group_metadata({OURS: ours | {SEAL: digests.digest_json(ours)}}))


def read_root(storage: Storage) -> Root:
    """Reads the root of a store.

    Raises:
        NotAStoreError: If there is none.
        StoreFormatError: If a newer layertap wrote it.
        StoreCorruptError: If it is damaged.
        StoreError: If it can't be read.
    """
    try:
        content = storage.read_json(METADATA_FILE)
    except FileNotFoundError:
        found = f"no {METADATA_FILE}" if any(storage.names()) else "nothing"
        raise NotAStoreError(
            f"{storage} is not a store of layertap's: there is {found} there. "
            "Check the path."
        ) from None
    except NotADirectoryError:
        raise NotAStoreError(
            f"{storage} is not a store of layertap's: it is a file, and a store is a "
            "folder. Check the path."
        ) from None
    if not group_metadata({}).items() <= {**content, "attributes": {}}.items():
        raise damaged(
            storage.path_of(METADATA_FILE),
            "is damaged, or not that of a group of arrays",
        )
    attributes = content.get("attributes")
    ours = attributes.get(OURS) if isinstance(attributes, dict) else None
    if not isinstance(ours, dict):
        raise NotAStoreError(
            f"{storage} is not a store of layertap's, but other data in Zarr format. "
            "Check the path."
        )
    if PENDING in ours:
        raise NotAStoreError(
            f"{storage} is not a whole store: one is being made or deleted there, or "
            "was when its process was killed. Save to it, which clears it away."
        )
    written = ours.get("format")
    if isinstance(written, int) and written > FORMAT:
        raise StoreFormatError(
            f"{storage} has store format {written}; this layertap reads up to "
            f"{FORMAT}. Install a newer layertap."
        )
    root = _parsed(ours)
    if root is None:
        raise damaged(
            storage.path_of(METADATA_FILE),
            "is damaged: it doesn't say soundly which store this is, what arrays it "
            "has and whether it is complete",
        )
    return root


def _parsed(ours: dict[str, Any]) -> Root | None:
    """Returns the root that is written there, or None if it is not sound."""
    ours = dict(ours)
    if ours.pop(SEAL, None) != digests.digest_json(ours):
        return None
    arrays, complete = ours.get("arrays"), ours.get("complete")
    if (
        ours.get("format") != FORMAT
        or not isinstance(arrays, list)
        or not all(isinstance(name, str) for name in arrays)
        or not isinstance(complete, bool)
    ):
        return None
    attributes = {key: ours[key] for key in ours if key not in _KEPT_NAMES}
    store, rows, writer = (ours.get(key) for key in ("store", "rows", "writer"))
    whole = type(rows) is int and rows >= 0
    if not isinstance(store, str) or not store:
        return None
    if not (whole if complete else rows is None):
        return None
    if writer is not None and not _is_writer(writer):
        return None
    return Root(tuple(arrays), attributes, store, complete, rows, writer)


def pending(writer: Mapping[str, Any]) -> bytes:
    """Returns a root that stands for a store of which there is only a part.

    Args:
        writer: Who makes or deletes it, as of `locks.this_process`.
    """
    # No two are the same, also of threads of one process.
    ours = {"format": FORMAT, PENDING: {**writer, "mark": uuid.uuid4().hex}}
    return to_json(group_metadata({OURS: ours}))


def pending_writer(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns who makes or deletes a store, if there is only a part of it."""
    attributes = content.get("attributes")
    ours = attributes.get(OURS) if isinstance(attributes, dict) else None
    writer = ours.get(PENDING) if isinstance(ours, dict) else None
    return writer if _is_writer(writer) else None


def _is_writer(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and type(found.get("process")) is int
        and found["process"] > 0
        and all(
            isinstance(found.get(key), str) and found[key].isprintable()
            for key in ("host", "since")
        )
    )
