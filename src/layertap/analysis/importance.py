"""Importance: how much a head depends on each branch, measured on saved values."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from layertap.analysis import branch_facts
from layertap.analysis.importance_report import BranchImportance, Change, Importance
from layertap.analysis.perturbation import ChosenRows, HeadInputs
from layertap.core.plan import Branch, Join
from layertap.core.progress import OnProgress, Show, show_progress
from layertap.errors import (
    AddressError,
    DataError,
    NoJoinsError,
    OptionError,
    check_number,
)
from layertap.planning.split import split
from layertap.results.saved import Saved
from layertap.results.statistics.moments import Statistics
from layertap.results.training.selection import select_rows, select_targets
from layertap.tracing.model_structure import input_specs

Metrics = dict[str, float]


def importance(
    saved: Saved | str | os.PathLike[str],
    head: keras.Model,
    *,
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

    Args:
        saved: The saved values, or the path of their store: all that the head accepts.
        head: The head, see `layertap.split`; or any model that accepts a dictionary by
            address, or the concatenated branches of a single join.
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
        AddressError: If the head accepts values that were not saved.
        DataError: If there are no labels.
        OptionError: If there is no loss, or fewer than one repetition or two rows.

    Example:
    ```python
    saved = layertap.save(model, (x, y), "fusion.zarr", before="fusion", for_head=True)
    stem, head = layertap.split(model, before="fusion")
    head.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    print(layertap.importance(saved, head))
    ```
    """
    saved = saved if isinstance(saved, Saved) else Saved(saved)
    chosen = np.asarray(select_rows(rows, saved.rows), np.intp)
    check_number("`repeats`", repeats, 1)
    check_number("`seed`", seed, 0)
    check_number("`batch_size`", batch_size, 1)
    check_number("The number of `rows`", len(chosen), 2)
    names, joined = _accepted(saved, head)
    y, weights = select_targets(saved, True if labels is None else labels, True)
    if y is None:
        raise DataError(
            f"{saved.path} has no labels, which a loss needs. Pass `labels=`, or save "
            "them: save(model, (x, y), path)."
        )
    inputs = HeadInputs(saved, names, joined, (y, weights), chosen, batch_size)
    arrays = inputs.arrays
    compiled = _compiled(head, loss, metrics)
    joins = [join for join in saved.plan.joins if arrays.keys() >= {*join.addresses}]
    if not joins:
        raise AddressError(
            f"The head accepts {', '.join(names)}. Expected all branches of a join."
        )
    count = sum(len(join.branches) for join in joins)
    total = len(chosen) * (1 + count * (repeats + 2))
    with show_progress("permuting branches", total, 0, progress) as report:
        measurement = _Measurement(compiled, inputs, repeats, seed, report)
        base = measurement.evaluate({})
        branches = [
            measured for join in joins for measured in measurement.branches(join, base)
        ]
    widest = max(arrays[name].row_bytes for j in joins for name in j.addresses)
    most = max(len(join.branches) for join in joins)
    places = branch_facts.comparable(len(chosen), widest, most)
    redundancy = {}
    for join in joins:
        rows_of_branches = (arrays[name][places] for name in join.addresses)
        redundancy[join.path] = branch_facts.alignment(rows_of_branches)
    return Importance(
        *(head.name, len(chosen), repeats, base, tuple(branches)),
        *(redundancy, len(places)),
    )


@dataclass
class _Measurement:
    """Evaluates a compiled head with one branch changed after the other."""

    head: keras.Model
    inputs: HeadInputs
    repeats: int
    seed: int
    report: OnProgress
    done: int = 0

    def evaluate(self, changed: Mapping[str, Any]) -> Metrics:
        """Returns the loss and the metrics, with other arrays at some addresses."""
        data = self.inputs.dataset(changed)
        metrics = self.head.evaluate(data, verbose=0, return_dict=True)
        self.done += len(self.inputs.rows)
        self.report(self.done, 0)
        names = sorted(metrics, key=lambda name: (name != "loss", name))
        return {name: float(metrics[name]) for name in names}

    def branches(self, join: Join, base: Metrics) -> Iterator[BranchImportance]:
        """Yields the importance of the branches of a join."""
        pieces = map(self.inputs.pieces, join.addresses)
        statistics = list(map(branch_facts.unit_statistics, pieces))
        widths = _width_shares(join)
        norms = branch_facts.shares(list(map(branch_facts.mean_square, statistics)))
        for branch, known, width, norm in zip(
            join.branches, statistics, widths, norms, strict=True
        ):
            yield BranchImportance(
                branch.address,
                branch.made_by,
                join.path,
                **self._changes(branch, known, base),
                width_share=width,
                norm_share=norm,
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


def _accepted(saved: Saved, head: keras.Model) -> tuple[list[str], Join | None]:
    """Returns the addresses that a head accepts, and the join it accepts as one."""
    plan = saved.plan
    specs = input_specs(head)
    if isinstance(specs, dict):
        missing = sorted(specs.keys() - set(plan.addresses))
        if missing:
            raise AddressError(
                f"{head.name!r} needs {', '.join(missing)}, which {saved.path} does "
                f"not have. It has {', '.join(plan.addresses)}. Save all that the head "
                "needs: save(model, data, path, before=…, for_head=True)."
            )
        return sorted(specs), None
    names = [name for join in plan.joins for name in join.addresses]
    if not names:
        raise AddressError(
            f"{saved.path} has no branches, only outputs of operations. Save the "
            "branches of a join: save(model, data, path, before=…)."
        )
    if specs is None:
        return sorted({*names, *plan.skips}), None
    joins = [join for join in plan.joins if join.whole and join.kind == "concatenate"]
    shapes = [spec.shape[1:] for spec in keras.tree.flatten(specs)]
    if len(plan.joins) != 1 or shapes != [join.shape[1:] for join in joins]:
        raise AddressError(
            f"{head.name!r} does not accept the values of {saved.path}. Expected a "
            "dictionary by address, or the branches of one concatenation as one array. "
            f"Received a model for {shapes}, and the joins "
            f"{', '.join(join.path for join in plan.joins)}. For a complete model, "
            "pass the head: layertap.split(model, before=…)."
        )
    return names, joins[0]


def head_of(saved: Saved, model: keras.Model) -> keras.Model:
    """Returns the head of a model for the joins of a store; a head stays itself."""
    plan = saved.plan
    specs = input_specs(model)
    if isinstance(specs, dict) and specs.keys() <= set(plan.addresses):
        return model
    kinds = sorted({join.kind for join in plan.joins})
    try:
        return split(model, [join.path for join in plan.joins], joins=kinds)[1]
    except (NoJoinsError, AddressError):
        shapes = [spec.shape[1:] for spec in keras.tree.flatten(specs)]
        if any(shapes == [join.shape[1:]] for join in plan.joins):
            return model
        raise


class _CompiledHead(keras.Model):
    """A head to be compiled again: the user's own is not changed."""

    def __init__(self, head: keras.Model) -> None:
        super().__init__(name="layertap_measured")
        self.head = head
        self.built = True
        # Losses and metrics are named after them.
        if getattr(head, "output_names", None):
            self.output_names = list(head.output_names)

    def call(self, inputs: Any) -> Any:
        return self.head(inputs, training=False)


def _compiled(head: keras.Model, loss: Any, metrics: Any) -> keras.Model:
    """Returns a model of a head, with a loss and metrics."""
    compiled = _CompiledHead(head)
    if loss is not None:
        try:
            keras.tree.map_structure(keras.losses.get, loss)
        except ValueError as error:
            raise OptionError(f"Keras does not know this `loss`: {error}") from error
        compiled.compile(loss=loss, metrics=metrics)
        return compiled
    if metrics is not None:
        raise OptionError("`metrics` need a loss. Pass `loss=`, too.")
    config = head.get_compile_config() if head.compiled else None
    if not config or not config.get("loss"):
        raise OptionError(
            f"{head.name!r} was not compiled with a loss. Pass one, such as "
            'loss="sparse_categorical_crossentropy", and `metrics=`, if any.'
        )
    try:
        compiled.compile_from_config(config)
    except Exception as error:  # A user's loss may raise anything.
        raise OptionError(
            f"The loss and metrics of {head.name!r} can't be copied: {error} Pass "
            "`loss=` and `metrics=`."
        ) from error
    return compiled


def _change(base: Metrics, permuted: Sequence[Metrics], metric: str) -> Change:
    values = [metrics[metric] for metrics in permuted]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Change(float(np.mean(values)) - base[metric], spread)


def _width_shares(join: Join) -> Sequence[float | None]:
    """Returns the share that each branch has of the size of a concatenation."""
    axis = join.axis
    if axis is None or join.kind != "concatenate":
        return [None] * len(join.branches)
    return branch_facts.shares([branch.shape[axis] or 0 for branch in join.branches])
