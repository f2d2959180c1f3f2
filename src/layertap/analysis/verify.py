"""Recomputes what was saved, and compares."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from layertap.core import address, tables, text, tolerance
from layertap.core.address import DIGESTS, LENGTHS
from layertap.core.plan import Join, Plan
from layertap.core.values import Values, auxiliary_arrays, length_columns
from layertap.errors import DataError, OptionError, OtherRunError, StoreError
from layertap.inputs.feed import Batch, Feed
from layertap.pipeline.tap import Tap
from layertap.planning import fingerprint
from layertap.planning.padding import cut_to
from layertap.planning.reduction import NAMED, Reduce, Reduction
from layertap.results.saved import Saved
from layertap.tracing.collect import versions
from layertap.tracing.model_structure import check_model, input_specs

Verdict = tolerance.Verdict | Literal["damaged"]

# Damaged files of an array that are named.
_TOLD = 20
_ORDER: tuple[Verdict, ...] = ("identical", "within rounding", "different", "damaged")


@dataclass
class Check:
    """What was checked of one value, or of one join, and what came out.

    Attributes:
        address: The address of the value; of a join, that of its output.
        what: What was compared with what.
        rows: How many rows were compared.
        verdict: The worst that was found.
        largest: The largest absolute difference.
        first: The first row that is different, or None.
        files: How many files of it are damaged.
        damage: What is wrong with the first of them: which, and the rows it holds.
    """

    address: str
    what: str
    rows: int = 0
    verdict: Verdict = "identical"
    largest: float = 0.0
    first: int | None = None
    files: int = 0
    damage: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is different or damaged."""
        return self.verdict in ("identical", "within rounding")

    def add(
        self,
        row: int,
        saved: NDArray[Any],
        fresh: NDArray[Any],
        computed: str | None = None,
    ) -> None:
        """Compares some more rows, the first of which is `row`.

        Args:
            row: Its number.
            saved: What was saved.
            fresh: The same, recomputed.
            computed: The dtype that both were computed in, if it is not theirs.
        """
        self.rows += len(saved)
        verdict: Verdict = tolerance.compare(saved, fresh, computed)
        self.verdict = max(self.verdict, verdict, key=_ORDER.index)
        if verdict == "identical":
            return
        if saved.shape != fresh.shape or saved.dtype != fresh.dtype:
            self.largest, found = np.inf, 0
        else:
            apart = tolerance.distance(saved, fresh).reshape(len(saved), -1).max(axis=1)
            self.largest = max(self.largest, float(apart.max()))
            found = int(apart.argmax())
        if verdict == "different" and self.first is None:
            self.first = row + found


@dataclass
class Report:
    """What `verify` found. True if nothing is wrong; printed, it is a table.

    Attributes:
        path: The store.
        rows: How many rows it has.
        checks: One check for each value, and one for each whole join.
        nonfinite: By address, how many NaN and infinities the checked rows hold.
        other_inputs: How many of the batches that were computed had other inputs than
            those saved of, or other rows.
    """

    path: str
    rows: int
    checks: list[Check]
    nonfinite: dict[str, int] = field(default_factory=dict)
    other_inputs: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is different or damaged."""
        return all(check.ok for check in self.checks)

    def __bool__(self) -> bool:
        return self.ok

    def to_json(self) -> dict[str, Any]:
        """Returns the report as data for JSON."""
        return {
            "path": self.path,
            "rows": self.rows,
            "ok": self.ok,
            "checks": [vars(check) for check in self.checks],
            "nonfinite": self.nonfinite,
            "other_inputs": self.other_inputs,
        }

    def __rich__(self) -> Table:
        title = Text(text.printable(f"Verified {self.path}"))
        table = Table(title=title, title_justify="left")
        for heading in ("address", "compared", "rows", "verdict", "largest difference"):
            table.add_column(heading, overflow="fold")
        for check in self.checks:
            style = "green" if check.ok else "red"
            verdict: str = check.verdict
            if check.damage:
                verdict += f", {check.files} file{'s' * (check.files != 1)}"
            elif check.first is not None:
                verdict += f", worst of its batch in row {check.first}"
            table.add_row(
                Text(check.address),
                check.what,
                f"{check.rows:,}",
                Text(verdict, style=style),
                f"{check.largest:.3g}" if check.largest else "0",
            )
        count = sum(not check.ok for check in self.checks)
        table.caption = Text(
            f"{len(self.checks)} checks, {count} of them found something wrong."
            + "".join(
                f" {name} holds {n:,} NaN or infinite numbers."
                for name, n in self.nonfinite.items()
            )
            + self._blamed()
            + "".join(f"\n{told}" for check in self.checks for told in check.damage)
        )
        table.caption_justify = "left"
        return table

    def _blamed(self) -> str:
        """Says that it may be the data that differ, if it may."""
        if self.ok or not self.other_inputs:
            return ""
        return (
            f" {self.other_inputs} of the batches have other inputs than those that "
            "were saved of: the data differ, or where they are cut."
        )

    def __str__(self) -> str:
        return tables.plain(self)

    def _repr_html_(self) -> str:
        return tables.html(self)


def verify(
    saved: Saved,
    model: keras.Model | None = None,
    data: Any = None,
    *,
    rows: int | None = 1024,
    batch_size: int | None = None,
    reduce: Reduce = None,
) -> Report:
    """Checks saved values: recomputes rows from the data, and compares.

    For each value, sampled rows are computed again. For each join with all its
    branches saved, the saved branches, concatenated, are compared with the join's own
    output, computed again. Batches are those of the save, so that on the same machine,
    devices and backend all should be identical, bit for bit.

    Args:
        saved: The saved values, of `layertap.save` or `layertap.open`.
        model: The model. Without it every file is read, and compared with its
            checksums and digests; nothing is computed.
        data: The data, as of the save.
        rows: About how many rows to recompute: the first ones, the last ones, and
            some in between, whole batches. None for all.
        batch_size: Rows per batch, if not as in the save.
        reduce: The function that the save was given as `reduce=`, if it was given one.
            What else it was given is known from the store.

    Returns:
        The report: true if nothing is wrong.

    Raises:
        OtherRunError: If the model plans other values than those saved.
        StoreCorruptError: If, to compare, something is read that is damaged.
        DataError: If the data don't have the rows that were saved.
        OptionError: If the values were reduced by a function, and `reduce` is missing.

    Example:
    ```python
    report = layertap.verify(saved, model, x)
    assert report, report
    ```
    """
    if model is None:
        return _read_all(saved)
    check_model(model)
    specs = input_specs(model)
    feed = Feed(data, specs, batch_size)
    if batch_size is None and feed.batch_size is not None:
        feed = Feed(data, specs, saved.identity.get("batch size"))
    _check_model(saved, model)
    reduction = _reduction(saved, reduce)
    # What is left of reduced branches does not join.
    joined = reduction.reduce is None
    tap = Tap(model, saved.plan, reduction, joined=joined)
    values = {name: Check(name, "saved, recomputed") for name in _stored(saved)}
    joins = {
        join.path: Check(address.output(join.path), "branches joined, join recomputed")
        for join in saved.plan.joins
        if joined and join.rebuildable
    }
    other_inputs = 0
    nonfinite: dict[str, int] = {}
    for batch in _sampled(feed, saved.rows, rows):
        end = min(batch.row + batch.rows, saved.rows)
        part = slice(batch.row, end)
        whole = end - batch.row == batch.rows
        digests = saved.reader.array(DIGESTS)[part]
        other_inputs += bool((digests != fingerprint.inputs_digest(batch.inputs)).any())
        fresh = tap(batch)
        stored = {name: saved.reader.array(name)[part] for name in values}
        for name, array in stored.items():
            computed = saved.plan.narrowed.get(name)
            values[name].add(batch.row, array, fresh[name][: len(array)], computed)
            if array.dtype.kind in "fcV" and not np.isfinite(array).all():
                bad = np.count_nonzero(~np.isfinite(array))
                nonfinite[name] = nonfinite.get(name, 0) + int(bad)
        if LENGTHS in fresh:
            # A join has the rows of this batch without what they are padded with.
            _cut(saved.plan, fresh[LENGTHS][0], stored, fresh)
        for path, check in joins.items():
            join = saved.plan.join(path)
            own = fresh[address.output(path)]
            if join.axis:
                own = own[: end - batch.row]
            elif not whole:
                continue
            found = _joined(join, Values(saved.plan, stored)).astype(own.dtype)
            computed = join.dtype if own.dtype.name != join.dtype else None
            check.add(batch.row, found, own, computed)
    checks = [*values.values(), *joins.values()]
    if saved.rows and not any(check.rows for check in checks):
        raise DataError("The data have none of the rows that were saved.")
    return Report(saved.path, saved.rows, checks, nonfinite, other_inputs)


def _reduction(saved: Saved, reduce: Reduce) -> Reduction:
    """Returns what was done to the values of a store before they were stored.

    Raises:
        OptionError: If that takes a function which is not given.
        OtherRunError: If another reduction is given.
    """
    wanted = saved.plan.reduce
    named = wanted if wanted in NAMED else None
    given = Reduction(saved.plan.dtype, named if reduce is None else reduce)
    if given.name == wanted:
        return given
    if reduce is None:
        raise OptionError(
            f"{saved.path} holds values that were reduced by {wanted}, a function that "
            "the store does not have. Pass it: verify(saved, model, data, reduce=…)."
        )
    raise OtherRunError(
        f"{saved.path} holds values with reduction {wanted}; found {given.name}."
    )


def _cut(plan: Plan, lengths: NDArray[Any], *batches: dict[str, NDArray[Any]]) -> None:
    """Cuts the values of a batch, all rows of which have the same true sizes."""
    for arrays in batches:
        for name, axes in plan.padded.items():
            sizes = np.atleast_1d(lengths[length_columns(plan, name)]).tolist()
            arrays[name] = cut_to(arrays[name], axes, sizes)


def _joined(join: Join, values: Values) -> NDArray[Any]:
    """Returns the branches of a join, concatenated as the join does it."""
    branches = [values[branch.address] for branch in join.branches]
    assert join.axis is not None  # of these kinds
    together = np.stack if join.kind == "stack" else np.concatenate
    return together([b.astype(join.dtype) for b in branches], axis=join.axis)


def _check_model(saved: Saved, model: keras.Model) -> None:
    found = tolerance.differences(
        {"configuration": saved.identity.get("configuration")},
        {"configuration": fingerprint.configuration_digest(model)},
        "the model",
    )
    if versions()["backend"] == saved.identity.get("backend") and found:
        raise OtherRunError(
            f"{saved.path} was saved from another model than {model.name!r}: "
            + "; ".join(found)
            + ". Verify with the model that it was saved from."
        )


def _stored(saved: Saved) -> list[str]:
    """Returns the arrays of a store that are computed from the data."""
    return [
        *(value.address for value in saved.plan.stored),
        *auxiliary_arrays(saved.plan),
    ]


def _read_all(saved: Saved) -> Report:
    """Reads every file of a store, and says which are not as they were written."""
    groups = Check("", "groups read")
    try:
        saved.reader.check_groups()
    except StoreError as error:
        groups.verdict = "damaged"
        groups.files = 1
        groups.damage.append(text.printable(error))
    checks = [] if groups.ok else [groups]
    for name in saved.reader.paths:
        check = Check(name, "read, checksums and digests")
        for rows, wrong in saved.reader.array(name).check():
            check.rows += len(rows)
            if wrong is not None:
                check.verdict = "damaged"
                check.first = rows[0] if check.first is None else check.first
                check.files += 1
                if check.files <= _TOLD:
                    check.damage.append(text.printable(wrong))
        checks.append(check)
    return Report(saved.path, saved.rows, checks)


def _sampled(feed: Feed, saved: int, wanted: int | None) -> Iterator[Batch]:
    """Yields batches that cover about so many rows, the first and the last of all."""
    size = feed.first().rows
    starts = range(0, saved, size)
    count = len(starts) if wanted is None else max(2, -(-wanted // size))
    chosen = sorted(
        {
            starts[i]
            for i in np.linspace(0, len(starts) - 1, min(count, len(starts))).astype(
                int
            )
        }
    )
    if feed.rows is not None:
        if feed.rows < saved:
            raise DataError(
                f"The data have {feed.rows} rows, but {saved} were saved from them."
            )
        for start in chosen:
            yield next(feed.batches(start))
        return
    for batch in feed.batches():
        if batch.row >= saved:
            return
        if any(batch.row <= start < batch.row + batch.rows for start in chosen):
            yield batch
