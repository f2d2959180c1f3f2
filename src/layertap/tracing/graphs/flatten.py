"""A model as one flat list of calls, opened as far as some joins stand inside."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import keras

from layertap.errors import LayertapError, ModelError
from layertap.tracing.graphs.build import Step, like_input
from layertap.tracing.graphs.record_pass import Opening, takes_training
from layertap.tracing.hooks import points, recording
from layertap.tracing.keras_internals import backend, private
from layertap.tracing.model_structure import functional


@dataclass(frozen=True)
class Unrolled:
    """A model as a flat list of calls.

    Attributes:
        inputs: The structure of tensors that the model takes.
        names: Their names, flat.
        steps: The calls, in an order in which they can be run.
        outputs: The structure of tensors that the model returns.
        output_names: The names of these, flat; None if they have none.
    """

    inputs: Any
    names: list[str]
    steps: list[Step]
    outputs: Any
    output_names: list[str] | None


def unrolled(
    model: keras.Model, specs: Any, joins: Iterable[str], kinds: Iterable[str]
) -> Unrolled:
    """Writes out a model as calls that follow each other.

    Functional models in which one of the joins stands are opened, and so are layers
    and subclassed models, whose `call` is run with symbolic tensors. The model is not
    changed: nodes that its layers got by it are taken away.

    Args:
        model: The model.
        specs: The structure of `InputSpec` that it takes.
        joins: The paths of the joins.
        kinds: Their kinds.

    Raises:
        ModelError: If a `call` can't be run so, or if its graph would not compute the
            same: it uses weights of its own, or takes another way when it is trained.
    """
    # Told before Keras puts words of its own around the error.
    points()
    private(backend, "get_keras_mask")
    opened = {""}
    for join in joins:
        parts = join.split("/")
        opened |= {"/".join(parts[:depth]) for depth in range(len(parts))}
    kinds = frozenset(kinds)
    opening = Opening(opened, kinds)
    found = _unrolled(model, specs, opening, training=False)
    if any(id(step.operation) in opening.found for step in found.steps):
        # Called elsewhere too: or a part would have layers, and the model they are in.
        found = _unrolled(model, specs, opening.again(), training=False)
    trained = _unrolled(model, specs, opening.again(), training=True)
    return replace(found, steps=_agreed(model, found.steps, trained.steps))


def _unrolled(
    model: keras.Model,
    specs: Any,
    opening: Opening,
    *,
    training: bool,
) -> Unrolled:
    inputs = _inputs(model, specs)
    given = {"training": training} if takes_training(model) else {}
    scope = _Untouched()
    try:
        with _no_nodes_left(model), scope, recording(opening):
            outputs = model(inputs, **given)
    except LayertapError:
        raise
    except Exception as error:  # Whatever a `call` raises.
        path = opening.failed[1] or model.name
        told = next(iter(str(error).splitlines()), "")
        raise ModelError(
            f"The `call` of {path} can't be run with Keras' symbolic tensors, so there "
            f"is no graph of it: {type(error).__name__}: {told} (Does it want a size "
            "that is open, as that of the rows, or values?)"
        ) from error
    if scope.touched:
        raise ModelError(
            f"A `call` within {model.name!r} reads or changes {scope.touched[0]} "
            "outside of a layer, which no graph does."
        )
    names = [spec.name for spec in keras.tree.flatten(specs)]
    return Unrolled(
        inputs, names, opening.steps, outputs, getattr(model, "output_names", None)
    )


class _Untouched(keras.StatelessScope):
    """Leaves variables as they are, and notes which were read or written.

    Layers that infer shapes have scopes of their own: what comes here is the business
    of a `call` that is opened.
    """

    def __init__(self) -> None:
        super().__init__()
        self.touched: list[str] = []

    def add_update(self, update: Any) -> None:
        """Notes a variable that is written."""
        self.touched.append(update[0].path)
        super().add_update(update)

    def get_current_value(self, variable: Any) -> Any:
        """Notes a variable that is read."""
        self.touched.append(variable.path)
        return super().get_current_value(variable)


def _inputs(model: keras.Model, specs: Any) -> Any:
    """Returns new inputs like those of a model."""
    graph = functional(model)
    if graph is not None:
        return keras.tree.map_structure(like_input, private(graph, "_inputs_struct"))
    return keras.tree.map_structure(
        lambda spec: like_input(
            keras.KerasTensor(spec.shape, spec.dtype, name=spec.name)
        ),
        specs,
    )


@contextmanager
def _no_nodes_left(model: keras.Model) -> Iterator[None]:
    """Takes away the nodes that operations of a model get meanwhile."""
    owned: dict[int, Any] = {id(model): model}
    for layer in private(model, "_flatten_layers")():
        graph = functional(layer)
        for operation in (layer, *(graph.operations if graph is not None else ())):
            owned[id(operation)] = operation
    lists = [
        nodes
        for operation in owned.values()
        for nodes in (
            private(operation, "_inbound_nodes"),
            private(operation, "_outbound_nodes"),
        )
    ]
    lengths = [len(nodes) for nodes in lists]
    try:
        yield
    finally:
        for nodes, length in zip(lists, lengths, strict=True):
            del nodes[length:]


def _agreed(model: keras.Model, steps: list[Step], trained: list[Step]) -> list[Step]:
    """Returns steps that are told of training only what does not follow from a graph's.

    Raises:
        ModelError: If the model does something else when it is trained.
    """
    if list(map(_told, _numbered(steps))) != list(map(_told, _numbered(trained))):
        raise ModelError(
            f"The `call` of {model.name!r} does something else when it is trained, "
            "which one graph does not have."
        )
    agreed = []
    for step, other in zip(steps, trained, strict=True):
        kwargs = dict(step.kwargs)
        told = kwargs.pop("training", None)
        fixed = told is not None and told == other.kwargs.get("training")
        told = told if fixed else step.untold
        if told is not None and takes_training(step.operation):
            kwargs["training"] = told
        agreed.append(replace(step, kwargs=kwargs, fixed=fixed))
    return agreed


def _numbered(steps: list[Step]) -> Iterator[tuple[Step, Any]]:
    """Yields each step, and its arguments with numbers in place of tensors."""
    numbers: dict[int, int] = {}

    def number(leaf: Any) -> Any:
        if isinstance(leaf, keras.KerasTensor):
            return numbers.setdefault(id(leaf), len(numbers))
        return leaf

    for step in steps:
        kwargs = {k: v for k, v in step.kwargs.items() if k != "training"}
        yield step, keras.tree.map_structure(number, (step.args, kwargs))
        for tensor in step.outputs:
            number(tensor)


def _told(numbered: tuple[Step, Any]) -> Any:
    """Returns what has to be the same of a step, when it is run again."""
    step, arguments = numbered
    if isinstance(step.operation, keras.layers.Layer):
        return id(step.operation), step.path, repr(arguments)
    own = {
        name: repr(value)
        for name, value in vars(step.operation).items()
        if name != "name" and not name.startswith("_")
    }
    return type(step.operation), step.path, own, repr(arguments)
