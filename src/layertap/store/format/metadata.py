"""Reads the `zarr.json` files of a store, with care.

They may come from a stranger: nothing is taken for granted, neither types nor sizes,
and no path may lead out of the store.
"""

from collections.abc import Iterable
from typing import Any

from layertap.errors import OptionError, StoreCorruptError
from layertap.store.format import digests
from layertap.store.format.layout import (
    BLOCKS,
    COMPRESSORS,
    METADATA_FILE,
    OURS,
    SEAL,
    WRITER,
    ArrayLayout,
    ArraySpec,
    check_paths,
    group_metadata,
)
from layertap.store.format.root import Root
from layertap.store.storage.base import Storage
from layertap.store.storage.errors import damaged

# Far above what is written, for versions to come: they keep a store from claiming any
# size. A row may be larger than a chunk or a block, which then have one row.
_MOST_BLOCK_BYTES = 2**31
_MOST_CHUNK_BYTES = 2**28
_MOST_CHUNKS = 2**16
_MOST_AXES = 30
_MOST_ROWS = 2**62 - 2
_MOST_ROW_BYTES = 2**40


def read_layouts(storage: Storage, root: Root) -> list[ArrayLayout]:
    """Reads the layouts of all arrays of a store.

    Raises:
        StoreCorruptError: If one is missing or damaged, if one is of another store, or
            they don't go together.
        StoreError: If one can't be read.
    """
    try:
        check_paths(root.arrays)
    except OptionError as error:
        raise damaged(storage.path_of(METADATA_FILE), f"is damaged: {error}") from error
    layouts = []
    for name in root.arrays:
        metadata_file = f"{name}/{METADATA_FILE}"
        file = storage.path_of(metadata_file)
        try:
            content = storage.read_json(metadata_file)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise damaged(
                file, f"is missing, but the store has an array {name}"
            ) from error
        layout = parse_layout(name, file, content, root.store)
        if root.rows not in (None, layout.rows):
            raise damaged(
                file,
                f"has {layout.rows} rows, and the complete store {root.rows}: it is "
                "damaged, or an earlier one",
            )
        layouts.append(layout)
    blocks = {layout.block_rows for layout in layouts}
    rows = {layout.rows for layout in layouts}
    if len(blocks) != 1 or (root.complete and len(rows) != 1):
        raise StoreCorruptError(
            f"{storage} is damaged: its arrays have {_listing(rows)} rows, in blocks "
            f"of {_listing(blocks)}, but all should have the same. "
            "Restore it from a copy, or save the values again."
        )
    return layouts


def check_groups(storage: Storage, root: Root) -> None:
    """Reads the `zarr.json` of the groups inside a store, which hold nothing else.

    Raises:
        StoreCorruptError: If one is missing or damaged.
        StoreError: If one can't be read.
    """
    for group in groups(root.arrays):
        metadata_file = f"{group}/{METADATA_FILE}"
        file = storage.path_of(metadata_file)
        try:
            content = storage.read_json(metadata_file)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise damaged(file, "is missing, but there are arrays below") from error
        expected = group_metadata({})
        if not expected.items() <= ({**content, "attributes": {}}).items():
            raise damaged(file, "is damaged: it is not as layertap writes a group")


def groups(arrays: Iterable[str]) -> list[str]:
    """Returns the paths of the groups that arrays are in, without the root."""
    parents = (name.split("/")[:-1] for name in arrays)
    found = {"/".join(p[: n + 1]): None for p in parents for n in range(len(p))}
    return list(found)


def parse_layout(path: str, file: str, metadata: Any, store: str) -> ArrayLayout:
    """Returns the layout that an array's `zarr.json` tells of.

    Args:
        path: The path of the array in its store.
        file: The file it was read from, for errors.
        metadata: Its contents.
        store: Which store it is in.

    Raises:
        StoreCorruptError: If it isn't as layertap writes it, or is of another store.
    """
    try:
        layout = _parsed(path, metadata, store)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise damaged(file, _NOT_OURS) from error
    # Other tools may have added to it, as zarr-python does on any change.
    if not (_sound(layout) and layout.described().items() <= metadata.items()):
        raise damaged(file, _NOT_OURS)
    written = metadata["attributes"].get(OURS)
    if layout.metadata()["attributes"][OURS] != written:
        raise damaged(
            file, "does not have its own seal: it is damaged, or of another store"
        )
    return layout


_NOT_OURS = "is not as layertap writes the metadata of an array"


def _parsed(path: str, metadata: Any, store: str) -> ArrayLayout:
    rows, *shape = metadata["shape"]
    sharding = metadata["codecs"][0]["configuration"]
    names = [codec["name"] for codec in sharding["codecs"]]
    others = dict(metadata["attributes"])
    ours = dict(others.pop(OURS))
    digests, writer = ours.pop(BLOCKS), ours.pop(WRITER, "")
    del ours[SEAL]
    return ArrayLayout(
        ArraySpec(path, tuple(shape), metadata["data_type"], ours),
        rows,
        metadata["chunk_grid"]["configuration"]["chunk_shape"][0],
        sharding["chunk_shape"][0],
        next((name for name in names if name in COMPRESSORS), None),
        store,
        digests,
        others,
        writer,
    )


def _sound(layout: ArrayLayout) -> bool:
    """Whether the sizes of a layout are such as can be written."""
    spec = layout.spec
    sizes = (layout.rows, layout.block_rows, layout.chunk_rows, *spec.shape)
    if any(type(size) is not int for size in sizes) or len(sizes) > _MOST_AXES:
        return False
    return (
        0 <= layout.rows <= _MOST_ROWS
        and 0 < layout.chunk_rows <= layout.block_rows
        and layout.block_rows % layout.chunk_rows == 0
        and layout.block_rows // layout.chunk_rows <= _MOST_CHUNKS
        and spec.row_bytes <= _MOST_ROW_BYTES
        and _small(layout.block_rows, spec, _MOST_BLOCK_BYTES)
        and _small(layout.chunk_rows, spec, _MOST_CHUNK_BYTES)
        and isinstance(layout.digests, str)
        and isinstance(layout.writer, str)
        and len(layout.digests) == layout.blocks * digests.DIGITS
    )


def _small(rows: int, spec: ArraySpec, most: int) -> bool:
    return rows == 1 or rows * spec.row_bytes <= most


def _listing(numbers: Iterable[Any]) -> str:
    return " and ".join(map(str, sorted(numbers))) or "no"
