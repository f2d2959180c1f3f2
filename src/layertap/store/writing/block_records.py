"""Records of blocks that workers wrote, each on its own.

A worker puts the shards of a block, then its record, with the digests of its rows. It
leaves the metadata of the arrays alone: rows count once all rows before them exist.
"""

import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from layertap.errors import StoreCorruptError
from layertap.store.format import digests, zarr_json
from layertap.store.format.layout import RECORDS, ArrayLayout, ArraySpec, Layouts
from layertap.store.storage.ahead import map_ahead
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
        return zarr_json.to_json(zarr_json.seal(vars(self)))


class BlockRecords:
    """The records of a store, in a folder of their own."""

    def __init__(self, storage: Storage, layouts: Layouts, store: str) -> None:
        self._storage = storage
        self._layouts = layouts
        self._store = store
        # Of each block the rows, and the digests of one array after the other. Only
        # these of a record stay in memory: there may be very many.
        self._cached: dict[int, tuple[int, str]] = {}

    def make_folder(self) -> None:
        """Makes the folder of the records, if there is none.

        Its `zarr.json` describes an array without rows: zarr-python warns of other
        files.
        """
        empty = ArrayLayout(ArraySpec(RECORDS, (), "uint8"), 0, 1, 1, None)
        content = zarr_json.to_json(empty.structure() | {"attributes": {}})
        self._storage.make_folder(RECORDS)
        self._storage.overwrite({empty.metadata_file: [content]})

    def blocks(self) -> set[tuple[int, int]]:
        """Returns the recorded blocks, each with the number of its rows."""
        # Files that are being written have other names.
        matches = map(_RECORD.fullmatch, self._storage.names(RECORDS))
        return {(int(match[1]), int(match[2])) for match in matches if match}

    def read(self, block: int, rows: int) -> Record:
        """Reads a record; raises FileNotFoundError or StoreCorruptError."""
        file = record_file(block, rows)
        try:
            record = Record(**zarr_json.unseal(self._storage.read_json(file)))
            lengths = set(map(len, record.digests.values()))
            valid = (
                (record.store, record.block) == (self._store, block)
                and 0 < record.rows == rows <= self._layouts[0].block_rows
                and record.digests.keys() == {lay.spec.path for lay in self._layouts}
                and lengths == {digests.DIGITS}
            )
        except (StoreCorruptError, AttributeError, TypeError, ValueError):
            valid = False
        if not valid:
            raise StoreCorruptError(
                f"{self._storage.path_of(file)} is damaged, or of another store. "
                "Delete it, and do the same again: its block is written again."
            )
        return record

    def read_all(
        self, blocks: Iterable[tuple[int, int]]
    ) -> Generator[Record, None, None]:
        """Reads records in the order of the blocks; the next ones are read ahead."""
        return map_ahead(
            lambda block: self.read(*block), blocks, threads=_READERS, most=_READERS
        )

    def cache(self, record: Record) -> None:
        """Caches the digests of a record, which is not read again by `extend`."""
        by_array = (record.digests[layout.spec.path] for layout in self._layouts)
        self._cached[record.block] = record.rows, "".join(by_array)

    def extend(self, layouts: Layouts) -> Layouts:
        """Returns the arrays with the rows of the recorded blocks that follow."""
        recorded, block_rows = dict(self.blocks()), layouts[0].block_rows
        first = block = min(layout.rows for layout in layouts) // block_rows
        following = []
        while block in recorded:
            following.append(block)
            # No block follows one that is not full.
            block = block + 1 if recorded[block] == block_rows else -1
        unknown = [(b, recorded[b]) for b in following if b not in self._cached]
        with closing(self.read_all(unknown)) as records:
            for record in records:
                self.cache(record)
        blocks = [self._cached[block] for block in following]
        rows = first * block_rows + sum(rows for rows, _ in blocks)
        longer = list(layouts)
        for number, layout in enumerate(layouts):
            if layout.rows < rows:
                part = slice(number * digests.DIGITS, (number + 1) * digests.DIGITS)
                added = "".join(of_all[part] for _, of_all in blocks)
                longer[number] = layout.committed(first, rows, added)
        return longer


def record_file(block: int, rows: int) -> str:
    """Returns the name of a record; a last block with fewer rows has another one."""
    return f"{RECORDS}/{block}.{rows}"
