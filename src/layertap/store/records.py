"""Records of blocks: which ones were written by workers, apart from each other.

A worker puts the shards of a block, then its record, which says what is in them. The
markers of the arrays are left alone: rows count once those before them are there.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from layertap.errors import StoreCorruptError
from layertap.store import seals
from layertap.store.files import read_json
from layertap.store.layout import RECORDS, SEAL, ArrayLayout, to_json
from layertap.store.objects import Location
from layertap.store.place import Place
from layertap.store.root import Root

_RECORD = re.compile(r"([0-9]+)\.([0-9]+)")


@dataclass(frozen=True)
class Record:
    """What is known of a block that a worker wrote.

    Args:
        store: Which store it is of.
        block: Its number.
        rows: How many rows it has.
        digests: By array, the digest of its rows.
        notes: What the worker found out about the rows, as JSON.
    """

    store: str
    block: int
    rows: int
    digests: Mapping[str, str]
    notes: Any = field(default=None, compare=False)

    def contents(self) -> bytes:
        """Returns what the file of the record holds."""
        # Sealed as it is read back: keys of JSON are strings, and tuples lists.
        content = json.loads(to_json(vars(self)))
        return to_json(content | {SEAL: seals.of_content(content)})


def place_of(path: Location, block: int, rows: int) -> Location:
    """Returns where the record is of a block with so many rows.

    By the name alone can be told which last block is one of data that had fewer rows.
    """
    return path / RECORDS / f"{block}.{rows}"


def recorded(at: Place) -> set[tuple[int, int]]:
    """Returns the blocks that have a record, each with the number of its rows.

    Raises:
        StoreError: If that can't be read.
    """
    # What is being written has another name.
    found = map(_RECORD.fullmatch, at.names(at.path / RECORDS))
    return {(int(name[1]), int(name[2])) for name in found if name}


def read_record(
    path: Location, layouts: Sequence[ArrayLayout], store: str, block: int, rows: int
) -> Record:
    """Reads the record of a block.

    Args:
        path: The store.
        layouts: Its arrays.
        store: Which store it is.
        block: The block.
        rows: How many rows it has.

    Raises:
        FileNotFoundError: If it has none.
        StoreCorruptError: If it is damaged, or of another store or block.
        StoreError: If it can't be read.
    """
    file = place_of(path, block, rows)
    content = read_json(file)
    seal = content.pop(SEAL, None)
    try:
        found = Record(**content)
        right = (
            seal == seals.of_content(content)
            and (found.store, found.block, found.rows) == (store, block, rows)
            and found.digests.keys() == {layout.spec.path for layout in layouts}
            and 0 < rows <= layouts[0].block_rows
        )
    except (AttributeError, TypeError, ValueError):
        right = False
    if not right:
        raise StoreCorruptError(
            f"{file} is damaged, or of another store. Delete it, and do the same "
            "again: its block is written anew."
        )
    return found


def adopted(at: Place, root: Root, layouts: Sequence[ArrayLayout]) -> list[ArrayLayout]:
    """Returns the arrays with the rows of all recorded blocks that follow theirs.

    Args:
        at: The place of the store.
        root: Its root.
        layouts: Its arrays.

    Raises:
        StoreCorruptError: If a record is damaged.
        StoreError: If one can't be read.
    """
    there = dict(recorded(at))
    if not there:
        return list(layouts)
    first = min(layout.rows for layout in layouts) // layouts[0].block_rows
    following = list(_following(at.path, root, layouts, there, first))
    return with_records(layouts, first, following) if following else list(layouts)


def _following(
    path: Location,
    root: Root,
    layouts: Sequence[ArrayLayout],
    there: Mapping[int, int],
    block: int,
) -> Iterator[Record]:
    while block in there:
        record = read_record(path, layouts, root.store, block, there[block])
        yield replace(record, notes=None)
        if record.rows < layouts[0].block_rows:
            return
        block += 1


def with_records(
    layouts: Sequence[ArrayLayout], first: int, records: Sequence[Record]
) -> list[ArrayLayout]:
    """Returns the arrays with the rows of some blocks that follow each other.

    Args:
        layouts: The arrays, with all rows before those blocks at least.
        first: The number of the first one.
        records: Their records.
    """
    rows = first * layouts[0].block_rows + sum(record.rows for record in records)
    return [
        replace(
            layout,
            rows=max(rows, layout.rows),
            digests=layout.digests[: first * seals.DIGITS]
            + "".join(record.digests[layout.spec.path] for record in records),
        )
        if rows > layout.rows
        else layout
        for layout in layouts
    ]
