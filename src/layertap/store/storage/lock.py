"""Keeps all but one writer out of a store, and describes that writer.

The operating system locks the folder of a store: the lock ends with its process,
however that ends. The root's `zarr.json` has a record of the writer, for messages.
Where a file system can't lock folders, and in a bucket, only the record protects.
On Windows, stores can be read only.
"""

import errno
import os
import socket
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from layertap.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# The errors of file systems that can't lock folders.
_NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

WriterRecord = Mapping[str, Any]


class Lock:
    """Keeps other writers out of a store, until it is released or its process ends."""

    def __init__(self, path: str, descriptor: int | None = None) -> None:
        self.path = path
        self._key = path if descriptor is None else descriptor
        self._descriptor = descriptor
        if _held.setdefault(self._key, self) is not self:
            raise taken(path, this_process())

    def release(self) -> None:
        """Lets other writers into the store again; a second call does nothing."""
        if _held.get(self._key) is not self:
            return
        del _held[self._key]
        if self._descriptor is not None:
            os.close(self._descriptor)


# By descriptor or URL, the locks of this process.
_held: dict[int | str, Lock] = {}


def this_process() -> dict[str, Any]:
    """Returns the record of a writer in this process."""
    return {
        "process": os.getpid(),
        "started": _start_time(os.getpid()),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        # Distinguishes this record from others of the same process.
        "run": uuid.uuid4().hex[:8],
    }


def lock_folder(path: Path, writer: WriterRecord | None = None) -> Lock:
    """Locks a folder; `writer` is the last one, if it did not close the store."""
    try:
        return _open_folder(path)
    except BlockingIOError as error:
        raise taken(path, writer) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        # A writer on another host may be alive.
        elsewhere = writer is not None and writer["host"] != socket.gethostname()
        if elsewhere or _is_alive(writer, os.path.realpath(path)):
            raise taken(path, writer) from error
    # Only the record of the writer protects this store.
    return _open_folder(path, lock=False)


def lock_abandoned(path: Path) -> Lock | None:
    """Locks a folder, or returns None unless it is certain that nobody has it."""
    try:
        return _open_folder(path)
    except OSError:
        return None


def _open_folder(path: Path, lock: bool = True) -> Lock:
    _require_locks()
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if lock:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return Lock(os.path.realpath(path), descriptor)


def lock_url(url: str, writer: WriterRecord | None) -> Lock:
    """Locks a store in a bucket for this process.

    A killed writer on another host can't be distinguished from one at work. It counts
    as killed: if it is at work, its next commit is refused.
    """
    _require_locks()
    if _is_alive(writer, url):
        raise taken(url, writer)
    return Lock(url)


def _require_locks() -> None:
    """Raises StoreError on systems where stores can be read only."""
    if fcntl is None:
        raise StoreError(
            "Stores and exports can't be written on this system, which can't lock "
            "folders. Expected Linux or another POSIX system. Received "
            f"{sys.platform}. Write them there or in WSL, and read the store here."
        )


def _is_alive(writer: WriterRecord | None, path: str) -> bool:
    """Returns whether a writer is a process on this host that has not ended."""
    if writer is None or writer["host"] != socket.gethostname():
        return False
    process = writer["process"]
    if process == os.getpid():
        return path in [lock.path for lock in list(_held.values())]
    started = _start_time(process)
    return started is not None and started == writer.get("started")


def _start_time(process: int) -> float | None:
    """Returns when a process started; None without it, 0 where that is not known."""
    if fcntl is None:  # On Windows, `os.kill` would end it.
        return 0.0
    with suppress(PermissionError):  # Somebody else's process.
        try:
            os.kill(process, 0)
        except (ProcessLookupError, OverflowError):
            return None
    try:
        # See `man 5 proc`; the fields before may have spaces and parentheses.
        _, _, rest = Path(f"/proc/{process}/stat").read_text().rpartition(")")
        return float(rest.split()[19])
    except OSError:
        return 0.0


def taken(path: object, writer: WriterRecord | None) -> StoreError:
    """Returns the error of a store that another writer has."""
    who = "another process"
    if writer is not None:
        who = "process {process} on {host}, since {since}".format_map(writer)
    return StoreError(
        f"{path} is being written already, by {who}. Wait until that has ended, or "
        "write to another path. If it was killed, repeat the call on its host."
    )


def _release_inherited() -> None:
    """Closes the descriptors of a forked process, which would hold on to the locks."""
    for lock in list(_held.values()):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_inherited)
