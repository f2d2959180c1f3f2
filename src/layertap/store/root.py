"""What a store says of itself in its `zarr.json` files, read with care."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layertap.errors import (
    NotAStoreError,
    OptionError,
    StoreCorruptError,
    StoreError,
    StoreFormatError,
)
from layertap.store.layout import (
    FORMAT,
    METADATA_FILE,
    ArrayLayout,
    group_metadata,
    parse_layout,
    to_json,
)

_OURS = "layertap"
_KEPT_NAMES = {"format", "complete", "arrays"}


@dataclass(frozen=True)
class Root:
    """What the root of a store says.

    Args:
        arrays: The paths of all arrays, in the order they were given in.
        attributes: The attributes of whoever made the store.
        complete: Whether no more rows are to come.
    """

    arrays: tuple[str, ...]
    attributes: Mapping[str, Any]
    complete: bool = False

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
            "complete": self.complete,
            "arrays": list(self.arrays),
            **self.attributes,
        }
        return to_json(group_metadata({_OURS: ours}))


def read_root(path: Path) -> Root:
    """Reads the root of a store.

    Raises:
        NotAStoreError: If there is none.
        StoreFormatError: If a newer layertap wrote it.
        StoreCorruptError: If it is damaged.
    """
    file = path / METADATA_FILE
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        found = f"no {METADATA_FILE}" if path.is_dir() else "nothing"
        raise NotAStoreError(
            f"{path} is not a store of layertap's: there is {found} there. "
            "Check the path."
        ) from None
    except NotADirectoryError:
        raise NotAStoreError(
            f"{path} is not a store of layertap's: it is a file, and a store is a "
            "folder. Check the path."
        ) from None
    except OSError as error:
        raise _unreadable(file, error) from error
    attributes = _parse_json(file, content).get("attributes")
    ours = attributes.get(_OURS) if isinstance(attributes, dict) else None
    if not isinstance(ours, dict):
        raise NotAStoreError(
            f"{path} is not a store of layertap's, but other data in Zarr format. "
            "Check the path."
        )
    written = ours.get("format")
    if isinstance(written, int) and written > FORMAT:
        raise StoreFormatError(
            f"{path} has store format {written}; this layertap reads up to {FORMAT}. "
            "Install a newer layertap."
        )
    arrays, complete = ours.get("arrays"), ours.get("complete")
    if not (
        written == FORMAT and isinstance(arrays, list) and isinstance(complete, bool)
    ):
        raise StoreCorruptError(
            f"{file} is damaged: it doesn't say whether the store is complete, or what "
            "arrays it has. Restore it from a copy, or save the values again."
        )
    theirs = {key: ours[key] for key in ours if key not in _KEPT_NAMES}
    return Root(tuple(map(str, arrays)), theirs, complete)


def read_layouts(path: Path, root: Root) -> list[ArrayLayout]:
    """Reads the layouts of all arrays of a store.

    Raises:
        StoreCorruptError: If one is missing or damaged, or they don't go together.
    """
    layouts = []
    for name in root.arrays:
        file = path / name / METADATA_FILE
        try:
            content = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreCorruptError(
                f"{file} is missing, but the store has an array {name}. "
                "Restore it from a copy, or save the values again."
            ) from error
        except OSError as error:
            raise _unreadable(file, error) from error
        layouts.append(parse_layout(name, file, _parse_json(file, content)))
    blocks = {layout.block_rows for layout in layouts}
    rows = {layout.rows for layout in layouts}
    if len(blocks) != 1 or (root.complete and len(rows) != 1):
        raise StoreCorruptError(
            f"{path} is damaged: its arrays have {_listing(rows)} rows, in blocks of "
            f"{_listing(blocks)}, but all should have the same. "
            "Restore it from a copy, or save the values again."
        )
    return layouts


def _listing(numbers: Iterable[int]) -> str:
    return " and ".join(map(str, sorted(numbers))) or "no"


def _unreadable(file: Path, error: OSError) -> StoreError:
    return StoreError(f"{file} can't be read: {error.strerror}. Check who may read it.")


def _parse_json(file: Path, content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise StoreCorruptError(
            f"{file} is damaged: it is not JSON ({error}). "
            "Restore it from a copy, or save the values again."
        ) from error
    if not isinstance(found, dict):
        raise StoreCorruptError(
            f"{file} is damaged: it should be a JSON object. "
            "Restore it from a copy, or save the values again."
        )
    return found
