"""The tap: the compiled forward pass that returns exactly the planned values."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from layertap.core import tree
from layertap.core.plan import Plan
from layertap.core.values import Values, auxiliary_arrays
from layertap.effects.derivatives import NONE, Derivatives, derivatives
from layertap.effects.interventions import Replacement, predict
from layertap.effects.target import Of
from layertap.errors import RefusedError
from layertap.inputs.convert import Batch, Converter
from layertap.inputs.model_file import opened
from layertap.pipeline.planned_pass import PlannedPass, pass_for
from layertap.planning.join_filter import Kind
from layertap.planning.planner import (
    BatchSpecs,
    plan_from_specs,
    specs_for,
    warn_of_missing,
)
from layertap.planning.reduction import Dtype, Reduce, Reduction
from layertap.planning.selection import Patterns, Selection
from layertap.tracing.model_structure import input_specs, specs_of
from layertap.tracing.reuse.memo import remembered


def tap(
    model: keras.Model | str | os.PathLike[str],
    *,
    like: Any = None,
    before: Patterns = None,
    outputs: Patterns = None,
    joins: Kind | Sequence[Kind] = ("concatenate",),
    dtype: Dtype | None = None,
    reduce: Reduce = None,
    for_head: bool = False,
) -> "Tap":
    """Returns the compiled forward pass of a model that ends with chosen values.

    Args:
        model: A Keras model, or the path of its file. It is not changed; one that was
            never called is built.
        like: See `layertap.plan`. Required for a model that was never called.
        before: See `layertap.plan`.
        outputs: See `layertap.plan`.
        joins: See `layertap.plan`.
        dtype: See `layertap.plan`.
        reduce: See `layertap.plan`.
        for_head: See `layertap.plan`.

    Returns:
        The tap: a function of one batch.

    Warns:
        PartialWarning: If values that a glob selected can't be captured.

    Raises:
        LayertapError: See `layertap.plan`.

    Example:
    ```python
    tap = layertap.tap(model, before="fusion")
    tap(x)["fusion/in/0"]  # NumPy
    tap.tensors(x)["fusion/in/0"]  # on the device
    ```
    """
    reduction = Reduction(dtype, reduce)
    selection = Selection(before, outputs, joins, for_head, reduction)
    model = opened(model)
    made = Tap(model, selection, *specs_for(model, like))
    warn_of_missing(made.plan)
    return made


class Tap:
    """A model's forward pass that returns chosen values, as `layertap.tap` makes it.

    It is compiled once for each shape of a batch, on TensorFlow once for all numbers of
    rows; PyTorch runs eagerly. Values are those of the weights that the model has at
    each call. If the model itself was changed (a layer, its attributes, objects and
    functions that it holds, a dtype policy), it is planned and compiled again. Changes
    inside objects of other libraries, or of imported modules, are not noticed: as in
    `model.predict`, they are read when the model is traced.

    Several threads may call it. It can be pickled if the model can, and then compiles
    again.
    """

    def __init__(
        self, model: keras.Model, selection: Selection, specs: Any, like: Batch | None
    ) -> None:
        self._parts = model, selection, specs, like
        # Identifies its plan, which `like` may have decided.
        self._own = object()
        # Which may build the model.
        self.plan  # noqa: B018
        self._declared = input_specs(model)
        self._converter = Converter(self._declared)

    @property
    def plan(self) -> Plan:
        """The plan of its values: see `layertap.plan`."""
        model, selection, specs, like = self._parts
        make = partial(plan_from_specs, model, specs, selection, like)
        calls = selection.reduction.reduce
        return remembered(model, ("tap", self._own), make, calls=calls)

    def __call__(self, x: Any) -> Values:
        """Computes the values of a batch.

        Args:
            x: One batch of any number of rows, in any form that `model.predict`
                accepts: arrays, tensors, or a structure of them. A tuple may be
                `(x, y)` or `(x, y, sample_weight)`: these stay with the values.

        Returns:
            The values by address: NumPy arrays of shape `(rows, *value shape)`, which
            may be read-only. Their `plan` has the sizes of this batch.

        Raises:
            DataError: If the model does not accept the batch.
        """
        batch, compute = self._prepared(x)
        plan, arrays = compute.plan, compute.owned(batch)
        auxiliary = {name: arrays.pop(name) for name in auxiliary_arrays(plan)}
        # Copies, for they may be the caller's memory.
        labels, weights = (
            tree.mapped(np.array, part) for part in (batch.labels, batch.sample_weight)
        )
        return Values(plan, arrays, labels, batch.ids, weights, auxiliary)

    def tensors(self, x: Any) -> dict[str, Any]:
        """Computes the values of a batch, and copies nothing to the host.

        Args:
            x: See `__call__`.

        Returns:
            The backend's own tensors by address, those of aliases too. On PyTorch, they
            may be memory that the model uses again at the next call.

        Raises:
            DataError: If the model does not accept the batch.
        """
        batch, compute = self._prepared(x)
        tensors = compute.tensors(batch)
        for name, recipe in compute.plan.recipes.items():
            parts = [tensors[part] for part in recipe.addresses]
            one = len(parts) == 1
            tensors[name] = parts[0] if one else ops.concatenate(parts, recipe.axis)
        return {name: tensors[name] for name in compute.plan.addresses}

    def gradients(self, x: Any, of: Of, y: Any = None) -> Values:
        """Computes the gradients of one number per row with respect to all values.

        Each row has its own: the sum of the numbers is differentiated once. They are
        compiled once for each shape and target.

        Args:
            x: See `__call__`.
            of: `"loss"`, the compiled loss of each row alone, which needs labels; the
                index of an output; or a function of the outputs that returns one number
                for each row.
            y: The labels; by default those of `x`, if it is a tuple.

        Returns:
            The gradients, by the addresses of the values, in their shapes. Those of
            float16 are float32. `missing` names the values without one, and why.

        Raises:
            RefusedError: If no value has a gradient; also if a value that was named
                by its complete path has none.
            OptionError: If `of` does not give one number for each row.
            DataError: If the loss has no labels.

        Example:
        ```python
        tap.gradients(x, of=3)["fusion/in/0"]
        tap.gradients(x, of="loss", y=y)
        ```
        """
        batch, compute = self._prepared(x if y is None else (x, y), derivatives(of))
        whole, arrays = compute.plan, compute.owned(batch)
        plan, names = whole.of_effects("gradient"), whole.effects("gradient")
        if not names:
            reasons = "; ".join(f"{name}: {why}" for name, why in whole.missing.items())
            raise RefusedError(f"No value of {plan.model!r} has a gradient. {reasons}")
        labels = tree.mapped(np.array, batch.labels)
        found = {name: arrays[other] for name, other in names.items()}
        return Values(plan, found, labels, batch.ids)

    def predict(self, x: Any, replace: Mapping[str, Replacement] | None = None) -> Any:
        """Computes the outputs of the model when other values replace its own.

        The model is not changed. It is compiled once for each set of addresses and of
        functions; other arrays at the same addresses compile nothing.

        Args:
            x: See `__call__`.
            replace: By address, the replacement of a value: an array of its
                shape `(rows, *value shape)`; `"zero"`; `"mean"`, the mean of the rows
                of `x`; or a function of the tensor with `keras.ops`, which keeps its
                shape. It is traced with the model: random numbers that it draws are
                the same in each call. A branch such as `fusion/in/0` is replaced in its
                join alone, an output such as `dense/out` for all that follow.

        Returns:
            The outputs of the model, as `model.predict` returns them.

        Raises:
            AddressError: If an address is not in the plan of this tap.
            DataError: If a replacement has another shape, or numbers of another kind.
            RefusedError: If the rows of a value are folded into another axis.
            ListeningError: If a value can't be replaced, such as an input of the model.

        Example:
        ```python
        without = tap.predict(x, replace={"fusion/in/1": "zero"})
        ```
        """
        model, *_ = self._parts
        batch, compute = self._prepared(x)
        return predict(model, compute.plan, batch, replace or {})

    def _prepared(
        self, x: Any, effects: Derivatives = NONE
    ) -> tuple[Batch, PlannedPass]:
        """Returns a batch, and the pass for its sizes."""
        model, selection, _, _ = self._parts
        selection = dataclasses.replace(selection, derivatives=effects)
        batch = self._converter.convert(x, 0, copy=False)
        self._converter.check_rows(0, batch.rows)
        specs = BatchSpecs(specs_of(batch.inputs, self._declared))
        return batch, pass_for(model, specs, selection, batch)

    def __reduce__(self) -> Any:
        """Leaves out the compiled passes."""
        return type(self), self._parts

    def __repr__(self) -> str:
        plan = self.plan
        return f"<layertap.Tap of {plan.model!r}: {len(plan.addresses)} values>"
