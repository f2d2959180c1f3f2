"""A store in a bucket, as the suites of stores see it."""

import tempfile
from contextlib import contextmanager
from pathlib import Path

from tests.support.object_store import parts
from tests.support.store_rows import Place


class Bucket(Place):
    """A store in a bucket.

    Args:
        store: The object store.
        path: `"s3://bucket/key"`.
    """

    def __init__(self, store, path):
        self.store = store
        self.path = path
        self._bucket, self._key = parts(path)

    @classmethod
    def new(cls, store, key="v.zarr"):
        """Returns a place in a bucket of its own."""
        return cls(store, f"s3://{store.bucket()}/{key}")

    def names(self):
        prefix = f"{self._key}/"
        found = self.store.names(self._bucket, prefix)
        return sorted(name.removeprefix(prefix) for name in found)

    def read(self, name):
        return self._object("GET", name)

    def write(self, name, content):
        self._object("PUT", name, content)

    def delete(self, name):
        self._object("DELETE", name)

    def _object(self, method, name, content=None):
        return self.store.object(method, self._bucket, f"{self._key}/{name}", content)

    def copy(self):
        other = Bucket.new(self.store, self._key)
        for name in self.names():
            other.write(name, self.read(name))
        return other

    @contextmanager
    def local(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in self.names():
                file = Path(folder) / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(self.read(name))
            yield folder
