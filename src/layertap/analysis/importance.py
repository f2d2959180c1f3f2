"""Importance: how much a head depends on each branch, measured on saved values."""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from layertap.analysis import branch_facts
from layertap.analysis.importance_report import BranchImportance, Change, Importance
from layertap.analysis.measured_head import (
    MeasuredHead,
    accepted_values,
    compile_arguments,
)
from layertap.analysis.perturbation import (
    ChosenRows,
    HeadInputs,
    are_finite,
    row_bytes,
)
from layertap.core import address
from layertap.core.plan import Branch, Join
from layertap.core.progress import Show, show_progress
from layertap.errors import (
    AddressError,
    DataError,
    LayertapError,
    OptionError,
    check_number,
)
from layertap.results.saved import Saved
from layertap.results.saved import open as open_saved
from layertap.results.statistics import similarity
from layertap.results.statistics.moments import Statistics, shares
from layertap.results.training.selection import Globs, select_rows, select_targets
from layertap.tracing.model_structure import functional

Metrics = dict[str, float]

# Attributions that are read at a time.
_PART_BYTES = 2**24


def importance(
    saved: Saved | str | os.PathLike[str],
    head: keras.Model,
    *,
    branches: Globs = None,
    loss: Any = None,
    metrics: Any = None,
    labels: Any = None,
    rows: Any = None,
    repeats: int = 5,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Show | None = None,
) -> Importance:
    """Measures how much a head depends on each branch, without running the stem.

    For each branch, it measures the change of the loss and the metrics when the branch
    is permuted between rows (permutation importance: Breiman 2001, "Random Forests"),
    is zero, or is its mean over the rows. It also measures each branch's share of the
    join, and how similar the branches are.

    If the loss of the unchanged values is not finite, rows with NaN or infinite values
    are left out, then rows with such labels or weights. The report names them.

    Args:
        saved: The saved values, or the path of their store: all that the head accepts.
        head: The head, see `layertap.split`; or any model that accepts a dictionary by
            address, or the concatenated branches of a single join.
        branches: Globs over addresses of branches, and over the operations that they
            came from: the branches to measure. By default all.
        loss: A loss, as in `head.compile`; by default the one of the compiled head.
        metrics: Metrics, as in `head.compile`; with `loss`, none by default.
        labels: The labels of all rows of the store, if it has none.
        rows: The rows to measure on, as in `Saved.dataset`; by default all. Prefer rows
            that the head was not trained on.
        repeats: How often each branch is permuted.
        seed: Makes the permutations repeatable.
        batch_size: Rows per batch; by default 64 MiB of them, at most 1024.
        progress: Whether to show progress, as in `layertap.save`.

    Returns:
        The importance of each branch. Printed, it is a table.

    Raises:
        AddressError: If the head accepts values that were not saved, or a glob matches
            no branch.
        DataError: If there are no labels, or the loss is not finite.
        OptionError: If there is no loss, or it can't be computed, or there are fewer
            than one repetition or two rows.

    Example:
    ```python
    saved = layertap.save(model, (x, y), "fusion.zarr", before="fusion", for_head=True)
    stem, head = layertap.split(model, before="fusion")
    head.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    print(layertap.importance(saved, head))
    ```
    """
    saved = open_saved(saved)
    chosen = np.asarray(select_rows(rows, saved.rows), np.intp)
    check_number("`repeats`", repeats, 1)
    check_number("`seed`", seed, 0)
    check_number("`batch_size`", batch_size, 1)
    check_number("The number of `rows`", len(chosen), 2)
    names, joined = accepted_values(saved, head)
    y, weights = select_targets(saved, True if labels is None else labels, True)
    if y is None:
        raise DataError(
            f"{saved.path} has no labels, which a loss needs. Save them, too: "
            "save(model, (x, y), path). In Python, `importance` accepts them as well."
        )
    arguments = compile_arguments(head, loss, metrics)
    joins = [join for join in saved.plan.joins if {*names} >= {*join.addresses}]
    if not joins:
        raise AddressError(
            f"The head accepts {', '.join(names)}. Expected all branches of a join."
        )
    measured = _select_branches(joins, branches)
    inputs = HeadInputs(saved, names, joined, (y, weights), chosen, batch_size)
    model = MeasuredHead(head, inputs)
    total = len(chosen) * (1 + len(measured) * (repeats + 2))
    with show_progress(progress) as display:
        display.status("permuting branches", total, 0)
        report = functools.partial(display.report, "permuting branches", total)
        measurement = _Measurement(model, inputs, repeats, seed, report)
        base = measurement.begin(arguments)
        results = [
            result
            for join in joins
            for result in measurement.branches(join, measured, base)
        ]
        redundancy, compared = measurement.redundancy(joins, results)
    left_out = np.setdiff1d(chosen, measurement.inputs.rows)
    return Importance(
        *(head.name, len(measurement.inputs.rows), repeats, base, tuple(results)),
        *(redundancy, compared, tuple(left_out.tolist())),
    )


def _select_branches(joins: Sequence[Join], globs: Globs) -> set[str]:
    """Returns the addresses of the branches to measure."""
    branches = [branch for join in joins for branch in join.branches]
    known = dict.fromkeys([b.address for b in branches] + [b.made_by for b in branches])
    patterns = address.patterns(globs) or ["*"]
    matched = {*address.match(patterns, list(known), what="branch")}
    return {b.address for b in branches if matched & {b.address, b.made_by}}


@dataclass
class _Measurement:
    """Evaluates a head with one branch changed after the other.

    `inputs` are those of the rows that are measured, `chosen` those of all chosen rows.
    """

    model: MeasuredHead
    inputs: HeadInputs
    repeats: int
    seed: int
    report: Callable[[int, int], None]
    evaluations: int = 0

    def __post_init__(self) -> None:
        self.chosen = self.inputs

    def evaluate(self, changed: Mapping[str, Any]) -> Metrics:
        """Returns the loss and the metrics, with other arrays at some addresses."""
        metrics = self.model.measure(self.inputs.batches(changed))
        self.evaluations += 1
        self.report(self.evaluations * len(self.chosen.rows), 0)
        names = sorted(metrics, key=lambda name: (name != "loss", name))
        return {name: float(metrics[name]) for name in names}

    def begin(self, arguments: Mapping[str, Any]) -> Metrics:
        """Compiles the head, and evaluates it on rows on which its loss is finite."""
        try:
            self.model.compile(**arguments)
            base = self.evaluate({})
        except Exception as error:  # The loss, the metrics and the head are a user's.
            if isinstance(error, LayertapError):
                raise
            # Keras prints a part of its messages in bold.
            plain = re.sub(r"\x1b\[\d*m", "", str(error))
            message = (
                f"{self.model.head.name!r} can't be evaluated on the saved values and "
                f"labels: {type(error).__name__}: {' '.join(plain.split())[:300]}"
            )
            if functional(self.model.head) is None:
                message += (
                    "\nFor a complete model, pass the head: "
                    "layertap.split(model, before=…)."
                )
            raise OptionError(message) from error
        for part in ("arrays", "targets"):
            if math.isfinite(base["loss"]):
                break
            finite = self.inputs.finite_rows(part)
            if not finite.all() and finite.sum() > 1:
                rows = self.inputs.rows[finite]
                self.inputs = dataclasses.replace(self.inputs, rows=rows)
                base = self.evaluate({})
        self.evaluations = 1
        if not math.isfinite(base["loss"]):
            raise DataError(
                f"The loss of {self.model.head.name!r} is {base['loss']}, also without "
                "the rows that hold NaN or infinite numbers. Expected a finite loss. "
                "Choose other rows with `rows=`, or another `loss=`."
            )
        return base

    def branches(
        self, join: Join, measured: set[str], base: Metrics
    ) -> Iterator[BranchImportance]:
        """Yields the importance of the measured branches of a join."""
        pieces = map(self.chosen.pieces, join.addresses)
        statistics = list(map(branch_facts.unit_statistics, pieces))
        widths = _width_shares(join)
        norms = shares(list(map(branch_facts.mean_square, statistics)))
        attributed = _attributed(self.inputs, join)
        for branch, known, width, norm, part in zip(
            join.branches, statistics, widths, norms, attributed, strict=True
        ):
            if branch.address not in measured:
                continue
            yield BranchImportance(
                branch.address,
                branch.made_by,
                join.path,
                **self._changes(branch, known, base),
                width_share=width,
                norm_share=norm,
                attributed=part,
                dead=int(known.dead.sum()),
                units=known.units,
                nan=int(known.nan.sum()),
                inf=int(known.inf.sum()),
            )

    def _changes(
        self, branch: Branch, known: Statistics, base: Metrics
    ) -> dict[str, Any]:
        """Returns the changes of metrics: permuted, zeroed and averaged."""
        name = branch.address
        array = self.inputs.arrays[name]
        # The permutations of a branch don't depend on the other branches.
        random = np.random.default_rng([self.seed, *name.encode()])
        permuted = [
            self.evaluate({name: self.inputs.permuted(name, random)})
            for _ in range(self.repeats)
        ]
        mean = known.mean.reshape(array.shape[1:]).astype(array.dtype)
        first = np.zeros_like(self.inputs.rows)
        zeroed, averaged = (
            self.evaluate({name: ChosenRows(row[None], first)})
            for row in (np.zeros_like(mean), mean)
        )
        return {
            "permuted": {metric: _change(base, permuted, metric) for metric in base},
            "zeroed": {metric: zeroed[metric] - base[metric] for metric in base},
            "averaged": {metric: averaged[metric] - base[metric] for metric in base},
        }

    def redundancy(
        self, joins: Sequence[Join], results: Sequence[BranchImportance]
    ) -> tuple[dict[str, Any], int]:
        """Returns how similar the branches of each join are, and on how many rows."""
        arrays = self.inputs.arrays
        names = {
            join.path: [r.address for r in results if r.join == join.path]
            for join in joins
        }
        widest = max(row_bytes(arrays[result.address]) for result in results)
        places = similarity.comparable(
            len(self.inputs.rows), widest, max(map(len, names.values()))
        )
        for result in results:
            if result.nan or result.inf:
                places = places[are_finite(arrays[result.address][places])]
        return {
            path: similarity.alignment(arrays[name][places] for name in members)
            for path, members in names.items()
            if members
        }, len(places)


def _change(base: Metrics, permuted: Sequence[Metrics], metric: str) -> Change:
    values = [metrics[metric] for metrics in permuted]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Change(float(np.mean(values)) - base[metric], spread)


def _attributed(inputs: HeadInputs, join: Join) -> Sequence[float | None]:
    """Returns each branch's share of the parts in a target, if these were saved."""
    saved, rows = inputs.saved, inputs.rows
    effects = saved.plan.effects("attribution")
    if not {*join.addresses} <= effects.keys():
        return [None] * len(join.branches)
    sizes = []
    for name in join.addresses:
        array = ChosenRows(saved[effects[name]], rows)
        size = max(_PART_BYTES // row_bytes(array), 1)
        parts = (array[start : start + size] for start in range(0, len(rows), size))
        sizes.append(sum(map(branch_facts.size_of_parts, parts)))
    return shares(sizes)


def _width_shares(join: Join) -> Sequence[float | None]:
    """Returns the share that each branch has of the size of a concatenation."""
    axis = join.axis
    if axis is None or join.kind != "concatenate":
        return [None] * len(join.branches)
    return shares([branch.shape[axis] or 0 for branch in join.branches])
