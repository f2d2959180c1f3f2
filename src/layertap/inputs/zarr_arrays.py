"""Zarr arrays of version 2 or 3, read by TensorStore when they are sliced."""

import json
import re
from collections.abc import Collection
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.errors import DataError
from layertap.inputs.lazy_array import LazyRows, Versions, file_versions, reporting
from layertap.store.storage.buckets import SCHEMES, bucket_spec, in_bucket, tensorstore

MARKS = ("zarr.json", ".zarray", ".zgroup")
URL = re.compile(r"[a-z][a-z0-9+]*://")
# Rows are read batch by batch, so decoded chunks are cached.
CACHE = 512 * 2**20


class ZarrArray(LazyRows):
    """An array in a folder or at a URL that TensorStore knows, opened on first use."""

    def __init__(self, location: str) -> None:
        self.location = location

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Its shape, rows first."""
        return tuple(map(int, self._opened.shape))

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        """Its dtype."""
        return np.dtype(self._opened.dtype.numpy_dtype)

    def versions(self) -> Versions:
        """See `FromFiles`; at a URL, those of its metadata only."""
        if not URL.match(self.location):
            files = sorted(Path(self.location).rglob("*"))
            return file_versions(file for file in files if file.is_file())
        with reporting(f"{self.location} can't be read", Exception):
            store = tensorstore().KvStore.open(_kvstore(self.location)).result()
            answers = {mark: store.read(mark).result() for mark in MARKS}
        return {
            f"{self.location}/{mark}": answer.stamp.generation.hex()
            for mark, answer in answers.items()
            if answer.state == "value"
        }

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Reads only the chunks with these rows."""
        problem = f"Rows {start} to {stop - 1} of {self.location} can't be read"
        # TensorStore's errors depend on the kind of store.
        with reporting(problem, Exception):
            return np.asarray(self._opened[start:stop].read().result())

    @cached_property
    def _opened(self) -> Any:
        context = _context()
        problem = f"{self.location} is not a Zarr array that TensorStore can read"
        with reporting(problem, Exception):
            opening = tensorstore().open(
                {"driver": "auto", "kvstore": _kvstore(self.location)},
                open=True,
                read=True,
                context=context,
                # The data do not change while they are read.
                recheck_cached_metadata="open",
                recheck_cached_data="open",
            )
            return opening.result()


def is_zarr(source: str) -> bool:
    """Whether this is in Zarr's format, by its files, or a URL of no bucket."""
    if in_bucket(source):
        return _node(_open_store(source), source, "") is not None
    return bool(URL.match(source)) or any(
        (Path(source) / mark).is_file() for mark in MARKS
    )


def open_zarr(
    source: str, inputs: Collection[str], optional: Collection[str] = ()
) -> ZarrArray | dict[str, ZarrArray]:
    """Opens an array, or the arrays of a group by name.

    All arrays of a bucket are listed only if one of `inputs` is missing, because that
    takes time. Else the `optional` arrays are added.
    """
    store = _open_store(source)
    node = _node(store, source, "")
    if node is None:
        raise DataError(
            f"{source} is not a Zarr array or group. Expected {', '.join(MARKS[:-1])} "
            f"or {MARKS[-1]} in it."
        )
    if node["node_type"] == "array":
        return ZarrArray(source)
    if "layertap" in node.get("attributes", {}):
        raise DataError(
            f"{source} is a store of layertap, which has many arrays. Pass the folder "
            "of one array, or package.module:callable that returns arrays of "
            "layertap.open."
        )
    if not URL.match(source):
        names = sorted(path.name for path in Path(source).iterdir())
    elif inputs and all(_is_array(store, source, name) for name in inputs):
        names = [*inputs, *optional]
    else:
        names = _members(store)
    names = [name for name in names if _is_array(store, source, name)]
    return {name: ZarrArray(f"{source.rstrip('/')}/{name}") for name in names}


def _open_store(source: str) -> Any:
    with reporting(f"{source} can't be opened", ValueError):
        return tensorstore().KvStore.open(_kvstore(source)).result()


def _node(store: Any, source: str, folder: str) -> dict[str, Any] | None:
    """Returns the metadata of a folder in the form of version 3, or None."""
    node = _json(store, source, f"{folder}zarr.json")
    if node is not None:
        return node if node.get("node_type") in ("array", "group") else None
    for mark, kind in ((".zarray", "array"), (".zgroup", "group")):
        if _json(store, source, folder + mark) is not None:
            attributes = _json(store, source, f"{folder}.zattrs") or {}
            return {"node_type": kind, "attributes": attributes}
    return None


def _is_array(store: Any, source: str, name: str) -> bool:
    node = _node(store, source, f"{name}/")
    return node is not None and node["node_type"] == "array"


def _members(store: Any) -> list[str]:
    """Lists the folders of a group that have metadata, sorted."""
    keys = [key.decode() for key in store.list().result()]
    inside = [key.split("/") for key in keys if key.count("/") == 1]
    return sorted({folder for folder, file in inside if file in MARKS})


def _json(store: Any, source: str, key: str) -> dict[str, Any] | None:
    # Errors of the network, the disk or the content.
    with reporting(f"{key} of {source} can't be read", Exception):
        result = store.read(key).result()
        value = json.loads(result.value) if result.state == "value" else None
    if value is not None and not isinstance(value, dict):
        raise DataError(f"{key} of {source} is not metadata of Zarr.")
    return value


def _kvstore(location: str) -> Any:
    """Returns TensorStore's description of a folder's location."""
    scheme, separator, rest = location.rstrip("/").partition("://")
    if scheme in SCHEMES:
        bucket, _, path = rest.partition("/")
        return bucket_spec(scheme, bucket) | {"path": f"{path}/"}
    if separator:
        return f"{location.rstrip('/')}/"
    # TensorStore refuses `..` in a path.
    return {"driver": "file", "path": f"{Path(location).resolve()}/"}


@cache
def _context() -> Any:
    return tensorstore().Context({"cache_pool": {"total_bytes_limit": CACHE}})
