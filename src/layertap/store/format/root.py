"""The root of a store: the `zarr.json` in its folder."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from layertap.errors import NotAStoreError, OptionError, StoreFormatError
from layertap.store.format.layout import (
    FORMAT,
    METADATA_FILE,
    OURS,
    SEAL,
    add_digest,
    group_metadata,
    has_right_digest,
    is_count,
    is_group,
    to_json,
)
from layertap.store.storage.base import Storage
from layertap.store.storage.errors import damaged

# The root of a store that is being made or deleted has only this: by whom.
PENDING = "pending"

_RESERVED = {"format", "store", "complete", "rows", "writer", "arrays", SEAL}


@dataclass(frozen=True)
class Root:
    """The root of a store, with the paths of its arrays in their order."""

    arrays: tuple[str, ...]
    # Those of the caller who made the store.
    attributes: Mapping[str, Any]
    # A random identifier, which its arrays have, too.
    store: str = ""
    # Whether no more rows will be added; their number is known only then.
    complete: bool = False
    rows: int | None = None
    # The record of the process that writes the store now: see `lock.this_process`.
    writer: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        taken = _RESERVED & set(self.attributes)
        if taken:
            raise OptionError(
                f"The attribute {min(taken)!r} is reserved for the store. Rename it."
            )

    def contents(self) -> bytes:
        """Returns the bytes of the root's `zarr.json`."""
        ours = {
            "format": FORMAT,
            "store": self.store,
            "complete": self.complete,
            "rows": self.rows,
            "writer": self.writer,
            "arrays": list(self.arrays),
            **self.attributes,
        }
        return to_json(group_metadata({OURS: add_digest(ours)}))


def read_root(storage: Storage) -> Root:
    """Reads the root of a store, or raises StoreError or a subclass."""
    ours = _read_attributes(storage)
    if PENDING in ours:
        raise NotAStoreError(
            f"{storage} is only a part of a store: it is being made or deleted, or was "
            "when its process was killed. Save to it, which deletes that part."
        )
    version = ours.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise StoreFormatError(
            f"{storage} has a newer store format. Expected format {FORMAT}. Received "
            f"format {version}. Install a newer layertap."
        )
    root = _parse(ours)
    if root is None:
        raise damaged(
            storage.path_of(METADATA_FILE),
            "is damaged: it does not say properly which store this is, which arrays "
            "it has and whether it is complete",
        )
    return root


def _read_attributes(storage: Storage) -> dict[str, Any]:
    """Reads layertap's own attributes of a root."""
    try:
        content = storage.read_json(METADATA_FILE)
    except FileNotFoundError:
        missing = f"no {METADATA_FILE}" if any(storage.names()) else "nothing"
        raise _not_a_store(storage, f"there is {missing} there") from None
    except NotADirectoryError:
        raise _not_a_store(storage, "it is a file, and a store is a folder") from None
    if not is_group(content):
        file = storage.path_of(METADATA_FILE)
        raise damaged(file, "is damaged, or not that of a group of arrays")
    ours = _own_attributes(content)
    if ours is None:
        raise _not_a_store(storage, "it holds other data in Zarr format")
    return ours


def _not_a_store(storage: Storage, problem: str) -> NotAStoreError:
    return NotAStoreError(
        f"{storage} is not a layertap store: {problem}. Check the path."
    )


def _own_attributes(content: Mapping[str, Any]) -> dict[str, Any] | None:
    attributes = content.get("attributes")
    ours = attributes.get(OURS) if isinstance(attributes, dict) else None
    return ours if isinstance(ours, dict) else None


def _parse(ours: dict[str, Any]) -> Root | None:
    """Returns the root with such attributes, or None if they are not valid."""
    if not has_right_digest(ours) or ours.get("format") != FORMAT:
        return None
    store, complete, rows, writer, arrays = (
        ours.get(key) for key in ("store", "complete", "rows", "writer", "arrays")
    )
    if (
        not isinstance(store, str)
        or not store
        or not isinstance(complete, bool)
        or not (is_count(rows) if complete else rows is None)
        or not (writer is None or _is_writer(writer))
        or not isinstance(arrays, list)
        or not all(isinstance(name, str) for name in arrays)
    ):
        return None
    attributes = {key: ours[key] for key in ours if key not in _RESERVED}
    return Root(tuple(arrays), attributes, store, complete, rows, writer)


def pending_root(writer: Mapping[str, Any]) -> bytes:
    """Returns the bytes of the root of a store that a process makes or deletes."""
    # With a mark, because even those of threads of one process have to differ.
    ours = {"format": FORMAT, PENDING: {**writer, "mark": uuid.uuid4().hex}}
    return to_json(group_metadata({OURS: ours}))


def pending_writer(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns the record of the process that makes or deletes a store, if one does."""
    writer = (_own_attributes(content) or {}).get(PENDING)
    return writer if _is_writer(writer) else None


def _is_writer(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and is_count(value.get("process"), least=1)
        and all(
            isinstance(value.get(key), str) and value[key].isprintable()
            for key in ("host", "since")
        )
    )
