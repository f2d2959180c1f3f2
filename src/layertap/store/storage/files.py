"""A store in a folder of the local file system."""

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from layertap.store.storage.base import MOST_JSON_BYTES, Buffer, Contents, Storage
from layertap.store.storage.errors import damaged, unreadable
from layertap.store.storage.lock import Lock, WriterRecord, lock_folder

# The end of the name of a new file, until it replaces the old one.
NEW = ".new"
# Not on Windows.
_FOLDER = getattr(os, "O_DIRECTORY", None)
_PLAINLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_SYNCS_AT_ONCE = 8


class LocalStorage(Storage):
    """The files in a folder. The operating system locks the folder.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()
        # Of each file that was read, when it was last.
        self.versions: dict[str, tuple[int, ...]] = {}

    def __fspath__(self) -> str:
        return str(self.folder)

    def read(self, name: str) -> bytes:
        """See `Storage`."""
        file = self.folder / name
        real = str(Path(os.path.realpath(self.folder), name))
        if "/" in name and os.path.realpath(file) != real:
            raise damaged(file, "leads out of the store, by a link")
        try:
            with open_plainly(file) as opened:
                status = os.fstat(opened.fileno())
                regular = stat.S_ISREG(status.st_mode)
                # Python allocates as many bytes as are asked for.
                most = min(status.st_size, MOST_JSON_BYTES) + 1
                content = opened.read(most) if regular else b""
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR):
                raise damaged(
                    file, "is a link or a folder, but should be a file"
                ) from error
            raise unreadable(file, error) from error
        if not regular:
            raise damaged(file, "is not a file")
        self.versions[name] = version_of(status)
        return content

    def names(self, folder: str = "") -> Iterator[str]:
        """See `Storage`."""
        top = str(self.folder / folder)
        try:
            for here, folders, files in os.walk(top, onerror=_raise):
                inner = Path(os.path.relpath(here, top)).as_posix()
                prefix = "" if here == top else f"{inner}/"
                if prefix and not folders and not files:
                    yield prefix
                links = [name for name in folders if (Path(here) / name).is_symlink()]
                yield from (prefix + name for name in files + links)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and error.filename == top:
                return
            raise unreadable(top, error) from error

    def size(self, folder: str) -> tuple[int, int | None]:
        """See `Storage`."""
        top = self.folder / folder
        try:
            # A file that is being written will have another name in a moment.
            files = [file for file in top.iterdir() if file.suffix != NEW]
            return len(files), sum(file.stat().st_size for file in files)
        except OSError as error:
            raise unreadable(top, error) from error

    def bytes_of(self, names: Iterable[str]) -> int:
        """See `Storage`. A file that was deleted since has none."""
        size = 0
        for name in names:
            with suppress(FileNotFoundError):
                size += (self.folder / name).lstat().st_size
        return size

    def replace(self, contents: Contents, suffix: str = NEW) -> None:
        """See `Storage`."""
        files = [self.folder / name for name in contents]
        new = [file.with_name(file.name + suffix) for file in files]
        # At the same time: a disk syncs many files in little more time than one.
        with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
            list(pool.map(_write, new, contents.values()))
            for written, file in zip(new, files, strict=True):
                written.replace(file)
            list(pool.map(sync, {file.parent for file in files}))

    def overwrite(self, contents: Contents) -> None:
        """See `Storage`."""
        self.replace(contents, f".{uuid.uuid4().hex[:8]}{NEW}")

    def create(self, name: str, content: bytes) -> bool:
        """See `Storage`."""
        file, complete = self.folder / name, f"{name}.{uuid.uuid4().hex[:8]}{NEW}"
        try:
            self.replace({complete: [content]})
            # A rename would replace a file that another process has made.
            os.link(self.folder / complete, file)
        except FileExistsError:
            return False
        finally:
            self.delete([complete])
        sync(file.parent)
        return True

    def remember(self, names: Iterable[str]) -> None:
        """Does nothing: under the lock, no other process replaces the files."""

    def delete(self, names: Iterable[str]) -> None:
        """See `Storage`."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def make_folder(self, folder: str) -> None:
        """See `Storage`."""
        (self.folder / folder).mkdir(exist_ok=True)
        sync(self.folder)

    def delete_folder(self, folder: str) -> None:
        """See `Storage`."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.folder / folder)

    def lock(self, writer: WriterRecord | None) -> Lock:
        """See `Storage`."""
        return lock_folder(self.folder, writer)


def version_of(status: os.stat_result) -> tuple[int, ...]:
    """Returns numbers that change when a file is replaced or written."""
    return status.st_ino, status.st_mtime_ns, status.st_size


def open_plainly(file: Path) -> BinaryIO:
    """Opens a file to read, but not through links, and without waiting for a pipe."""

    def plainly(path: str, flags: int) -> int:
        return os.open(path, flags | _PLAINLY)

    return open(file, "rb", opener=plainly)


def _write(new: Path, content: Iterable[Buffer]) -> None:
    # A crash may have left one; and nothing may be written through a link.
    new.unlink(missing_ok=True)
    try:
        with new.open("xb") as opened:
            opened.writelines(content)
            opened.flush()
            os.fsync(opened.fileno())
    except BaseException:
        # Half a file only keeps a full disk full.
        with suppress(OSError):
            new.unlink()
        raise


def sync(folder: Path) -> None:
    """Makes the names in a folder durable, where folders can be opened."""
    if _FOLDER is None:
        return
    descriptor = os.open(folder, os.O_RDONLY | _FOLDER)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise(error: OSError) -> None:
    raise error
