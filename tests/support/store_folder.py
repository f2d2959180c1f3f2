"""A store in a local folder, as the suites of stores see it."""

import itertools
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from tests.support.store_rows import Place

# Later than any file's, and another one each time.
_times = itertools.count(2**62)


class Folder(Place):
    """A store in a local folder.

    Args:
        path: The folder.
    """

    def __init__(self, path):
        self.path = Path(path)

    def names(self):
        files = (file for file in self.path.rglob("*") if not file.is_dir())
        return sorted(str(file.relative_to(self.path)) for file in files)

    def read(self, name):
        return (self.path / name).read_bytes()

    def write(self, name, content):
        file = self.path / name
        # Some file systems wait for the disk where a file is emptied and written anew.
        file.unlink(missing_ok=True)
        file.write_bytes(content)
        # Whoever knows files by their times sees that this is not the one before,
        # however short ago that was written.
        time = next(_times)
        os.utime(file, ns=(time, time))

    def delete(self, name):
        (self.path / name).unlink()

    def copy(self):
        target = next(
            path
            for number in itertools.count(2)
            if not (path := self.path.with_name(f"{self.path.name}-{number}")).exists()
        )
        return Folder(shutil.copytree(self.path, target))

    @contextmanager
    def local(self):
        yield self.path
