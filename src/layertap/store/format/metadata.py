"""Reads the metadata of the arrays and groups of a store, and trusts none of it.

It may come from a stranger: any type and size is possible.
"""

from collections.abc import Iterable
from typing import Any

from layertap.errors import OptionError, StoreCorruptError
from layertap.store.format import zarr_json
from layertap.store.format.digests import DIGITS
from layertap.store.format.layout import CODECS, ArrayLayout, ArraySpec, check_paths
from layertap.store.format.root import Root, read_root
from layertap.store.format.zarr_json import METADATA_FILE, OURS, is_count
from layertap.store.storage.base import Storage
from layertap.store.storage.errors import damaged

# Far above the written sizes, for later versions, but no store can claim any size. One
# row may be larger than a block or a chunk may be.
_MOST_BLOCK_BYTES = 2**31
_MOST_CHUNK_BYTES = 2**28
_MOST_CHUNKS = 2**16
_MOST_AXES = 28
_MOST_ROWS = 2**62 - 2
_MOST_ROW_BYTES = 2**40

_INVALID = "does not hold the metadata of an array as layertap writes it"


def read_store(storage: Storage) -> tuple[Root, list[ArrayLayout]]:
    """Reads the root and the layouts of a store, or raises StoreError."""
    root = read_root(storage)
    try:
        return root, read_layouts(storage, root)
    except StoreCorruptError:
        # A complete store may have been reopened since, and have more rows.
        later = read_root(storage)
        if later == root:
            raise
        return later, read_layouts(storage, later)


def read_layouts(storage: Storage, root: Root) -> list[ArrayLayout]:
    """Reads the layouts of all arrays of a store, or raises StoreError."""
    try:
        check_paths(root.arrays)
    except OptionError as error:
        raise damaged(storage.path_of(METADATA_FILE), f"is damaged: {error}") from error
    layouts = [read_layout(storage, path, root.store) for path in root.arrays]
    blocks = {layout.block_rows for layout in layouts}
    # A first commit may change the sizes, and be interrupted: then there are no rows.
    if len(blocks) != 1 and all(layout.rows for layout in layouts):
        received = " and ".join(map(str, sorted(blocks))) or "no arrays"
        raise damaged(
            storage,
            "is damaged: its arrays do not agree. Expected one number of rows per "
            f"block. Received {received}",
        )
    for layout in layouts:
        if root.rows not in (None, layout.rows):
            raise damaged(
                storage.path_of(layout.metadata_file),
                f"has {layout.rows} rows, and the complete store {root.rows}: it is "
                "damaged, or an earlier one",
            )
    return layouts


def read_layout(storage: Storage, path: str, store: str) -> ArrayLayout:
    """Reads the layout of an array; raises unless it is of this store."""
    file, content = _read(storage, path, f"the store has an array {path}")
    return parse_layout(path, file, content, store)


def check_groups(storage: Storage, root: Root) -> None:
    """Reads the `zarr.json` of all groups in a store, or raises StoreError."""
    for group in group_paths(root.arrays):
        file, content = _read(storage, group, "its group has arrays")
        if not zarr_json.is_group(content):
            raise damaged(file, "is damaged: layertap writes other metadata of a group")


def _read(storage: Storage, folder: str, reason: str) -> tuple[str, dict[str, Any]]:
    """Returns the path and the content of a `zarr.json` that exists for a reason."""
    name = f"{folder}/{METADATA_FILE}"
    file = storage.path_of(name)
    try:
        return file, storage.read_json(name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise damaged(file, f"is missing, but {reason}") from error


def group_paths(arrays: Iterable[str]) -> list[str]:
    """Returns the paths of the groups of arrays, without the root."""
    parents = (name.split("/")[:-1] for name in arrays)
    paths = {"/".join(p[: n + 1]): None for p in parents for n in range(len(p))}
    return list(paths)


def parse_layout(path: str, file: str, metadata: Any, store: str) -> ArrayLayout:
    """Returns the layout in a file's content; raises unless it is of this store."""
    try:
        layout = _parse(path, metadata, store)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise damaged(file, _INVALID) from error
    # Other programs may have added to it, as zarr-python does with any change.
    if not (_is_valid(layout) and layout.structure().items() <= metadata.items()):
        raise damaged(file, _INVALID)
    if layout.metadata()["attributes"][OURS] != metadata["attributes"][OURS]:
        raise damaged(
            file, "does not have its own digest: it is damaged, or of another store"
        )
    return layout


def _parse(path: str, metadata: Any, store: str) -> ArrayLayout:
    rows, *shape = metadata["shape"]
    sharding = metadata["codecs"][0]["configuration"]
    codecs = [codec["name"] for codec in sharding["codecs"]]
    foreign_attributes = dict(metadata["attributes"])
    attributes = dict(foreign_attributes.pop(OURS))
    digests = attributes.pop(zarr_json.BLOCKS)
    writer = attributes.pop(zarr_json.WRITER, "")
    del attributes[zarr_json.SEAL]
    return ArrayLayout(
        ArraySpec(path, tuple(shape), metadata["data_type"], attributes),
        rows,
        metadata["chunk_grid"]["configuration"]["chunk_shape"][0],
        sharding["chunk_shape"][0],
        next((name for name in codecs if name in CODECS), None),
        store,
        digests,
        foreign_attributes,
        writer,
    )


def _is_valid(layout: ArrayLayout) -> bool:
    """Returns whether such an array can be written."""
    spec = layout.spec
    return (
        len(spec.shape) < _MOST_AXES
        # Of any size here, because a huge row is refused by its bytes.
        and all(type(size) is int for size in spec.shape)
        and spec.row_bytes <= _MOST_ROW_BYTES
        and is_count(layout.rows, most=_MOST_ROWS)
        and is_count(layout.block_rows, least=1)
        and is_count(layout.chunk_rows, least=1, most=layout.block_rows)
        and layout.block_rows % layout.chunk_rows == 0
        and layout.chunks <= _MOST_CHUNKS
        and _fits(layout.block_rows, spec, _MOST_BLOCK_BYTES)
        and _fits(layout.chunk_rows, spec, _MOST_CHUNK_BYTES)
        and isinstance(layout.digests, str)
        and len(layout.digests) == layout.blocks * DIGITS
        and isinstance(layout.writer, str)
    )


def _fits(rows: int, spec: ArraySpec, most_bytes: int) -> bool:
    return rows == 1 or rows * spec.row_bytes <= most_bytes
