"""What to tell the user when a store can't be written or read, and what to do."""

import errno
import os

from layertap.errors import StoreCorruptError, StoreError
from layertap.store.storage.objects import Location, TakenError

_SPACE = "Free some space, or inodes"
_WRITABLE = "Check who may write there"
_FILES = "Raise the limit on open files (`ulimit -n`), or close some"
_ADVICE = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.EROFS: "Make the disk writable",
    errno.EFBIG: "Raise the limit on the size of files (`ulimit -f`)",
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EIO: "Check the disk",
    errno.ENOLCK: "Use a file system that can lock files",
}


def write_error(error: Exception, path: Location, rows: int) -> StoreError:
    """Returns what to tell when a store can't be written.

    Args:
        error: What the operating system said.
        path: The folder of the store, absolute.
        rows: How many rows of it are committed.
    """
    code = error_number(error)
    reason = os.strerror(code) if code else str(error)
    if isinstance(error, OSError) and error.filename:
        reason += f": {os.fspath(error.filename)}"
    safe = f"Its {rows:,} rows so far are safe. " if rows else ""
    if isinstance(error, TakenError):
        return StoreError(
            f"{path} was taken over by another writer: {reason}. {safe}Let that one "
            "end; the same call then says what there is."
        )
    return StoreError(
        f"{path} could not be written: {reason}. {safe}"
        f"{_ADVICE.get(code, 'Mend that')}, then do the same again."
    )


def unreadable(file: Location, error: OSError) -> StoreError:
    """Returns what to tell when the operating system does not let a file be read.

    Args:
        file: The file.
        error: What the operating system said.
    """
    code = error_number(error)
    reason = os.strerror(code) if code else str(error)
    advice = _ADVICE.get(code, "Mend that").replace("may write", "may read")
    return StoreError(f"{file} can't be read: {reason}. {advice}.")


def damaged(file: Location, what: str) -> StoreCorruptError:
    """Returns what to tell of a file that does not hold what was written.

    Args:
        file: The file.
        what: What is wrong with it, as the rest of a sentence that begins with it.
    """
    return StoreCorruptError(
        f"{file} {what}. Restore it from a copy, or delete the store and save again."
    )


def error_number(error: Exception) -> int:
    """Returns the operating system's number of an error, or 0."""
    return error.errno or 0 if isinstance(error, OSError) else 0
