"""Errors of a storage, each with advice."""

import errno
import os

from layertap.errors import StoreCorruptError, StoreError

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


class TakenError(StoreError):
    """An object is not the version that this process last read or wrote."""


def write_error(error: Exception, path: object, rows: int) -> StoreError:
    """Returns the error of a store that can't be written, `rows` of it committed."""
    reason, advice = _explain(error)
    if isinstance(error, OSError) and error.filename:
        reason += f": {os.fspath(error.filename)}"
    safe = f"Its {rows:,} rows so far are safe. " if rows else ""
    if isinstance(error, TakenError):
        return StoreError(
            f"{path} was taken over by another writer: {reason}. {safe}Wait until that "
            "one has ended, then repeat the call."
        )
    return StoreError(
        f"{path} could not be written: {reason}. {safe}{advice}, then do the same "
        "again."
    )


def unreadable(file: object, error: OSError) -> StoreError:
    """Returns the error of a file that the operating system does not let be read."""
    reason, advice = _explain(error)
    advice = advice.replace("may write", "may read")
    return StoreError(f"{file} can't be read: {reason}. {advice}.")


def damaged(file: object, problem: str) -> StoreCorruptError:
    """Returns the error of a file that does not hold the written bytes."""
    return StoreCorruptError(
        f"{file} {problem}. Restore it from a copy, or delete the store and save again."
    )


def _explain(error: Exception) -> tuple[str, str]:
    """Returns the reason of an error, and advice."""
    code = error.errno or 0 if isinstance(error, OSError) else 0
    reason = os.strerror(code) if code else str(error).removesuffix(".")
    return reason, _ADVICE.get(code, "Fix the cause")
