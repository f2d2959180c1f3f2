"""Objects of an object store, by `s3://bucket/key` and `gs://bucket/key`.

TensorStore's own drivers speak to it: they sign, retry, and wait where they are told to
slow down. An object is put whole or not at all, and it can be put on the condition that
it is still the one that was seen last: what a process has seen is remembered in the
session that its paths share, so nobody's writing is lost without an error.
"""

import itertools
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from layertap.errors import OptionError, StoreError
from layertap.store.storage.tensorstore import (
    SCHEMES,
    check_not_forked,
    opened,
    said_by,
    tensorstore,
)

Buffer = bytes | memoryview

# The generation of an object that is not there: TensorStore's.
_NOT_THERE = b"\x02"
# Each is in memory once more while it is on its way.
_PUTS_AT_ONCE = 8
_DELETES_AT_ONCE = 32
_DELETES_BEGUN = 4096


class TakenError(StoreError):
    """An object is not the one that this process saw last."""


@dataclass
class Session:
    """What one reader or writer has seen of a bucket.

    Args:
        scheme: `"s3"` or `"gs"`.
        bucket: The name of the bucket.

    Attributes:
        seen: By key, the generation of the object when it was last read or put.
    """

    scheme: str
    bucket: str
    seen: dict[str, bytes] = field(default_factory=dict)
    _values: Any = field(default=None, repr=False)

    def __reduce__(self) -> Any:
        # Another process has seen nothing.
        return Session, (self.scheme, self.bucket)

    @property
    def values(self) -> Any:
        """The bucket, as TensorStore's key-value store.

        Raises:
            StoreError: If it can't be opened, or this process was forked.
        """
        check_not_forked()
        if self._values is None:
            self._values = opened(self.scheme, self.bucket)
        return self._values

    @cached_property
    def context(self) -> Any:
        """What TensorStore keeps of arrays that are read: as much as shards may."""
        return tensorstore().Context({"cache_pool": {"total_bytes_limit": 2**29}})


@dataclass(frozen=True)
class ObjectPath:
    """The key of an object, or of all below it, as a path.

    Args:
        session: What was seen of the bucket.
        key: Names joined by `/`.
    """

    session: Session = field(compare=False)
    url: str
    key: str = field(compare=False)

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(self.session, f"{self.url}/{name}", f"{self.key}/{name}")

    def __str__(self) -> str:
        return self.url

    def __fspath__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    def read(self) -> bytes:
        """Returns what the object holds.

        Raises:
            FileNotFoundError: If there is none.
            StoreError: If it can't be read.
        """
        values = self.session.values
        try:
            found = values.read(self.key).result()
        except ValueError as error:
            _raise_unreadable(self, error)
        self.session.seen[self.key] = found.stamp.generation
        if found.state == "missing":
            raise FileNotFoundError(f"There is no {self.url}.")
        return bytes(found.value)

    def exists(self) -> bool:
        """Returns whether there is such an object.

        Raises:
            StoreError: If that can't be read.
        """
        return bool(self._keys(self.key, f"{self.key}\0"))

    def changed(self) -> Any:
        """Begins to ask whether the object is not the one that was seen last.

        Returns:
            What `result()` says so of.
        """
        seen = self.session.seen.get(self.key, b"")
        return self.session.values.read(self.key, if_not_equal=seen)

    def names(self) -> list[str]:
        """Returns the keys of all objects below this one, after its own."""
        prefix = f"{self.key}/"
        # "0" is what comes after "/".
        found = self._keys(prefix, f"{self.key}0")
        # What is listed may be deleted: no trust in others to know their alphabet.
        return sorted(k.removeprefix(prefix) for k in found if k.startswith(prefix))

    def _keys(self, first: str, end: str) -> list[str]:
        values, key_range = self.session.values, tensorstore().KvStore.KeyRange
        try:
            found = values.list(key_range(first.encode(), end.encode())).result()
        except ValueError as error:
            _raise_unreadable(self, error)
        return [key.decode() for key in found]

    def below(self) -> Any:
        """Returns all objects below this one, as TensorStore's key-value store."""
        return self.session.values / f"{self.key}/"


# Composed by `/`, and told by `str`.
Location = Path | ObjectPath


def parse(path: str | os.PathLike[str]) -> ObjectPath | None:
    """Returns the path of an object; None if it is one of a file system.

    Args:
        path: `"s3://bucket/values.zarr"`, say.

    Raises:
        OptionError: If it has no bucket, no key, or another scheme.
        BackendMissingError: If TensorStore is not installed.
    """
    if isinstance(path, ObjectPath):
        return path
    text = os.fspath(path)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return None
    bucket, _, key = rest.partition("/")
    key = key.rstrip("/")
    parts = key.split("/")
    if scheme not in SCHEMES or not bucket or any(p in ("", ".", "..") for p in parts):
        raise OptionError(
            f"{text[:200]!r} is no place for a store: expected a folder, "
            "s3://bucket/values.zarr or gs://bucket/values.zarr."
        )
    tensorstore()
    return ObjectPath(Session(scheme, bucket), f"{scheme}://{bucket}/{key}", key)


def put(contents: Mapping[ObjectPath, Iterable[Buffer]], *, any_: bool = False) -> None:
    """Puts objects, each whole or not at all; in what order is not said.

    Args:
        contents: What each object is to hold, in pieces.
        any_: Whether to put them whatever is there. Else only those that are still as
            they were seen last; those never seen may not be there.

    Raises:
        TakenError: If one is not.
        StoreError: If one can't be put.
    """
    with ThreadPoolExecutor(_PUTS_AT_ONCE) as pool:
        list(
            pool.map(
                lambda item: _put(item[0], b"".join(item[1]), any_), contents.items()
            )
        )


def _put(path: ObjectPath, content: bytes | None, any_: bool = False) -> None:
    seen = path.session.seen
    condition = None if any_ else seen.get(path.key, _NOT_THERE)
    values = path.session.values
    try:
        stamp = values.write(path.key, content, if_equal=condition).result()
        generation = stamp.generation
    except ValueError as error:
        _raise_unwritable(path, error)
    if not generation:
        # Its answer may have been lost, and the put tried again by TensorStore.
        try:
            same = path.read() == content
        except FileNotFoundError:
            same = content is None
        if not same:
            raise TakenError(
                f"{path} is not as this process left it: another one writes there"
            )
        return
    seen[path.key] = generation


def delete(paths: Iterable[ObjectPath], *, any_: bool = True) -> None:
    """Deletes objects, if they are there.

    Args:
        paths: Which ones.
        any_: As of `put`.

    Raises:
        TakenError: As of `put`.
        StoreError: If one can't be deleted.
    """
    all_of_them = iter(paths)
    with ThreadPoolExecutor(_DELETES_AT_ONCE) as pool:
        # Of a large store, there is no room for all of them on their way.
        while some := list(itertools.islice(all_of_them, _DELETES_BEGUN)):
            list(pool.map(lambda path: _put(path, None, any_), some))
            for path in some:
                path.session.seen.pop(path.key, None)


def _raise_unreadable(path: ObjectPath, error: ValueError) -> NoReturn:
    raise StoreError(
        f"{path} can't be read: {said_by(error)}. Check its name, the "
        "credentials, and where AWS_ENDPOINT_URL leads."
    ) from error


def _raise_unwritable(path: ObjectPath, error: ValueError) -> NoReturn:
    raise StoreError(
        f"{path} can't be written: {said_by(error)}. Check the bucket, the "
        "credentials, and where AWS_ENDPOINT_URL leads"
    ) from error
