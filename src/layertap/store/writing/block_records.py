"""Records of blocks: which ones were written by workers, apart from each other.

A worker puts the shards of a block, then its record, which says what is in them. The
markers of the arrays are left alone: rows count once those before them are there.
"""

import json
import re
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from layertap.errors import StoreCorruptError
from layertap.store.format import digests
from layertap.store.format.layout import RECORDS, SEAL, ArrayLayout, ArraySpec, to_json
from layertap.store.format.root import Root
from layertap.store.storage.base import Storage

# So many are asked for at a time: there may be very many, and each answer takes as
# long as a network does.
_READERS = 16

_RECORD = re.compile(r"([0-9]+)\.([0-9]+)")


def make_records_folder(storage: Storage) -> None:
    """Makes the folder of the records, if there is none.

    Its `zarr.json` describes an array without rows: zarr-python warns of other files.
    """
    empty = ArrayLayout(ArraySpec(RECORDS, (), "uint8"), 0, 1, 1, None)
    content = to_json(empty.described() | {"attributes": {}})
    storage.make_folder(RECORDS)
    storage.overwrite({empty.metadata_file: [content]})


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
        return to_json(content | {SEAL: digests.digest_json(content)})


class Kept(NamedTuple):
    """What is kept in memory of a record, of which there may be very many.

    Args:
        rows: How many rows the block has.
        digests: Their digests, of one array after the other.
    """

    rows: int
    digests: str


def kept(record: Record, layouts: Sequence[ArrayLayout]) -> Kept:
    """Returns what is kept of a record.

    Args:
        record: The record.
        layouts: The arrays.
    """
    digests = (record.digests[layout.spec.path] for layout in layouts)
    return Kept(record.rows, "".join(digests))


def record_file(block: int, rows: int) -> str:
    """Returns the name of the record of a block with so many rows.

    By the name alone can be told which last block is one of data that had fewer rows.
    """
    return f"{RECORDS}/{block}.{rows}"


def recorded(storage: Storage) -> set[tuple[int, int]]:
    """Returns the blocks that have a record, each with the number of its rows.

    Raises:
        StoreError: If that can't be read.
    """
    # What is being written has another name.
    found = map(_RECORD.fullmatch, storage.names(RECORDS))
    return {(int(name[1]), int(name[2])) for name in found if name}


def read_record(
    storage: Storage, layouts: Sequence[ArrayLayout], store: str, block: int, rows: int
) -> Record:
    """Reads the record of a block.

    Args:
        storage: The files of the store.
        layouts: Its arrays.
        store: Which store it is.
        block: The block.
        rows: How many rows it has.

    Raises:
        FileNotFoundError: If it has none.
        StoreCorruptError: If it is damaged, or of another store or block.
        StoreError: If it can't be read.
    """
    file = record_file(block, rows)
    try:
        content = storage.read_json(file)
        seal = content.pop(SEAL, None)
        found = Record(**content)
        right = (
            seal == digests.digest_json(content)
            and (found.store, found.block, found.rows) == (store, block, rows)
            and found.digests.keys() == {layout.spec.path for layout in layouts}
            and all(len(text) == digests.DIGITS for text in found.digests.values())
            and 0 < rows <= layouts[0].block_rows
        )
    except (StoreCorruptError, AttributeError, TypeError, ValueError):
        right = False
    if not right:
        raise StoreCorruptError(
            f"{storage.path_of(file)} is damaged, or of another store. Delete "
            "it, and do the same again: its block is written anew."
        )
    return found


def read_records(
    storage: Storage,
    layouts: Sequence[ArrayLayout],
    store: str,
    blocks: Iterable[tuple[int, int]],
) -> Generator[Record, None, None]:
    """Yields the records of some blocks, in their order; the next ones are read ahead.

    Args:
        storage: The files of the store.
        layouts: Its arrays.
        store: Which store it is.
        blocks: The blocks, each with the number of its rows.

    Raises:
        FileNotFoundError: If one has none.
        StoreCorruptError: If one is damaged, or of another store or block.
        StoreError: If one can't be read.
    """
    reading: deque[Future[Record]] = deque()
    pool = ThreadPoolExecutor(_READERS, "layertap-records")
    try:
        for block in blocks:
            reading.append(pool.submit(read_record, storage, layouts, store, *block))
            if len(reading) > _READERS:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def adopted(
    storage: Storage,
    root: Root,
    layouts: Sequence[ArrayLayout],
    known: Mapping[int, Kept] | None = None,
) -> list[ArrayLayout]:
    """Returns the arrays with the rows of all recorded blocks that follow theirs.

    Args:
        storage: The files of the store.
        root: Its root.
        layouts: Its arrays.
        known: What is known of blocks already: their records are not read again.

    Raises:
        StoreCorruptError: If a record is damaged.
        StoreError: If one can't be read.
    """
    there, known = dict(recorded(storage)), known or {}
    block_rows = layouts[0].block_rows
    first = block = min(layout.rows for layout in layouts) // block_rows
    following = []
    while block in there:
        following.append((block, there[block]))
        # No block follows one that is not full.
        block = block + 1 if there[block] == block_rows else -1
    unknown = [pair for pair in following if pair[0] not in known]
    with closing(read_records(storage, layouts, root.store, unknown)) as records:
        found = [
            known[number] if number in known else kept(next(records), layouts)
            for number, _ in following
        ]
    return _with_rows(layouts, first, found) if found else list(layouts)


def _with_rows(
    layouts: Sequence[ArrayLayout], first: int, blocks: Sequence[Kept]
) -> list[ArrayLayout]:
    """Returns the arrays with the rows of some blocks that follow each other.

    Args:
        layouts: The arrays, with all rows before those blocks at least.
        first: The number of the first one.
        blocks: What is known of them.
    """
    rows = first * layouts[0].block_rows + sum(block.rows for block in blocks)
    found = []
    for number, layout in enumerate(layouts):
        if rows <= layout.rows:
            found.append(layout)
            continue
        part = slice(number * digests.DIGITS, (number + 1) * digests.DIGITS)
        added = "".join(block.digests[part] for block in blocks)
        before = layout.digests[: first * digests.DIGITS]
        found.append(replace(layout, rows=rows, digests=before + added))
    return found
