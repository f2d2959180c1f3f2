"""The pass that opens what joins stand in, and notes every call on the way."""

import inspect
from collections.abc import Collection, Iterable
from typing import Any

import keras

from layertap.errors import ModelError
from layertap.tracing.forward_pass import Call, Frame, Pass, tensors_of
from layertap.tracing.graphs.build import Step, like
from layertap.tracing.join_kinds import OPERATIONS
from layertap.tracing.keras_internals import Functional, backend, private
from layertap.tracing.model_structure import functional, nodes_in_order

# Keras' own `call` of a graph: to run it is to run the nodes of the graph.
GRAPH_CALLS = (Functional.call, keras.Sequential.call)


class Opening(Pass):
    """A pass with Keras' symbolic tensors that notes every call.

    Args:
        opened: The paths of the operations to be opened.
        kinds: The kinds of the joins that are looked for.
        known: The ids of operations that are opened wherever they are called.
    """

    computes = True
    symbolic = True

    def __init__(
        self, opened: set[str], kinds: Iterable[str], known: Collection[int] = ()
    ) -> None:
        super().__init__(kinds)
        self.steps: list[Step] = []
        # Operations that were opened, by their ids.
        self.found = set(known)
        self._known = frozenset(known)
        self._opened = opened
        # What those that are open now are told of training where nobody says it.
        self._untold: list[bool | None] = []
        self._told: bool | None = None

    def again(self) -> "Opening":
        """Returns a new pass that opens all calls of what this one has opened."""
        return Opening(self._opened, self.kinds, self.found)

    def _opens(self, operation: Any, path: str) -> bool:
        if path in self._opened:
            self.found.add(id(operation))
        return path in self._opened or id(operation) in self._known

    def begin(self, frame: Frame, args: Any, kwargs: Any) -> None:
        """Lets what an operation does be heard only if it is opened.

        What it is given was cast before its `call`, and these casts are calls too.
        """
        frame.inside = self._opens(frame.operation, frame.path)
        if frame.inside:
            by_name = {name: kwargs[name] for name in frame.arguments[1]}
            given = keras.tree.flatten(frame.arguments)
            received = keras.tree.flatten((args, by_name))
            for before, after in zip(given, received, strict=True):
                if before is not after and isinstance(after, keras.KerasTensor):
                    cast = private(after, "_keras_history").operation
                    self.steps.append(Step(cast, "", (before,), {}, [after]))

    def run(self, frame: Frame, call: Call, args: Any, kwargs: Any) -> Any:
        """Runs what is opened: the nodes of a graph, or a `call`."""
        operation = frame.operation
        if not frame.inside:
            return call(operation, *args, **kwargs)
        told, self._told = self._told, None
        if told is None:
            told = self._untold[-1] if self._untold else _default(operation)
        self._untold.append(told)
        try:
            graph = functional(operation)
            if graph is not None and type(operation).call in GRAPH_CALLS:
                return self._nodes(frame, graph, args, kwargs)
            if getattr(operation, "activity_regularizer", None) is not None:
                raise ModelError(
                    f"{frame.path or 'The model'} has an activity regularizer, whose "
                    "loss a graph of its `call` would not have."
                )
            return operation.call(*args, **kwargs)
        finally:
            self._untold.pop()

    def leave(self, frame: Frame, outputs: Any) -> None:
        """Notes the call of an operation that was not opened."""
        if not self._opens(frame.operation, frame.path):
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
        self,
        operation: Any,
        path: str,
        args: Any,
        kwargs: Any,
        outputs: Any,
        untold: bool | None = None,
    ) -> None:
        if untold is None:
            untold = self._untold[-1]
        found = keras.tree.flatten(outputs)
        self.steps.append(Step(operation, path, args, dict(kwargs), found, untold))

    def _nodes(self, frame: Frame, graph: Any, args: Any, kwargs: Any) -> Any:
        """Notes the nodes of a graph, with tensors of their own."""
        given = _given(frame, graph, args, kwargs)
        tensors = dict(zip(map(id, graph.inputs), given, strict=True))
        training, untold = kwargs.get("training"), self._untold[-1]

        def here(leaf: Any) -> Any:
            return tensors[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

        for node in nodes_in_order(graph):
            operation = private(node, "operation")
            arguments = private(node, "arguments")
            if any(id(t) not in tensors for t in private(arguments, "keras_tensors")):
                continue
            args, kwargs = keras.tree.map_structure(
                here, (arguments.args, arguments.kwargs)
            )
            _check_weights(frame, operation, args, kwargs, of_graph=True)
            # A graph that is told of training tells all of its layers the same.
            own = kwargs.get("training") if untold is None else untold
            if training is not None and takes_training(operation):
                kwargs["training"] = training
            made = tensors_of(private(node, "outputs"))
            counted = dict(frame.calls)
            path = frame.calls_operation(operation)
            if self._opens(operation, path):
                # Its call is counted when it comes.
                frame.calls, self._told = counted, own
                found = keras.tree.flatten(operation(*args, **kwargs))
            else:
                found = [_like(tensor) for tensor in made]
                self._note(operation, path, args, kwargs, found, own)
            tensors.update(zip(map(id, made), found, strict=True))
        return keras.tree.map_structure(here, private(graph, "_outputs_struct"))


def _given(frame: Frame, graph: Any, args: Any, kwargs: Any) -> list[Any]:
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


def takes_training(operation: Any) -> bool:
    """Whether an operation is told that it is trained."""
    return "training" in inspect.signature(operation.call).parameters


def _default(operation: Any) -> bool | None:
    """Returns what an operation takes for true of training if nobody says it."""
    if not takes_training(operation):
        return None
    default = inspect.signature(operation.call).parameters["training"].default
    return default if isinstance(default, bool) else None


def mask_of(tensor: Any) -> Any:
    """Returns the mask that goes with a symbolic tensor, or None."""
    return backend.get_keras_mask(tensor)


def _like(tensor: Any) -> Any:
    """Returns another symbolic tensor of the same form, with the same mask."""
    found = like(tensor)
    if mask_of(tensor) is not None:
        backend.set_keras_mask(found, mask_of(tensor))
    return found


def _check_weights(
    frame: Frame, operation: Any, args: Any, kwargs: Any, *, of_graph: bool = False
) -> None:
    """Raises if numbers are handed on that may change: weights, say.

    Args:
        frame: Where that happens.
        operation: What they are given to.
        args: What it is given.
        kwargs: What it is given by name.
        of_graph: Whether it is a node of a graph, whose constants stay what they are.
    """
    for leaf in keras.tree.flatten((args, kwargs)):
        constant = keras.ops.is_tensor(leaf) and not of_graph
        if isinstance(leaf, keras.Variable) or constant:
            raise ModelError(
                f"The `call` of {frame.path or 'the model'} gives weights, or tensors "
                f"that it has made itself, to {operation.name}: in a graph they would "
                "stay as they are now."
            )
