"""Keeps all but one writer out of a store, and says who that one is.

The lock is the operating system's, on the folder of the store: it ends with its
process, however that ends. Who holds it stands in the root's `zarr.json`, for messages.
Where a file system can't lock folders, as over a network, that record is all there is.
"""

import errno
import fcntl
import os
import socket
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from layertap.errors import StoreError
from layertap.store.storage.objects import Location

# What file systems say that can't lock folders.
_NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

Writer = Mapping[str, Any]
# By descriptor, the folders that are locked by this process.
_held: dict[int, str] = {}


def this_process() -> dict[str, Any]:
    """Returns the record of a writer in this process."""
    return {
        "process": os.getpid(),
        "started": _started(os.getpid()),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        # Tells this time from others of the same process.
        "run": uuid.uuid4().hex[:8],
    }


def lock(path: Path, writer: Writer | None = None) -> int:
    """Keeps other writers out of a store.

    Args:
        path: The folder of the store.
        writer: The record of the one that wrote it last, if it did not end in order.

    Returns:
        What `release` takes. The lock is held until then, or its process ends.

    Raises:
        StoreError: If another writer has it.
        OSError: If there is no such folder.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        locked = isinstance(error, BlockingIOError)
        if locked or (error.errno in _NO_LOCKS and _may_be_alive(writer, path)):
            os.close(descriptor)
            raise taken(path, writer) from error
        if error.errno not in _NO_LOCKS:
            os.close(descriptor)
            raise
    _held[descriptor] = os.path.realpath(path)
    return descriptor


def lock_abandoned(path: Path) -> int | None:
    """Locks a folder that nobody has, as far as that can be known for certain.

    Args:
        path: The folder.

    Returns:
        What `release` takes, or None.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    _held[descriptor] = os.path.realpath(path)
    return descriptor


def release(descriptor: int) -> None:
    """Lets other writers into a store again."""
    if _held.pop(descriptor, None) is not None:
        os.close(descriptor)


def _may_be_alive(writer: Writer | None, path: Path) -> bool:
    """Whether a writer may be at work; one on another host may always be."""
    if writer is None:
        return False
    if writer["host"] != socket.gethostname():
        return True
    return alive(writer, os.path.realpath(path) in _held.values())


def alive(writer: Writer, here: bool) -> bool:
    """Whether a writer is a process on this host that has not ended.

    Args:
        writer: Its record.
        here: Whether this process is at it, if it is this one.
    """
    if writer["host"] != socket.gethostname():
        return False
    process = writer["process"]
    if process == os.getpid():
        return here
    started = _started(process)
    return started is not None and started == writer.get("started")


def _started(process: int) -> float | None:
    """Returns when a process was started, which tells it from others of its number.

    None if there is no such process. Where nothing tells, all have the same time.
    """
    proc = Path("/proc")
    with suppress(PermissionError):  # Somebody else's process.
        try:
            os.kill(process, 0)
        except (ProcessLookupError, OverflowError):
            return None
    try:
        # As of `man 5 proc`; what is before may have spaces and parentheses.
        _, _, rest = (proc / str(process) / "stat").read_text().rpartition(")")
        return float(rest.split()[19])
    except OSError:
        return 0.0


def taken(path: Location, writer: Writer | None) -> StoreError:
    """Returns what to tell of a store that another writer has.

    Args:
        path: The store.
        writer: The record of that one, if there is one.
    """
    who = "another process"
    if writer is not None:
        who = "process {process} on {host}, since {since}".format_map(
            {"process": "?", "host": "?", "since": "?", **writer}
        )
    return StoreError(
        f"{path} is being written already, by {who}. Wait until that has ended, or "
        "write to another path. If it was killed, the same call on its host goes on."
    )


def _let_go() -> None:
    """Closes what a forked process has inherited: it would hold on to the locks."""
    while _held:
        descriptor, _ = _held.popitem()
        os.close(descriptor)


os.register_at_fork(after_in_child=_let_go)
