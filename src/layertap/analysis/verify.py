"""Verifies saved values: recomputes rows and compares, or reads every file."""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from layertap.analysis.comparison import Check
from layertap.analysis.derivative_checks import DerivativeChecks
from layertap.analysis.reports import Report
from layertap.core import address, text
from layertap.core.values import Values, auxiliary_arrays, least_share, length_columns
from layertap.effects.derivatives import Baseline, Derivatives, derivatives
from layertap.effects.target import Of, Target
from layertap.errors import (
    DataError,
    OptionError,
    OtherRunError,
    StoreError,
    check_number,
)
from layertap.inputs.convert import Batch
from layertap.inputs.feed import Feed
from layertap.inputs.model_file import opened
from layertap.pipeline import fingerprint
from layertap.pipeline.planned_pass import planned_pass, with_means
from layertap.planning.padding import cut_to
from layertap.planning.reduction import NAMED, Reduce, Reduction
from layertap.planning.selection import Selection
from layertap.results.saved import Saved
from layertap.results.saved import open as open_saved
from layertap.tracing.collect import VERSIONS
from layertap.tracing.model_structure import check_model, input_specs


def verify(
    saved: Saved | str | os.PathLike[str],
    model: keras.Model | str | os.PathLike[str] | None = None,
    data: Any = None,
    *,
    rows: int | None = 1024,
    batch_size: int | None = None,
    reduce: Reduce = None,
    labels: str | None = None,
    ids: Any = None,
    gradients: Of | None = None,
    attributions: Of | None = None,
    baseline: Baseline | None = None,
) -> Report:
    """Verifies saved values: recomputes rows from the data, and compares.

    For each value, sampled rows are recomputed. For each join whose branches are all
    saved, their concatenation is compared with the recomputed output of the join.
    Batches are those of the save. On the same machine, devices and backend all values
    should therefore be identical, bit for bit.

    Saved gradients are recomputed, and those of the first batch are compared with
    finite differences. The sum of saved attributions is compared with the change of the
    target.

    Args:
        saved: The saved values, or the path of their store.
        model: The model, or the path of its file. Without it, nothing is computed:
            every file is read, and compared with its checksums and digests.
        data: The data of the save, in any form that `layertap.save` accepts.
        rows: About how many rows to recompute, in complete batches: the first ones, the
            last ones, and some in between. None for all.
        batch_size: Rows per batch, if not as in the save.
        reduce: The function that was passed to the save as `reduce=`, if any. The store
            knows all other options.
        labels: The column of the labels, if the save had one: it is not an input.
        ids: The column of the ids, in the same way.
        gradients: The function that was passed to the save as `gradients=`, if any.
        attributions: The same for `attributions=`.
        baseline: The arrays that were passed to the save as `baseline=`, if any.

    Returns:
        The report: true if nothing is wrong.

    Raises:
        OtherRunError: If the model plans other values than the saved ones.
        StoreCorruptError: If the rows to compare are damaged.
        DataError: If the data don't have the saved rows.
        OptionError: If a function reduced the values, and `reduce` is missing.

    Example:
    ```python
    report = layertap.verify(saved, model, x)
    assert report, report
    ```
    """
    saved = open_saved(saved)
    check_number("`rows`", rows, 1)
    if (model is None) != (data is None):
        raise OptionError(
            "`model` and `data` go together. Expected both, to recompute rows, or "
            "neither, to read every file."
        )
    if model is None:
        return _read_all(saved)
    targets = saved.plan.gradients_of, saved.plan.attributions_of
    model = opened(model, compiled="loss" in targets)
    check_model(model)
    specs = input_specs(model)
    columns = {"labels": labels, "ids": ids}
    feed = Feed(data, specs, batch_size, **columns)
    if batch_size is None and feed.batch_size is not None:
        feed = Feed(data, specs, saved.identity["batch size"], **columns)
    _check_same_model(saved, model)
    passed = derivatives(gradients, attributions, baseline or "zero", saved.plan.steps)
    reduction, chosen = _reduction(saved, reduce), _derivatives(saved, passed)
    if (saved.plan.baseline or "").startswith("mean"):
        joins: list[Any] = sorted({join.kind for join in saved.plan.joins})
        selection = Selection(
            before=[join.path for join in saved.plan.joins] or None,
            outputs=[output.parts.path for output in saved.plan.outputs] or None,
            joins=joins,
            derivatives=replace(chosen, baseline="mean"),
        )
        chosen = with_means(model, feed, selection).derivatives
    if chosen.attributions is not None:
        _check_same(saved, "baseline", saved.plan.baseline, chosen.baseline_name)
    batches = _sample(feed, saved.rows, rows)
    return _recompute(saved, model, reduction, chosen, batches)


def _recompute(
    saved: Saved,
    model: keras.Model,
    reduction: Reduction,
    chosen: Derivatives,
    batches: Iterator[Batch],
) -> Report:
    """Recomputes batches, and compares their rows as far as they are saved."""
    plan, reader = saved.plan, saved.reader
    # Reduced branches don't join.
    joined = reduction.reduce is None
    compute = planned_pass(model, plan, reduction, chosen, joined=joined)
    derived = DerivativeChecks(model, plan, chosen)
    others = auxiliary_arrays(plan).keys() - {address.GAPS}
    names = [*(value.address for value in plan.stored), *sorted(others)]
    values = {name: Check(name, what="saved, recomputed") for name in names}
    what = "branches joined, join recomputed"
    joins = {
        join: Check(address.output(join.path), what=what)
        for join in plan.joins
        if joined and join.rebuildable
    }
    every = [*values.values(), *joins.values(), *derived.checks]
    report = Report(saved.path, saved.rows, every, missing=saved.missing)
    for number, batch in enumerate(batches):
        rows = slice(batch.row, min(batch.row + batch.rows, saved.rows))
        digests = reader.array(address.DIGESTS)[rows]
        inputs = fingerprint.inputs_digests(batch.inputs)[: len(digests)]
        report.other_inputs += int((digests != inputs).sum())
        fresh = compute(batch)
        stored = {name: reader.array(name)[rows] for name in values}
        for name, array in stored.items():
            computed = plan.narrowed.get(name)
            again, least = fresh[name][: len(array)], least_share(plan, name)
            values[name].add(batch.row, array, again, computed, least)
            if array.dtype.kind in "fcV" and not np.isfinite(array).all():
                count = int(np.count_nonzero(~np.isfinite(array)))
                report.nonfinite[name] = report.nonfinite.get(name, 0) + count
        gaps = {n: reader.array(n)[rows] for n in auxiliary_arrays(plan)}
        derived.add(batch, stored | gaps, differences=number == 0)
        # A join has the rows of this batch without their padding.
        for name, axes in plan.padded.items():
            lengths = fresh[address.LENGTHS][0, length_columns(plan, name)]
            for arrays in (stored, fresh):
                sizes = np.atleast_1d(lengths).tolist()
                arrays[name] = cut_to(arrays[name], axes, sizes)
        for join, check in joins.items():
            output = fresh[address.output(join.path)]
            if join.axis:
                output = output[: len(digests)]
            elif len(digests) < batch.rows:
                continue
            branches = Values(plan, stored)
            parts = [branches[b.address].astype(join.dtype) for b in join.branches]
            combine = np.stack if join.kind == "stack" else np.concatenate
            rebuilt = combine(parts, axis=join.axis or 0).astype(output.dtype)
            computed = join.dtype if output.dtype.name != join.dtype else None
            check.add(batch.row, rebuilt, output, computed)
    if saved.rows and not any(check.rows for check in report.checks):
        raise DataError("The data have none of the saved rows. Pass those rows.")
    return report


def _reduction(saved: Saved, reduce: Reduce) -> Reduction:
    """Returns the reduction of a store's values; checks a passed one against it."""
    stored = saved.plan.reduce
    named = stored if stored in NAMED else None
    if reduce is None and stored is not None and named is None:
        raise _missing(saved, "reduce", stored)
    reduction = Reduction(saved.plan.dtype, named if reduce is None else reduce)
    _check_same(saved, "reduce", stored, reduction.name)
    return reduction


def _derivatives(saved: Saved, passed: Derivatives) -> Derivatives:
    """Returns the derivatives of a store; checks passed functions against it."""
    found: list[Target | None] = []
    for name, stored, target in (
        ("gradients", saved.plan.gradients_of, passed.gradients),
        ("attributions", saved.plan.attributions_of, passed.attributions),
    ):
        if target is None and stored is not None:
            if stored != "loss" and not stored.isdecimal():
                raise _missing(saved, name, stored)
            target = Target(int(stored) if stored.isdecimal() else stored)
        _check_same(saved, name, stored, target and target.name)
        found.append(target)
    return replace(passed, gradients=found[0], attributions=found[1])


def _missing(saved: Saved, name: str, stored: str) -> OptionError:
    return OptionError(
        f"{saved.path} was saved with {stored} as `{name}`, a function that the store "
        f"does not have. Pass it as `{name}=`."
    )


def _check_same(saved: Saved, name: str, stored: Any, passed: Any) -> None:
    if passed != stored:
        raise OtherRunError(
            f"{saved.path} was saved with another `{name}`. Expected "
            f"{text.printable(stored)}. Received {passed}."
        )


def _check_same_model(saved: Saved, model: keras.Model) -> None:
    expected = saved.identity.get("configuration")
    received = fingerprint.configuration_digest(model)
    same_backend = VERSIONS["backend"] == saved.identity.get("backend")
    if same_backend and received != expected:
        raise OtherRunError(
            f"{saved.path} was saved from another model than {model.name!r}. Expected "
            f"configuration {text.printable(expected)}. Received {received}. Verify it "
            "with the model of the save."
        )


def _read_all(saved: Saved) -> Report:
    """Reads every file of a store, and reports the damaged ones."""
    groups = Check("", what="groups read")
    try:
        saved.reader.check_groups()
    except StoreError as error:
        groups.add_damage(range(0), error)
    checks = [] if groups.ok else [groups]
    for name in saved.reader.paths:
        check = Check(name, what="read, checksums and digests")
        for rows, damage in saved.reader.array(name).check():
            check.add_damage(rows, damage)
        checks.append(check)
    return Report(saved.path, saved.rows, checks, missing=saved.missing)


def _sample(feed: Feed, saved_rows: int, wanted: int | None) -> Iterator[Batch]:
    """Yields batches of about so many rows, among them the first and the last one."""
    size = feed.first().rows
    starts = np.arange(0, saved_rows, size)
    count = len(starts) if wanted is None else max(2, -(-wanted // size))
    places = np.linspace(0, len(starts) - 1, min(count, len(starts))).astype(int)
    sample = starts[np.unique(places)].tolist()
    if feed.rows is not None:
        if feed.rows < saved_rows:
            raise DataError(
                f"The data have fewer rows than the store. Expected {saved_rows}. "
                f"Received {feed.rows}. Pass the data of the save."
            )
        for start in sample:
            yield next(feed.batches(start))
        return
    for batch in feed.batches():
        if batch.row >= saved_rows:
            return
        if any(batch.row <= start < batch.row + batch.rows for start in sample):
            yield batch
