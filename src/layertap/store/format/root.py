"""The root of a store: the `zarr.json` in its folder."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from layertap.errors import NotAStoreError, OptionError, StoreFormatError
from layertap.store.format import zarr_json
from layertap.store.format.zarr_json import METADATA_FILE, OURS, is_count
from layertap.store.storage.base import Storage
from layertap.store.storage.errors import damaged

FORMAT = 2
# The root of a store that is being made or deleted has only this: by whom.
PENDING = "pending"
# How many names are searched for stores inside a folder that is none.
_MOST_NAMES = 1000


@dataclass(frozen=True, kw_only=True)
class Root:
    """The root of a store. Its fields have the order of the file."""

    # A random identifier, which its arrays have, too.
    store: str
    # Whether no more rows will be added; their number is known only then.
    complete: bool = False
    rows: int | None = None
    # The record of the process that writes the store now: see `lock.this_process`.
    writer: Mapping[str, Any] | None = None
    # The paths of its arrays, in their order.
    arrays: tuple[str, ...]
    # Those of the caller who made the store.
    attributes: Mapping[str, Any]

    def __post_init__(self) -> None:
        taken = {"format", zarr_json.SEAL, *_OWN} & set(self.attributes)
        if taken:
            raise OptionError(
                f"The attribute {min(taken)!r} is reserved for the store. Rename it."
            )

    @cached_property
    def contents(self) -> bytes:
        """The bytes of the root's `zarr.json`; raises OptionError if not JSON."""
        own = {name: getattr(self, name) for name in _OWN}
        ours = zarr_json.seal({"format": FORMAT, **own, **self.attributes})
        return zarr_json.to_json(zarr_json.group_metadata({OURS: ours}))


# The fields that are not attributes of the caller.
_OWN = ("store", "complete", "rows", "writer", "arrays")


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
    try:
        return _parse(ours)
    except (KeyError, ValueError) as error:
        raise damaged(
            storage.path_of(METADATA_FILE),
            "is damaged: it does not say properly which store this is, which arrays "
            "it has and whether it is complete",
        ) from error


def _read_attributes(storage: Storage) -> dict[str, Any]:
    """Reads layertap's own attributes of a root."""
    try:
        content = storage.read_json(METADATA_FILE)
    except FileNotFoundError:
        names = islice(storage.names(), _MOST_NAMES)
        files = [name for name in names if name.endswith(METADATA_FILE)]
        others = any(storage.names())
        problem = f"there is {f'no {METADATA_FILE}' if others else 'nothing'} there"
        if files:
            # Such as the steps of a recording.
            inner = min(files, key=lambda name: (name.count("/"), name))
            problem += f", but {storage.path_of(inner.rpartition('/')[0])} may be one"
    except NotADirectoryError:
        problem = "it is a file, and a store is a folder"
    else:
        if not zarr_json.is_group(content):
            file = storage.path_of(METADATA_FILE)
            raise damaged(file, "is damaged, or not that of a group of arrays")
        ours = _own_attributes(content)
        if ours is not None:
            return ours
        problem = "it holds other data in Zarr format"
    raise NotAStoreError(
        f"{storage} is not a layertap store: {problem}. Check the path."
    )


def _own_attributes(content: Mapping[str, Any] | None) -> dict[str, Any] | None:
    match content:
        case {"attributes": {zarr_json.OURS: dict(ours)}}:
            return ours
    return None


def _parse(ours: dict[str, Any]) -> Root:
    """Returns the root with such attributes; raises KeyError or ValueError."""
    attributes = zarr_json.unseal(ours)
    version, own = attributes.pop("format"), {n: attributes.pop(n) for n in _OWN}
    store, complete, rows, writer, arrays = own.values()
    if not (
        version == FORMAT
        and isinstance(store, str)
        and store
        and isinstance(complete, bool)
        and (is_count(rows) if complete else rows is None)
        and (writer is None or _is_writer(writer))
        and isinstance(arrays, list)
        and all(isinstance(name, str) for name in arrays)
    ):
        raise ValueError("a field has another type")
    own["arrays"] = tuple(arrays)
    return Root(**own, attributes=attributes)


def pending_root(writer: Mapping[str, Any]) -> bytes:
    """Returns the bytes of the root of a store that a process makes or deletes."""
    # With a mark, because even those of threads of one process have to differ.
    ours = {"format": FORMAT, PENDING: {**writer, "mark": uuid.uuid4().hex}}
    return zarr_json.to_json(zarr_json.group_metadata({OURS: ours}))


def pending_writer(content: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Returns the record of the process that makes or deletes a store, if one does."""
    writer = (_own_attributes(content) or {}).get(PENDING)
    return writer if _is_writer(writer) else None


def _is_writer(value: Any) -> bool:
    match value:
        case {"process": process, "host": str(host), "since": str(since)}:
            return is_count(process, least=1) and (host + since).isprintable()
    return False
