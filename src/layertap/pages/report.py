"""Writes the page of a store."""

import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from layertap.errors import OptionError, StoreError
from layertap.pages.content import page_content
from layertap.pages.facts import page_facts
from layertap.pages.projection import Method, library
from layertap.pages.training import last_of
from layertap.results.saved import Saved
from layertap.results.saved import open as open_saved


def report(
    saved: Saved | Mapping[int, Saved] | str | os.PathLike[str],
    path: str | os.PathLike[str],
    against: Saved | str | os.PathLike[str] | None = None,
    *,
    inputs: Any = None,
    importance: Any = None,
    projection: Method = "pca",
    overwrite: bool = False,
) -> Path:
    """Writes a page about saved values: one HTML file that opens in any browser.

    It shows what the store is; how large the share of each branch in a join is, and how
    similar branches are; and for each value a histogram, mean and deviation by unit,
    dead units, NaN, rows that stand out, and a projection of rows, coloured by label.
    Up to eight rows are pictures: their inputs, if they are passed, and where the maps
    of values with gradients raise the target (see `layertap.grad_cam`).
    It has no script and loads nothing. All of it is computed from the statistics of the
    store, and from up to 1,024 rows that are spread over it.

    Args:
        saved: Saved values, or the path or URL of their store. Of a
            `layertap.Recording`, the page shows the last step, and a slider for up to
            24 steps: histograms, shares of the norm, and rows in the plane of the last
            step.
        path: The file, such as `"page.html"`.
        against: Other saved values to compare with, value by value: those of another
            model, backend or moment. Values that both have are shown together.
        inputs: The data that the model read, to show as pictures: arrays with one
            entry for each row of the store, in any structure. Pictures have the shape
            `(rows, height, width)`, also with one, three or four channels, first or
            last. Needs Keras, to check that they are the inputs of the store.
        importance: What `layertap.importance` returned for these values. The page then
            has the share of each branch in the rises of the loss when branches are
            permuted.
        projection: How rows are placed in a plane: `"pca"`, by their two largest
            principal components; or `"umap"`, so that rows that are neighbours stay
            neighbours, which needs `pip install "layertap[umap]"`. Of rows with more
            than 64 numbers, UMAP gets the 64 largest principal components. It places
            the same rows the same each time, on one machine.
        overwrite: Whether to replace a file that exists.

    Returns:
        The path of the file.

    Raises:
        OptionError: If the file exists, the recording is empty, `inputs` differs from
            those of the store, `importance` is of other values, or there is no such
            projection.
        DataError: If `inputs` has another number of rows.
        BackendMissingError: If UMAP is wanted, and not installed.
        StoreError: If the store can't be read, or the file not be written.

    Example:
    ```python
    layertap.report(saved, "page.html")
    layertap.report(saved, "pictures.html", inputs=images)
    ```
    """
    steps: Mapping[int, Saved] = {}
    if isinstance(saved, Mapping) and not isinstance(saved, Saved):
        steps, saved = saved, last_of(saved)
    saved = open_saved(saved)
    other = None if against is None else open_saved(against)
    target = _checked(path, overwrite)
    if projection not in get_args(Method):
        raise OptionError(
            f'`projection` is invalid. Expected "pca" or "umap". Received '
            f"{projection!r}."
        )
    if projection == "umap":
        library()
    page = page_facts(saved, projection, _rises(importance, saved))
    content = page_content(page, other, steps, inputs)
    new = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(content, "utf-8")
        new.replace(target)
    except OSError as error:
        raise StoreError(
            f"{target} could not be written: {error.strerror}. Pass another path."
        ) from error
    finally:
        with suppress(OSError):
            new.unlink()
    return target


def _rises(importance: Any, saved: Saved) -> dict[str, float]:
    """Returns how much the loss rises when a branch is permuted, by address."""
    branches = () if importance is None else getattr(importance, "branches", ())
    found = {one.address: one.permuted["loss"].mean for one in branches}
    if importance is not None and not found.keys() & {*saved.plan.addresses}:
        raise OptionError(
            f"`importance=` has no branch of {saved.path}. Expected what "
            f"`layertap.importance` returns for these values. Received "
            f"{type(importance).__name__}."
        )
    return found


def _checked(path: Any, overwrite: bool) -> Path:
    """Returns the path of a page; raises OptionError if it can't be one."""
    if not isinstance(path, str | os.PathLike) or not _is_name(os.fspath(path)):
        raise OptionError(
            f"The path of the page is invalid. Expected a file, such as page.html. "
            f"Received {path!r}."
        )
    target = Path(path)
    # Where the disk refuses a path, writing says why.
    with suppress(OSError):
        exists = target.exists()
        if exists and not target.is_file():
            raise OptionError(
                f"{target} is a folder or a device. Pass the path of a file."
            )
        # Each step of a recording is a store.
        folders = Path(os.path.realpath(target)).parents
        if any((folder / "zarr.json").is_file() for folder in folders):
            raise OptionError(f"{target} is inside the store. Pass another path.")
        if exists and not overwrite:
            raise OptionError(f"{target} exists. Pass overwrite=True or another path.")
    return target


def _is_name(path: str | bytes) -> bool:
    """Whether the operating system accepts a text as a path."""
    try:
        return isinstance(path, str) and bool(path) and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False
