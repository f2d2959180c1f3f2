"""Deletes what stopped saves left in a store and next to it."""

import os

from layertap.store.format.root import read_root
from layertap.store.location import locate
from layertap.store.writing.writer import Writer


def clean(path: str | os.PathLike[str]) -> tuple[int, int | None]:
    """Deletes files that no committed row needs; returns their number and bytes.

    Blocks that workers completed, up to the first missing one, are committed before.
    The bytes are None in a bucket. StoreError is raised while a writer lives.
    """
    location = locate(path)
    storage = location.storage
    files, size = location.sweep()
    if not files or location.exists():
        complete = read_root(storage).complete
        sizes = {name: storage.bytes_of([name]) for name in storage.names()}
        if not complete:
            # A writer deletes what it does not resume.
            Writer.resume(path).close()
        removed = [sizes[name] for name in sizes.keys() - set(storage.names())]
        files += len(removed)
        known = [number for number in removed if number is not None]
        if len(known) < len(removed):
            return files, None
        size += sum(known)
    return files, size
