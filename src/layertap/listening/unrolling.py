"""A model as one flat list of calls, opened as far as some joins stand inside."""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import keras

from layertap.errors import LayertapError, ModelError
from layertap.listening.calls import hearing, points
from layertap.listening.kinds import OPERATIONS
from layertap.listening.models import functional
from layertap.listening.order import nodes_in_order
from layertap.listening.parts import Step, like, like_input
from layertap.listening.passes import Call, Frame, Pass, tensors_of
from layertap.listening.private import Functional, backend, private

# Keras' own `call` of a graph: to run it is to run the nodes of the graph.
GRAPH_CALLS = (Functional.call, keras.Sequential.call)


@dataclass(frozen=True)
class Unrolled:
    """A model as a flat list of calls.

    Attributes:
        inputs: The structure of tensors that the model takes.
        names: Their names, flat.
        steps: The calls, in an order in which they can be run.
        outputs: The structure of tensors that the model returns.
        by_call: Whether something was opened that has no graph.
    """

    inputs: Any
    names: list[str]
    steps: list[Step]
    outputs: Any
    by_call: bool


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
    found = _unrolled(model, specs, opened, kinds, training=False)
    if found.by_call:
        trained = _unrolled(model, specs, opened, kinds, training=True)
        return replace(found, steps=_agreed(model, found.steps, trained.steps))
    return found


def _unrolled(
    model: keras.Model,
    specs: Any,
    opened: set[str],
    kinds: Iterable[str],
    *,
    training: bool,
) -> Unrolled:
    unrolling = _Unrolling(opened, kinds)
    inputs = _inputs(model, specs)
    try:
        with _no_nodes_left(model), hearing(unrolling):
            outputs = model(inputs, **_training(model, training))
    except LayertapError:
        raise
    except Exception as error:  # Whatever a `call` raises.
        path = unrolling.failed[1] or model.name
        told = next(iter(str(error).splitlines()), "")
        raise ModelError(
            f"The `call` of {path} can't be run with Keras' symbolic tensors, so there "
            f"is no graph of it: {type(error).__name__}: {told}"
        ) from error
    names = [spec.name for spec in keras.tree.flatten(specs)]
    return Unrolled(inputs, names, unrolling.steps, outputs, unrolling.by_call)


class _Unrolling(Pass):
    """A pass with Keras' symbolic tensors that notes every call.

    Args:
        opened: The paths of the operations to be opened.
        kinds: The kinds of the joins that are looked for.
    """

    computes = True
    symbolic = True

    def __init__(self, opened: set[str], kinds: Iterable[str]) -> None:
        super().__init__(kinds)
        self.steps: list[Step] = []
        # Whether something was opened that has no graph.
        self.by_call = False
        self._opened = opened

    def begin(self, frame: Frame, args: Any, kwargs: Any) -> None:
        """Lets what an operation does be heard only if it is opened."""
        frame.inside = frame.path in self._opened

    def run(self, frame: Frame, call: Call, args: Any, kwargs: Any) -> Any:
        """Runs what is opened: the nodes of a graph, or a `call`."""
        if not frame.inside:
            return call(frame.operation, *args, **kwargs)
        graph = functional(frame.operation)
        if graph is not None and type(frame.operation).call in GRAPH_CALLS:
            return self._nodes(frame, graph, args, kwargs)
        self.by_call = True
        return frame.operation.call(*args, **kwargs)

    def leave(self, frame: Frame, outputs: Any) -> None:
        """Notes the call of an operation that was not opened."""
        if frame.path not in self._opened:
            args, kwargs = frame.arguments
            _check_weights(self.frames[-2], frame.operation, args, kwargs)
            self._note(frame.operation, frame.path, args, kwargs, outputs)

    def symbolically(
        self, operation: Any, args: Any, kwargs: Any, outputs: Any
    ) -> None:
        """Notes an operation of `keras.ops`; a join among them has a path."""
        path = ""
        for kind, classes in OPERATIONS.items():
            counted = kind in self.kinds or kind == "concatenate"
            if counted and isinstance(operation, classes):
                name = kind if kind == "concatenate" else f"ops.{kind}"
                path = self.frames[-1].child(name)
        _check_weights(self.frames[-1], operation, args, kwargs)
        self._note(operation, path, args, kwargs, outputs)

    def _note(
        self, operation: Any, path: str, args: Any, kwargs: Any, outputs: Any
    ) -> None:
        found = keras.tree.flatten(outputs)
        self.steps.append(Step(operation, path, args, dict(kwargs), found))

    def _nodes(self, frame: Frame, graph: Any, args: Any, kwargs: Any) -> Any:
        """Notes the nodes of a graph, with tensors of their own."""
        given = self._given(frame, graph, args, kwargs)
        tensors = dict(zip(map(id, graph.inputs), given, strict=True))
        training = kwargs.get("training")

        def here(leaf: Any) -> Any:
            return tensors[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

        for node in nodes_in_order(graph):
            operation, arguments = (
                private(node, "operation"),
                private(node, "arguments"),
            )
            if any(id(t) not in tensors for t in private(arguments, "keras_tensors")):
                continue
            args, kwargs = keras.tree.map_structure(
                here, (arguments.args, arguments.kwargs)
            )
            made = tensors_of(private(node, "outputs"))
            counted = dict(frame.calls)
            path = frame.calls_operation(operation)
            if path in self._opened:
                # Its call is counted when it comes.
                frame.calls = counted
                kwargs |= _training(operation, training)
                found = keras.tree.flatten(operation(*args, **kwargs))
            else:
                found = [_like(tensor) for tensor in made]
                self._note(operation, path, args, kwargs, found)
            tensors.update(zip(map(id, made), found, strict=True))
        return keras.tree.map_structure(here, private(graph, "_outputs_struct"))

    def _given(self, frame: Frame, graph: Any, args: Any, kwargs: Any) -> list[Any]:
        """Returns what a graph is given, as it takes it."""
        given = args[0] if args else kwargs.get("inputs")
        flat, taken = keras.tree.flatten(given), private(graph, "_inputs_struct")
        named = isinstance(given, dict) != isinstance(taken, dict)
        masked = kwargs.get("mask") is not None and any(
            mask is not None for mask in keras.tree.flatten(kwargs["mask"])
        )
        ranks = [len(tensor.shape) for tensor in flat]
        if named or masked or ranks != [len(tensor.shape) for tensor in graph.inputs]:
            what = "a mask" if masked else "inputs in another structure than its own"
            raise ModelError(
                f"{frame.path} is given {what}, so its graph can't be written out as "
                "a part of another."
            )
        return [
            given if given.dtype == taken.dtype else keras.ops.cast(given, taken.dtype)
            for given, taken in zip(flat, graph.inputs, strict=True)
        ]


def _training(operation: Any, training: bool | None) -> dict[str, bool]:
    """Returns what tells an operation whether it is trained, as Keras does."""
    takes = "training" in inspect.signature(operation.call).parameters
    return {} if training is None or not takes else {"training": training}


def mask_of(tensor: Any) -> Any:
    """Returns the mask that goes with a symbolic tensor, or None."""
    return backend.get_keras_mask(tensor)


def _like(tensor: Any) -> Any:
    """Returns another symbolic tensor of the same form, with the same mask."""
    found = like(tensor)
    if mask_of(tensor) is not None:
        backend.set_keras_mask(found, mask_of(tensor))
    return found


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


def _check_weights(frame: Frame, operation: Any, args: Any, kwargs: Any) -> None:
    """Raises if a `call` hands on numbers that may change: weights, say."""
    for leaf in keras.tree.flatten((args, kwargs)):
        if isinstance(leaf, keras.Variable) or keras.ops.is_tensor(leaf):
            raise ModelError(
                f"The `call` of {frame.path or 'the model'} gives weights, or tensors "
                f"that it has made itself, to {operation.name}: in a graph they would "
                "stay as they are now."
            )


def _agreed(model: keras.Model, steps: list[Step], trained: list[Step]) -> list[Step]:
    """Returns steps without what they are told of training, which a graph tells too.

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
        if kwargs.get("training") != other.kwargs.get("training"):
            del kwargs["training"]
        agreed.append(replace(step, kwargs=kwargs))
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
