"""What is at the path of a save already: a store of this run, of another, or none."""

import os
from collections.abc import Callable, Sequence

from layertap.errors import OtherRunError, StoreError
from layertap.pipeline.run import Run
from layertap.results.saved import Saved
from layertap.store import exists, remove


def find_existing_store(
    run: Run,
    path: str | os.PathLike[str],
    look: Callable[[Saved], list[str]],
    *,
    resume: bool,
    overwrite: bool,
    compression: str | None,
    memory: int,
) -> Saved | None:
    """Returns what this run has saved at a path before.

    A store of another run is deleted, if it is to be overwritten and once it is known
    that there will be another one.

    Args:
        run: The run.
        path: The path.
        look: Says how the data differ from those of a store of this run, as far as that
            is looked at where nothing is to be computed any more, or where the answer
            decides what is replaced.
        resume: As of `layertap.save`.
        overwrite: As of `layertap.save`.
        compression: As of `layertap.save`.
        memory: As of `layertap.save`.

    Returns:
        What was saved, to go on with if it is not complete; None if there is nothing.

    Raises:
        OtherRunError: If there is the store of another run, and it is not to be
            overwritten, or that takes data that come only once to be known.
        StoreError: If it is to be neither overwritten nor gone on with.
    """
    saved = Saved(path) if exists(path) else None
    if saved is None:
        return None
    problems = run.differences(saved)
    if not problems and (saved.complete or (overwrite and run.feed.again)):
        problems = look(saved)
        if problems and not run.feed.again:
            raise other_run(saved, problems, again=False)
    if overwrite and not resume and not saved.complete:
        problems = problems or ["resume=False"]
    if problems and overwrite:
        run.check(compression, memory)
        # Without holding its files open.
        del saved
        remove(path)
        return None
    if problems:
        raise other_run(saved, problems, again=run.feed.again)
    if not saved.complete and not resume:
        raise StoreError(
            f"{saved.path} has {saved.rows:,} rows of this run, and is not "
            "complete. Pass resume=True to go on, or overwrite=True to replace it."
        )
    return saved


def other_run(saved: Saved, problems: Sequence[str], *, again: bool) -> OtherRunError:
    """Returns what to tell of a store that another run made.

    Args:
        saved: The store.
        problems: What differs.
        again: Whether the data can be read once more.
    """
    instead = "pass overwrite=True to replace it" if again else "delete this one"
    return OtherRunError(
        f"{saved.path} is the store of another run. {'; '.join(problems)}. Its "
        f"{saved.rows:,} rows are kept. Save to another path, or {instead}."
    )
