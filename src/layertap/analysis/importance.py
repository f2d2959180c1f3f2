"""Which branch a head leans on, measured on saved values alone."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from layertap.analysis.branch_facts import Facts, alignment, comparable, shares
from layertap.analysis.importance_report import BranchImportance, Change, Importance
from layertap.analysis.perturbation import Batches, Changed, Reading, constant, permuted
from layertap.core.plan import Join
from layertap.core.progress import Show, show_progress
from layertap.errors import AddressError, DataError, NoJoinsError, OptionError
from layertap.planning.split import split
from layertap.results.saved import Saved
from layertap.results.training.selection import select_rows, select_targets
from layertap.tracing.model_structure import input_specs

Array = NDArray[Any]
Report = Callable[[int, int], None]


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
    """Measures which branch a head leans on, with no pass through what is before it.

    For each branch: how the loss and the metrics change when the branch is permuted
    between rows (permutation importance: Breiman 2001, "Random Forests"), when it is
    zero, and when it is its mean over the rows. Beside it, what of the join it is, and
    how much the branches tell of each other.

    Args:
        saved: The saved values, or the path of their store: all that the head takes.
        head: The head, as of `layertap.split`; or any model that takes a dictionary
            by address, or one that takes the branches of a single join concatenated.
        loss: A loss, as of `head.compile`; by default what the head was compiled with.
        metrics: Metrics likewise; with `loss`, none by default.
        labels: The labels of all rows of the store, as `saved.labels`, if they were
            not saved.
        rows: The rows to measure on, as of `Saved.dataset`; by default all. Best those
            that the head was not trained on.
        repeats: How often each branch is permuted.
        seed: For the same permutations again.
        batch_size: Rows at a time; by default as many as are 64 MiB, at most 1024.
        progress: As of `layertap.save`.

    Returns:
        The importance of each branch. Printed, it is a table.

    Raises:
        AddressError: If the head takes what was not saved.
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
    least = {"repeats": (repeats, 1), "seed": (seed, 0), "batch_size": (batch_size, 1)}
    for name, (given, most) in least.items():
        if given is not None and given < most:
            raise OptionError(f"`{name}` is at least {most}; found {given}.")
    chosen = np.asarray(select_rows(rows, saved.rows), np.intp)
    if len(chosen) < 2:
        raise OptionError(f"`rows` are at least 2; found {len(chosen)}.")
    names, joined = _taken(saved, head)
    found, weights = select_targets(
        (saved.labels, saved.sample_weight),
        True if labels is None else labels,
        True,
        saved.reader,
    )
    if found is None:
        raise DataError(
            f"{saved.path} has no labels, and without them there is no loss. Pass "
            "`labels=`, or save them along: save(model, (x, y), path)."
        )
    read = Reading(saved, names, joined, (found, weights), chosen, batch_size)
    weighing = _Weighing(read, _measured(head, loss, metrics), repeats, seed)
    with show_progress("weighing branches", weighing.total, 0, progress) as report:
        base = weighing.evaluate(report)
        branches = tuple(
            weighed
            for join in weighing.joins
            for weighed in weighing.weighed(join, base, report)
        )
    compared, redundancy = weighing.redundancy()
    return Importance(
        head.name, len(chosen), repeats, base, branches, redundancy, compared
    )


class _Weighing:
    """The branches that a head takes, one after the other.

    Args:
        read: The saved values.
        measured: The head, compiled.
        repeats: How often each branch is permuted.
        seed: As of `importance`.
    """

    def __init__(
        self, read: "Reading", measured: keras.Model, repeats: int, seed: int
    ) -> None:
        taken = set(read.names)
        self.joins = [
            join
            for join in read.saved.plan.joins
            if {branch.address for branch in join.branches} <= taken
        ]
        if not self.joins:
            raise AddressError(
                f"The head takes {', '.join(read.names)}: not all branches of any join."
            )
        count = sum(len(join.branches) for join in self.joins)
        self.total = len(read.rows) * (1 + count * (repeats + 2))
        self._read, self._measured = read, measured
        self._repeats, self._seed = repeats, seed
        self._done = 0

    def evaluate(
        self, report: Report, name: str = "", changed: Changed | None = None
    ) -> dict[str, float]:
        """Returns the loss and the metrics, with one value changed or none."""
        batches = Batches(self._read, name, changed)
        found = self._measured.evaluate(batches, verbose=0, return_dict=True)
        self._done += len(self._read.rows)
        report(self._done, 0)
        names = sorted(found, key=lambda metric: (metric != "loss", metric))
        return {metric: float(found[metric]) for metric in names}

    def weighed(
        self, join: Join, base: dict[str, float], report: Report
    ) -> Iterator[BranchImportance]:
        """Yields the importance of the branches of a join."""
        names = [branch.address for branch in join.branches]
        facts = [Facts(self._read.pieces(name)) for name in names]
        widths = _widths(join)
        norms = shares([fact.square for fact in facts])
        for number, (branch, fact) in enumerate(zip(join.branches, facts, strict=True)):
            name = branch.address
            # The same for a branch, whichever others there are.
            random = np.random.default_rng([self._seed, *name.encode()])
            moved = [
                self.evaluate(report, name, permuted(self._read, name, random))
                for _ in range(self._repeats)
            ]
            constants = (np.zeros_like(fact.mean), fact.mean)
            zeroed, averaged = (
                self.evaluate(report, name, constant(value)) for value in constants
            )
            yield BranchImportance(
                name,
                branch.made_by,
                join.path,
                {each: _change(base, moved, each) for each in base},
                {each: zeroed[each] - base[each] for each in base},
                {each: averaged[each] - base[each] for each in base},
                widths[number],
                norms[number],
                fact.dead,
                fact.mean.size,
                fact.nan,
                fact.inf,
            )

    def redundancy(self) -> tuple[int, dict[str, tuple[tuple[float, ...], ...]]]:
        """Returns on how many rows branches are compared, and what comes of it."""
        read = self._read
        widest = max(read.row_bytes(b.address) for j in self.joins for b in j.branches)
        most = max(len(join.branches) for join in self.joins)
        rows = read.rows[comparable(len(read.rows), widest, most)]
        found = {
            join.path: alignment(read.saved[b.address][rows] for b in join.branches)
            for join in self.joins
        }
        return len(rows), found


def _taken(saved: Saved, head: keras.Model) -> tuple[list[str], Join | None]:
    """Returns the addresses that a head takes, and the join that is one array to it.

    Raises:
        AddressError: If it takes what was not saved.
    """
    plan = saved.plan
    given = input_specs(head)
    if isinstance(given, dict):
        missing = sorted(given.keys() - set(plan.addresses))
        if missing:
            raise AddressError(
                f"{head.name!r} takes {', '.join(missing)}, which {saved.path} does "
                f"not have; it has {', '.join(plan.addresses)}. Save what the head "
                "takes: save(model, data, path, before=…, for_head=True)."
            )
        return sorted(given), None
    names = [branch.address for join in plan.joins for branch in join.branches]
    if not names:
        raise AddressError(f"{saved.path} has no branches, only outputs of layers.")
    if given is None:
        return sorted({*names, *plan.skips}), None
    whole = [join for join in plan.joins if join.whole and join.kind == "concatenate"]
    shapes = [spec.shape[1:] for spec in keras.tree.flatten(given)]
    if len(plan.joins) != 1 or shapes != [join.shape[1:] for join in whole]:
        raise AddressError(
            f"{head.name!r} takes neither a dictionary by address nor the branches of "
            f"one concatenation as one array: it takes {shapes}, and {saved.path} has "
            f"the joins {', '.join(join.path for join in plan.joins)}. Of a whole "
            "model, pass the head: layertap.split(model, before=…)."
        )
    return names, whole[0]


def head_of(saved: Saved, model: keras.Model) -> keras.Model:
    """Returns the head of a model for the joins of a store.

    Args:
        saved: The saved values.
        model: The model that they were saved from; or a head, which is returned.

    Raises:
        LayertapError: As of `layertap.split`.
    """
    plan = saved.plan
    given = input_specs(model)
    if isinstance(given, dict) and given.keys() <= set(plan.addresses):
        return model
    kinds = sorted({join.kind for join in plan.joins})
    try:
        _, head = split(model, [join.path for join in plan.joins], joins=kinds)
    except (NoJoinsError, AddressError):
        shapes = [spec.shape[1:] for spec in keras.tree.flatten(given)]
        if any(shapes == [join.shape[1:]] for join in plan.joins):
            return model
        raise
    return head


class _Measured(keras.Model):
    """A head, to be compiled anew: the user's own stays as it is."""

    def __init__(self, head: keras.Model) -> None:
        super().__init__(name="layertap_measured")
        self.head = head
        self.built = True
        # Losses and metrics are told by them.
        if getattr(head, "output_names", None):
            self.output_names = list(head.output_names)

    def call(self, inputs: Any) -> Any:
        return self.head(inputs, training=False)


def _measured(head: keras.Model, loss: Any, metrics: Any) -> keras.Model:
    """Returns a model of a head with a loss and metrics."""
    measured = _Measured(head)
    if loss is not None:
        try:
            keras.tree.map_structure(keras.losses.get, loss)
        except ValueError as error:
            raise OptionError(f"`loss` is none that Keras knows: {error}") from error
        measured.compile(loss=loss, metrics=metrics)
        return measured
    if metrics is not None:
        raise OptionError("`metrics` go with a loss: pass `loss=`, too.")
    config = head.get_compile_config() if head.compiled else None
    if not config or not config.get("loss"):
        raise OptionError(
            f"{head.name!r} was not compiled with a loss. Pass "
            'loss="sparse_categorical_crossentropy", say, and `metrics=`, if any.'
        )
    try:
        measured.compile_from_config(config)
    except Exception as error:  # Whatever a loss of the user's raises.
        raise OptionError(
            f"What {head.name!r} was compiled with can't be had again: {error} Pass "
            "`loss=` and `metrics=`."
        ) from error
    return measured


def _change(
    base: dict[str, float], moved: Sequence[dict[str, float]], metric: str
) -> Change:
    found = [one[metric] for one in moved]
    spread = float(np.std(found, ddof=1)) if len(found) > 1 else math.nan
    return Change(float(np.mean(found)) - base[metric], spread)


def _widths(join: Join) -> Sequence[float | None]:
    """Returns the share that each branch has of the size of a join."""
    axis = join.axis
    if axis is None or join.kind != "concatenate":
        return [None] * len(join.branches)
    return shares([branch.shape[axis] or 0 for branch in join.branches])
