"""The summary of a store: what the commands print about it at the end."""

from collections.abc import Iterator
from typing import Any

# A larger share of a target that attributions miss is worth a line.
_MUCH = 1e-3


def summary(saved: Any, outcome: str = "") -> str:
    """Returns a line about a store, and others for what a user should know of it."""
    from layertap.core import tables, text

    state = "complete" if saved.complete else "not complete: repeat the save"
    on_disk = saved.bytes_on_disk
    size = "" if on_disk is None else f", {tables.size(on_disk)}"
    along = {
        "labels": saved.labels,
        "sample weights": saved.sample_weight,
        "ids": saved.identity["ids"],
    }
    names = [name for name, array in along.items() if array is not None]
    listed = ", ".join([*names[:-2], " and ".join(names[-2:])])
    extra = f", with {listed}" if names else ""
    if saved.missing:
        state += f" but for {text.counted(len(saved.missing), 'missing value')}"
    lines = [
        f"{saved.path}: {saved.rows:,} rows{extra}{size}, {state}. {outcome}".rstrip()
    ]
    lines += [
        f"{name}: {count:,} numbers too large for {saved.plan.dtype} became infinite."
        for name, count in saved.overflowed.items()
    ]
    lines += [
        f"The attributions of {name} miss up to {100 * gaps.max():.2g} % of the target."
        for name, gaps in saved.gaps.items()
        if gaps.size and gaps.max() > _MUCH
    ]
    lines += [f"{name} is missing: {why}." for name, why in saved.missing.items()]
    return text.printable("\n".join([*lines, *_notes(saved)]))


def _notes(saved: Any) -> Iterator[str]:
    """Yields a line for each thing that a user should know of the data."""
    from layertap.core import text

    others = [
        f"{n} {suffix or 'without a suffix'}" for suffix, n in saved.passed_over.items()
    ]
    for what, names in {
        "Classes of the labels": saved.class_names,
        "Skipped, since they can't be decoded": list(saved.skipped),
        "Passed over, since they are not images": others,
        "Not used": list(map(repr, saved.not_used)),
    }.items():
        if names:
            yield f"{what}: {text.listed(names)}."
