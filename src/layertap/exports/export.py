"""Exports saved values to one file of another format."""

import glob
import importlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from layertap.core.address import patterns
from layertap.core.progress import Show, show_progress
from layertap.errors import LayertapError, OptionError, StoreError
from layertap.exports.content import Content
from layertap.exports.projector import metadata_path
from layertap.pipeline.signals import raise_on_sigterm
from layertap.results.saved import Saved
from layertap.results.saved import open as open_saved
from layertap.store.storage.errors import write_error
from layertap.store.storage.files import sync
from layertap.store.storage.lock import lock_abandoned, lock_folder

# The module of each format.
_FORMATS = {
    ".parquet": "parquet",
    ".h5": "hdf5",
    ".npz": "npz",
    ".safetensors": "safetensors",
    ".tsv": "projector",
}

# `Path` removes the second slash.
_URL = re.compile(r"[a-z][a-z0-9+]+:/")


def export(
    saved: Saved | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    addresses: str | Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Show | None = None,
) -> Path:
    """Exports saved values to one file for other tools; the suffix selects the format.

    - `.parquet`: a column for each value. A row is a list of its numbers, flat.
    - `.h5`: a data set for each value, in groups: `file["fusion/in/0"]`.
    - `.npz`: an array for each value: `numpy.load(path)["fusion/in/0"]`.
    - `.safetensors`: a tensor for each value.
    - `.tsv`: vectors for the embedding projector, one line a row; ids and labels are
      in a second file, `x.metadata.tsv` for `x.tsv`.

    Ids, labels, sample weights and the true sizes of padded values are exported, too.
    Numbers stay the same to the bit. Numbers of bfloat16 stay so in `.safetensors`; in
    the other formats they become float32, which has each of them. Rows are read and
    written some megabytes at a time. The file appears when it is complete.

    Args:
        saved: Saved values, or the path or URL of their store. Of a store that is not
            complete, the committed rows are exported.
        path: The file, on this machine.
        addresses: Globs over addresses of values, gradients and attributions; by
            default all of them.
        overwrite: Whether to replace a file that exists.
        progress: See `layertap.save`.

    Returns:
        The path of the file.

    Raises:
        OptionError: If the suffix is unknown, the file exists, or the format can't
            hold a dtype: complex numbers in Parquet, for example.
        AddressError: If a glob matches nothing.
        BackendMissingError: If the library of the format is not installed.
        StoreError: If the store can't be read, or the file not be written.

    Example:
    ```python
    layertap.export(saved, "values.parquet", addresses="fusion/in/*")
    ```
    """
    target = Path(path)
    files = _files(target)
    module = importlib.import_module(f"layertap.exports.{_FORMATS[target.suffix]}")
    _check_free(files, overwrite)
    source = open_saved(saved)
    with show_progress(progress) as display, raise_on_sigterm():
        content = Content(source, patterns(addresses), display)
        content.show_progress()
        try:
            with _folder_next_to(target) as folder:
                module.write(content, folder / target.name)
                _publish(folder, files)
        except LayertapError:
            raise
        except OSError as error:
            raise write_error(error, target, 0) from error
        content.show_progress(complete=True)
    return target


def _files(target: Path) -> list[Path]:
    """Returns the files of an export; the last one is that of the values."""
    if _URL.match(os.fspath(target)):
        raise OptionError(
            f"{target} is a URL. Expected the path of a file on this machine. Export "
            "to such a file, and copy it."
        )
    if target.suffix not in _FORMATS:
        raise OptionError(
            f"The format of {target} is unknown. Expected a suffix: "
            f"{', '.join(_FORMATS)}. Received {target.suffix or 'none'}."
        )
    return [*([metadata_path(target)] if target.suffix == ".tsv" else []), target]


def _check_free(files: list[Path], overwrite: bool) -> None:
    """Raises OptionError if a file can't be written without a loss."""
    for file in files:
        if file.is_dir():
            raise OptionError(f"{file} is a folder. Pass the path of a file.")
        if file.exists() and not overwrite:
            raise OptionError(f"{file} exists. Pass overwrite=True or another path.")


def _publish(folder: Path, files: list[Path]) -> None:
    """Moves complete files to their places; what belonged to old ones is removed."""
    written = [folder / file.name for file in files]
    for new in filter(Path.exists, written):
        with new.open("rb") as file:
            os.fsync(file.fileno())
    for new, place in zip(written, files, strict=True):
        if new.exists():
            new.replace(place)
        else:
            place.unlink(missing_ok=True)
    sync(folder.parent)


@contextmanager
def _folder_next_to(target: Path) -> Iterator[Path]:
    """Makes a folder for unfinished files, and removes those of killed exports."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.exporting"):
        # Unless that process is still at work.
        if lock := lock_abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
            lock.release()
    lock = None
    while lock is None:
        folder = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.exporting"
        folder.mkdir()
        # Another export may remove it before it is locked.
        try:
            with suppress(FileNotFoundError):
                lock = lock_folder(folder)
        except StoreError:
            folder.rmdir()
            raise
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
