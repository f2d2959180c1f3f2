"""A store in a bucket of an object store: `s3://bucket/key` or `gs://bucket/key`.

TensorStore's own drivers sign requests, retry them, and slow down when the server asks
for it. An object is put complete or not at all, on the condition that it is still the
version that this storage last read or wrote.
"""

import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, Self

from layertap.errors import OptionError, StoreError
from layertap.store.storage import buckets
from layertap.store.storage.base import Contents, Storage
from layertap.store.storage.errors import TakenError
from layertap.store.storage.lock import Lock, WriterRecord, lock_url

# TensorStore's generation of an object that is missing.
_MISSING = b"\x02"
# Each needs memory once more while it is on its way.
_PUTS_AT_ONCE = 8
_DELETES_AT_ONCE = 32
_DELETES_BEGUN = 4096


class ObjectStorage(Storage):
    """The objects of a bucket below a key.

    Args:
        scheme: `"s3"` or `"gs"`.
        bucket: The name of the bucket.
        key: Names joined by `/`.
    """

    def __init__(self, scheme: str, bucket: str, key: str) -> None:
        self._bucket = (scheme, bucket)
        self._key = key
        # By name, the generation of the object when it was last read or put.
        self._seen: dict[str, bytes] = {}
        self._opened: Any = None

    @classmethod
    def parse(cls, path: str | os.PathLike[str]) -> Self | None:
        """Returns the storage at a URL, or None for a path of a file system."""
        text = os.fspath(path)
        scheme, separator, rest = text.partition("://")
        if not separator:
            return None
        bucket, _, key = rest.partition("/")
        key = key.rstrip("/")
        parts = key.split("/")
        if (
            scheme not in buckets.SCHEMES
            or not bucket
            or any(part in ("", ".", "..") for part in parts)
        ):
            raise OptionError(
                f"{text[:200]!r} is not a place for a store. Expected a folder, "
                "s3://bucket/values.zarr or gs://bucket/values.zarr."
            )
        buckets.tensorstore()
        return cls(scheme, bucket, key)

    def __reduce__(self) -> Any:
        # Another process has seen nothing.
        return ObjectStorage, (*self._bucket, self._key)

    def __fspath__(self) -> str:
        return "{}://{}/{}".format(*self._bucket, self._key)

    @property
    def _values(self) -> Any:
        """The bucket, as TensorStore's key-value store."""
        buckets.check_not_forked()
        if self._opened is None:
            self._opened = buckets.open_bucket(*self._bucket)
        return self._opened

    @cached_property
    def context(self) -> Any:
        """TensorStore's cache of arrays that are read, of the size of other caches."""
        cache = {"total_bytes_limit": 2**29}
        return buckets.tensorstore().Context({"cache_pool": cache})

    def key_values(self, folder: str) -> Any:
        """Returns all objects in a folder, as TensorStore's key-value store."""
        return self._values / f"{self._key}/{folder}/"

    def changed(self, name: str) -> Any:
        """Begins to read an object, if it is another version than the last one."""
        seen = self._seen.get(name, b"")
        return self._values.read(f"{self._key}/{name}", if_not_equal=seen)

    def exists(self, name: str) -> bool:
        """Returns whether there is such an object."""
        key = f"{self._key}/{name}"
        return bool(self._keys(name, key, f"{key}\0"))

    def read(self, name: str) -> bytes:
        """See `Storage`."""
        values = self._values
        try:
            answer = values.read(f"{self._key}/{name}").result()
        except ValueError as error:
            raise self._error(name, "read", error) from error
        self._seen[name] = answer.stamp.generation
        if answer.state == "missing":
            raise FileNotFoundError(f"There is no {self.path_of(name)}.")
        return bytes(answer.value)

    def names(self, folder: str = "") -> Iterator[str]:
        """See `Storage`."""
        prefix = f"{self._key}/{folder}/" if folder else f"{self._key}/"
        # "0" follows "/".
        keys = self._keys(folder, prefix, f"{prefix[:-1]}0")
        # Listed objects may be deleted: not every server sorts keys by their bytes.
        yield from (k.removeprefix(prefix) for k in keys if k.startswith(prefix))

    def _keys(self, name: str, first: str, end: str) -> list[str]:
        key_range = buckets.tensorstore().KvStore.KeyRange(first.encode(), end.encode())
        values = self._values
        try:
            return [key.decode() for key in values.list(key_range).result()]
        except ValueError as error:
            raise self._error(name, "read", error) from error

    def size(self, folder: str) -> tuple[int, int | None]:
        """See `Storage`. To learn the size of an object, it would have to be read."""
        return len(list(self.names(folder))), None

    def replace(self, contents: Contents, if_unchanged: bool = True) -> None:
        """See `Storage`."""

        def put(name: str) -> None:
            self._put(name, b"".join(contents[name]), if_unchanged)

        with ThreadPoolExecutor(_PUTS_AT_ONCE) as pool:
            list(pool.map(put, contents))

    def overwrite(self, contents: Contents) -> None:
        """See `Storage`."""
        self.replace(contents, if_unchanged=False)

    def create(self, name: str, content: bytes) -> bool:
        """See `Storage`."""
        self._seen.pop(name, None)
        try:
            self._put(name, content, True)
        except TakenError:
            return False
        return True

    def _put(self, name: str, content: bytes | None, if_unchanged: bool) -> None:
        """Puts an object, or deletes it if its content is None."""
        condition = self._seen.get(name, _MISSING) if if_unchanged else None
        key, values = f"{self._key}/{name}", self._values
        try:
            stamp = values.write(key, content, if_equal=condition).result()
            generation = stamp.generation
        except ValueError as error:
            raise self._error(name, "written", error) from error
        if not generation:
            # TensorStore may have lost the answer to its put, and put it again.
            try:
                same = self.read(name) == content
            except FileNotFoundError:
                same = content is None
            if not same:
                raise TakenError(
                    f"{self.path_of(name)} is not as this process left it: another "
                    "one writes there."
                )
            return
        self._seen[name] = generation

    def remember(self, names: Iterable[str]) -> None:
        """See `Storage`."""
        for name in names:
            self.read(name)

    def delete(self, names: Iterable[str], *, if_unchanged: bool = False) -> None:
        """See `Storage`; with `if_unchanged`, raises TakenError like `replace`."""
        remaining = iter(names)
        with ThreadPoolExecutor(_DELETES_AT_ONCE) as pool:
            # The requests for all objects of a large store do not fit into memory.
            while some := list(itertools.islice(remaining, _DELETES_BEGUN)):
                list(pool.map(lambda name: self._put(name, None, if_unchanged), some))
                for name in some:
                    self._seen.pop(name, None)

    def make_folder(self, folder: str) -> None:
        """Does nothing: a bucket has no folders."""

    def delete_folder(self, folder: str) -> None:
        """See `Storage`."""
        self.delete(f"{folder}/{name}" for name in self.names(folder))

    def lock(self, writer: WriterRecord | None) -> Lock:
        """See `Storage`. Only processes of this host are kept out."""
        return lock_url(str(self), writer)

    def _error(self, name: str, action: str, error: ValueError) -> StoreError:
        return StoreError(
            f"{self.path_of(name)} can't be {action}: {buckets.message_of(error)}. "
            "Check the bucket, the credentials, and where AWS_ENDPOINT_URL leads."
        )
