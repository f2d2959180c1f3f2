"""Heads to measure: the values that they accept, and their loss and metrics."""

from collections.abc import Iterable
from typing import Any

import keras

from layertap.analysis.perturbation import HeadInputs
from layertap.core.plan import Join
from layertap.errors import AddressError, NoJoinsError, OptionError
from layertap.planning.split import split
from layertap.results.saved import Saved
from layertap.tracing.keras_internals import private
from layertap.tracing.model_structure import input_specs


class MeasuredHead(keras.Model):
    """A head that accepts packed inputs; the user's own is not compiled again."""

    def __init__(self, head: keras.Model, inputs: HeadInputs) -> None:
        super().__init__(name="layertap_measured", autocast=False)
        self.head, self._inputs = head, inputs
        self.built = True
        # Losses and metrics are named after them.
        if getattr(head, "output_names", None):
            self.output_names = list(head.output_names)

    def call(self, inputs: Any) -> Any:
        """Calls the head for inference."""
        return self.head(self._inputs.unpack(inputs), training=False)

    def measure(self, batches: Iterable[tuple[Any, ...]]) -> dict[str, Any]:
        """Returns the loss and the metrics over batches, same as `evaluate`.

        On TensorFlow, `evaluate` makes a pipeline, which takes longer than a head.
        """
        metrics: dict[str, Any] = {}
        super().reset_metrics()
        for batch in batches:
            tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)
            metrics = self.test_on_batch(*tensors, return_dict=True)
        return metrics

    def reset_metrics(self) -> None:
        """Keeps the metrics: `test_on_batch` would reset them for each batch."""


def compile_arguments(head: keras.Model, loss: Any, metrics: Any) -> dict[str, Any]:
    """Returns the arguments to compile with: those passed, or those of the head."""
    if loss is not None:
        try:
            keras.tree.map_structure(keras.losses.get, loss)
        except ValueError as error:
            raise OptionError(f"Keras does not know this `loss`: {error}") from error
        return {"loss": loss, "metrics": metrics}
    if metrics is not None:
        raise OptionError("The metrics need a loss. Pass `loss=`, too.")
    # The objects themselves: a user's own function has no configuration.
    known = private(private(head, "_compile_config"), "config") if head.compiled else {}
    if not known.get("loss"):
        raise OptionError(
            f"{head.name!r} was not compiled with a loss. Pass one, such as "
            'loss="sparse_categorical_crossentropy", and `metrics=`, if any.'
        )
    training = ("optimizer", "steps_per_execution")
    return {name: known[name] for name in known if name not in training}


def accepted_values(saved: Saved, head: keras.Model) -> tuple[list[str], Join | None]:
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
    kinds: list[Any] = sorted({join.kind for join in plan.joins})
    try:
        return split(model, [join.path for join in plan.joins], joins=kinds)[1]
    except (NoJoinsError, AddressError):
        shapes = [spec.shape[1:] for spec in keras.tree.flatten(specs)]
        if any(shapes == [join.shape[1:]] for join in plan.joins):
            return model
        raise
