"""A model as a flat list of calls, opened wherever a join is inside a layer."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import keras

from layertap.errors import LayertapError, ModelError
from layertap.tracing.graphs.build import (
    OperationCall,
    exchanged,
    map_tensors,
    new_input,
    node_lists,
)
from layertap.tracing.graphs.record_pass import RecordPass
from layertap.tracing.hooks import points, recording
from layertap.tracing.keras_internals import masking, private
from layertap.tracing.model_structure import (
    accepts_training,
    forward,
    functional,
    training_default,
)


@dataclass(frozen=True)
class FlatModel:
    """A model as a flat list of calls, in an order in which they can run."""

    inputs: Any  # a structure of tensors
    names: list[str]  # those of the inputs, flat
    calls: list[OperationCall]
    outputs: Any  # a structure of tensors
    output_names: list[str] | None


def flatten(
    model: keras.Model, specs: Any, joins: Iterable[str], kinds: Iterable[str]
) -> FlatModel:
    """Flattens a model to a list of calls, without changing it.

    A functional model with one of the joins inside is replaced by its nodes. The `call`
    of other models and layers is run with symbolic tensors. A `ModelError` is raised if
    that fails, or if a graph of the calls would not compute the same values.
    """
    # Raise here: Keras would wrap these errors.
    points()
    private(masking, "get_keras_mask")
    pass_ = RecordPass(joins, kinds)
    flat = _flatten(model, specs, pass_, training=False)
    if any(id(call.operation) in pass_.opened for call in flat.calls):
        # An opened model is also called elsewhere. Its layers must not be in the same
        # graph as itself.
        flat = _flatten(model, specs, pass_.again(), training=False)
    trained = _flatten(model, specs, pass_.again(), training=True)
    return replace(flat, calls=_merge_training(model, flat.calls, trained.calls))


def _flatten(
    model: keras.Model, specs: Any, pass_: RecordPass, *, training: bool
) -> FlatModel:
    graph = functional(model)
    for spec in keras.tree.flatten(specs):
        if graph is None and spec.absent:
            raise ModelError(
                f"Its input {spec.name!r} is None, which a graph can't have."
            )
    declared = specs if graph is None else private(graph, "_inputs_struct")
    inputs = keras.tree.map_structure(new_input, declared)
    scope = _VariableScope()
    try:
        with _without_new_nodes(model), scope, recording(pass_):
            outputs = forward(model, inputs, training=training)
    except LayertapError:
        raise
    except Exception as error:  # A `call` may raise anything.
        path = pass_.failed[1] or model.name
        message = next(iter(str(error).splitlines()), "")
        raise ModelError(
            f"The `call` of {path} can't be run with Keras' symbolic tensors, so there "
            f"is no graph of it: {type(error).__name__}: {message} (Does it need "
            "values, or a size that is open, such as the number of rows?)"
        ) from error
    if scope.variables:
        raise ModelError(
            f"A `call` within {model.name!r} reads or changes {scope.variables[0]} "
            "outside of a layer. A graph can't do that."
        )
    names = [spec.name for spec in keras.tree.flatten(specs)]
    output_names = getattr(model, "output_names", None)
    return FlatModel(inputs, names, pass_.calls, outputs, output_names)


class _VariableScope(keras.StatelessScope):
    """Protects variables, and notes the paths of those that a `call` reads or changes.

    Layers that infer shapes have their own scopes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.variables: list[str] = []

    def add_update(self, update: Any) -> None:
        """Notes a variable that is written."""
        self.variables.append(update[0].path)
        super().add_update(update)

    def get_current_value(self, variable: Any) -> Any:
        """Notes a variable that is read."""
        self.variables.append(variable.path)
        return super().get_current_value(variable)


def _without_new_nodes(model: keras.Model) -> AbstractContextManager[None]:
    """Returns a context after which operations of a model have the same nodes."""
    operations = [model]
    for layer in private(model, "_flatten_layers")():
        graph = functional(layer)
        operations += [layer, *(graph.operations if graph is not None else ())]
    return exchanged([(nodes, [*nodes]) for nodes in node_lists(operations)])


def _merge_training(
    model: keras.Model, calls: list[OperationCall], trained: list[OperationCall]
) -> list[OperationCall]:
    """Returns calls without the `training` arguments that a graph passes itself."""
    if list(_signatures(calls)) != list(_signatures(trained)):
        raise ModelError(
            f"The `call` of {model.name!r} does something else when it is trained. One "
            "graph can't do both."
        )
    merged = []
    for call, other in zip(calls, trained, strict=True):
        kwargs = dict(call.kwargs)
        training = kwargs.pop("training", None)
        fixed = training is not None and training == other.kwargs.get("training")
        if not fixed:
            training = call.default_training
            # An operation's own default is not stored: with Keras 3.16, a stored
            # argument goes before that of the model.
            if training == training_default(call.operation):
                training = None
        if training is not None and accepts_training(call.operation):
            kwargs["training"] = training
        merged.append(replace(call, kwargs=kwargs, fixed_training=fixed))
    return merged


def _signatures(calls: list[OperationCall]) -> Iterator[Any]:
    """Yields the parts of each call that are equal when the model runs again."""
    numbers: dict[int, int] = {}
    for call in calls:
        for tensor in (*call.inputs, *call.outputs):
            numbers.setdefault(id(tensor), len(numbers))
        kwargs = {k: v for k, v in call.kwargs.items() if k != "training"}
        arguments = repr(map_tensors(numbers, (call.args, kwargs)))
        if isinstance(call.operation, keras.layers.Layer):
            yield id(call.operation), call.path, arguments
            continue
        attributes = {
            name: repr(value)
            for name, value in vars(call.operation).items()
            if name != "name" and not name.startswith("_")
        }
        yield type(call.operation), call.path, attributes, arguments
