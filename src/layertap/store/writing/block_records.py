"""Records of blocks that workers wrote, each on its own.

A worker puts the shards of a block, then its record, with the digests of its rows. It
leaves the metadata of the arrays alone: rows count once all rows before them exist.
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
from layertap.store.format.layout import (
    RECORDS,
    SEAL,
    ArrayLayout,
    ArraySpec,
    to_json,
)
from layertap.store.format.root import Root
from layertap.store.storage.base import Storage

# How many records are requested at a time: there may be very many, and each answer
# takes as long as a network does.
_READERS = 16

_RECORD = re.compile(r"([0-9]+)\.([0-9]+)")


@dataclass(frozen=True)
class Record:
    """A block that a worker wrote.

    Args:
        store: The id of the store.
        block: The number of the block.
        rows: How many rows it has.
        digests: By array, the digest of its rows.
        notes: What the worker computed of the rows, as JSON.
    """

    store: str
    block: int
    rows: int
    digests: Mapping[str, str]
    notes: Any = field(default=None, compare=False)

    def contents(self) -> bytes:
        """Returns the content of the file of the record."""
        # The checksum is that of the content as it is read back: JSON has no tuples.
        content = json.loads(to_json(vars(self)))
        return to_json(content | {SEAL: digests.digest_json(content)})


class BlockDigests(NamedTuple):
    """The rows of a block and their digests, of one array after the other.

    Only these of a record stay in memory: there may be very many.
    """

    rows: int
    digests: str


def block_digests(record: Record, layouts: Sequence[ArrayLayout]) -> BlockDigests:
    """Returns the digests of a record, in the order of the arrays."""
    by_array = (record.digests[layout.spec.path] for layout in layouts)
    return BlockDigests(record.rows, "".join(by_array))


def make_records_folder(storage: Storage) -> None:
    """Makes the folder of the records, if there is none.

    Its `zarr.json` describes an array without rows: zarr-python warns of other files.
    """
    empty = ArrayLayout(ArraySpec(RECORDS, (), "uint8"), 0, 1, 1, None)
    content = to_json(empty.described() | {"attributes": {}})
    storage.make_folder(RECORDS)
    storage.overwrite({empty.metadata_file: [content]})


def record_file(block: int, rows: int) -> str:
    """Returns the name of a record; a last block with fewer rows has another one."""
    return f"{RECORDS}/{block}.{rows}"


def list_records(storage: Storage) -> set[tuple[int, int]]:
    """Returns the recorded blocks, each with the number of its rows."""
    # Files that are being written have other names.
    matches = map(_RECORD.fullmatch, storage.names(RECORDS))
    return {(int(match[1]), int(match[2])) for match in matches if match}


def read_record(
    storage: Storage,
    layouts: Sequence[ArrayLayout],
    store: str,
    block: int,
    rows: int,
) -> Record:
    """Reads a record; raises FileNotFoundError or StoreCorruptError."""
    file = record_file(block, rows)
    try:
        content = storage.read_json(file)
        checksum = content.pop(SEAL, None)
        record = Record(**content)
        valid = (
            checksum == digests.digest_json(content)
            and (record.store, record.block, record.rows) == (store, block, rows)
            and record.digests.keys() == {layout.spec.path for layout in layouts}
            and all(len(text) == digests.DIGITS for text in record.digests.values())
            and 0 < rows <= layouts[0].block_rows
        )
    except (StoreCorruptError, AttributeError, TypeError, ValueError):
        valid = False
    if not valid:
        raise StoreCorruptError(
            f"{storage.path_of(file)} is damaged, or of another store. Delete it, and "
            "do the same again: its block is written again."
        )
    return record


def read_records(
    storage: Storage,
    layouts: Sequence[ArrayLayout],
    store: str,
    blocks: Iterable[tuple[int, int]],
) -> Generator[Record, None, None]:
    """Yields records in the order of the blocks; the next ones are read ahead."""
    pending: deque[Future[Record]] = deque()
    pool = ThreadPoolExecutor(_READERS, "layertap-records")
    try:
        for block in blocks:
            pending.append(pool.submit(read_record, storage, layouts, store, *block))
            if len(pending) > _READERS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def add_recorded_blocks(
    storage: Storage,
    root: Root,
    layouts: Sequence[ArrayLayout],
    cached: Mapping[int, BlockDigests] | None = None,
) -> list[ArrayLayout]:
    """Returns the arrays with the rows of all recorded blocks that follow theirs.

    The records of cached blocks are not read again.
    """
    recorded, cached = dict(list_records(storage)), cached or {}
    block_rows = layouts[0].block_rows
    first = block = min(layout.rows for layout in layouts) // block_rows
    following = []
    while block in recorded:
        following.append((block, recorded[block]))
        # No block follows one that is not full.
        block = block + 1 if recorded[block] == block_rows else -1
    unknown = [pair for pair in following if pair[0] not in cached]
    with closing(read_records(storage, layouts, root.store, unknown)) as records:
        blocks = [
            cached[number]
            if number in cached
            else block_digests(next(records), layouts)
            for number, _ in following
        ]
    return _add_blocks(layouts, first, blocks) if blocks else list(layouts)


def _add_blocks(
    layouts: Sequence[ArrayLayout], first: int, blocks: Sequence[BlockDigests]
) -> list[ArrayLayout]:
    """Returns the arrays with the rows of consecutive blocks, from a block on."""
    rows = first * layouts[0].block_rows + sum(block.rows for block in blocks)
    longer = []
    for number, layout in enumerate(layouts):
        if rows <= layout.rows:
            longer.append(layout)
            continue
        part = slice(number * digests.DIGITS, (number + 1) * digests.DIGITS)
        added = "".join(block.digests[part] for block in blocks)
        before = layout.digests[: first * digests.DIGITS]
        longer.append(replace(layout, rows=rows, digests=before + added))
    return longer
