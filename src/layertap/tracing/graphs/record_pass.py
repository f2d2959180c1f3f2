"""The pass that records every call, and opens the layers with joins inside."""

from collections.abc import Collection, Iterable
from typing import Any

import keras

from layertap.errors import ModelError
from layertap.tracing.forward_pass import Call, Frame, Pass, tensors_of
from layertap.tracing.graphs.build import OperationCall, map_tensors, new_tensor
from layertap.tracing.join_kinds import OPERATIONS, operation_name
from layertap.tracing.keras_internals import Functional, masking, private
from layertap.tracing.model_structure import (
    accepts_training,
    functional,
    nodes_in_order,
    training_default,
)

# Keras' own `call` of a graph, which runs the nodes of the graph.
GRAPH_CALLS = (Functional.call, keras.Sequential.call)


class RecordPass(Pass):
    """A pass with Keras' symbolic tensors that records every call.

    It opens the operations with one of the joins inside, and those whose ids are in
    `opened`, wherever they are called.
    """

    computes = True

    def __init__(
        self, joins: Iterable[str], kinds: Iterable[str], opened: Collection[int] = ()
    ) -> None:
        super().__init__(kinds)
        self.calls: list[OperationCall] = []
        # The ids of the operations that were opened.
        self.opened = set(opened)
        self._joins = tuple(joins)
        # By opened operation or node: the `training` argument of its calls by default.
        self._defaults: list[bool | None] = []

    def again(self) -> "RecordPass":
        """Returns a new pass that opens all calls of the opened operations."""
        return RecordPass(self._joins, self.kinds, self.opened)

    def _opens(self, operation: Any, path: str) -> bool:
        if not path or any(join.startswith(f"{path}/") for join in self._joins):
            self.opened.add(id(operation))
        return id(operation) in self.opened

    def begin(self, frame: Frame, args: Any, kwargs: Any) -> None:
        """Traces the inside of an operation only if it is opened.

        The casts of its arguments are calls too.
        """
        frame.inside = self._opens(frame.operation, frame.path)
        if frame.inside:
            by_name = {name: kwargs[name] for name in frame.arguments[1]}
            passed = keras.tree.flatten(frame.arguments)
            received = keras.tree.flatten((args, by_name))
            for before, after in zip(passed, received, strict=True):
                if before is not after and isinstance(after, keras.KerasTensor):
                    cast = private(after, "_keras_history").operation
                    self.calls.append(OperationCall(cast, "", (before,), {}, [after]))

    def run(self, frame: Frame, call: Call, args: Any, kwargs: Any) -> Any:
        """Runs an opened operation: the nodes of a graph, or a `call`."""
        operation = frame.operation
        if not frame.inside:
            return call(operation, *args, **kwargs)
        default = self._defaults[-1] if self._defaults else training_default(operation)
        self._defaults.append(default)
        try:
            graph = functional(operation)
            if graph is not None and type(operation).call in GRAPH_CALLS:
                return self._record_nodes(frame, graph, args, kwargs)
            if getattr(operation, "activity_regularizer", None) is not None:
                raise ModelError(
                    f"{frame.path or 'The model'} has an activity regularizer. A graph "
                    "of its `call` would not have this loss."
                )
            return operation.call(*args, **kwargs)
        finally:
            self._defaults.pop()

    def leave(self, frame: Frame, outputs: Any) -> None:
        """Records the call of an operation that is not opened."""
        if not self._opens(frame.operation, frame.path):
            _check_constants(self.frames[-2], frame.operation, frame.arguments)
            self._record(frame.operation, frame.path, frame.arguments, outputs)

    def record_symbolic(self, operation: Any, arguments: Any, outputs: Any) -> None:
        """Records an operation of `keras.ops`. Only joins among them have a path."""
        path = ""
        for kind, classes in OPERATIONS.items():
            if self.counts(kind) and isinstance(operation, classes):
                path = self.frames[-1].next_join(operation_name(kind))
        _check_constants(self.frames[-1], operation, arguments)
        self._record(operation, path, arguments, outputs)

    def _record(self, operation: Any, path: str, arguments: Any, outputs: Any) -> None:
        args, kwargs = arguments
        tensors, default = keras.tree.flatten(outputs), self._defaults[-1]
        self.calls.append(
            OperationCall(operation, path, args, dict(kwargs), tensors, default)
        )

    def _record_nodes(self, frame: Frame, graph: Any, args: Any, kwargs: Any) -> Any:
        """Records the nodes of a graph, with new tensors."""
        inputs = _graph_inputs(frame, graph, args, kwargs)
        tensors = dict(zip(map(id, graph.inputs), inputs, strict=True))
        training, default = kwargs.get("training"), self._defaults[-1]
        for node in nodes_in_order(graph):
            operation = private(node, "operation")
            arguments = private(node, "arguments")
            if any(id(t) not in tensors for t in private(arguments, "keras_tensors")):
                continue
            args, kwargs = map_tensors(tensors, (arguments.args, arguments.kwargs))
            _check_constants(frame, operation, (args, kwargs), of_graph=True)
            # A graph passes its `training` argument on to all of its layers.
            own_default = kwargs.get("training") if default is None else default
            self._defaults.append(own_default)
            if training is not None and accepts_training(operation):
                kwargs["training"] = training
            made = tensors_of(private(node, "outputs"))
            counted = dict(frame.calls)
            path = frame.next_call(operation)
            if self._opens(operation, path):
                # `enter` will count this call.
                frame.calls = counted
                outputs = keras.tree.flatten(operation(*args, **kwargs))
            else:
                outputs = list(map(_new_masked_tensor, made))
                self._record(operation, path, (args, kwargs), outputs)
            self._defaults.pop()
            tensors.update(zip(map(id, made), outputs, strict=True))
        return map_tensors(tensors, private(graph, "_outputs_struct"))


def _graph_inputs(frame: Frame, graph: Any, args: Any, kwargs: Any) -> list[Any]:
    """Returns the arguments of a graph's call as the graph accepts them, flat."""
    passed = args[0] if args else kwargs.get("inputs")
    flat, accepted = keras.tree.flatten(passed), private(graph, "_inputs_struct")
    named = isinstance(passed, dict) != isinstance(accepted, dict)
    masks = keras.tree.flatten(kwargs.get("mask"))
    masked = any(mask is not None for mask in masks)
    ranks = [len(tensor.shape) for tensor in flat]
    if named or masked or ranks != [len(tensor.shape) for tensor in graph.inputs]:
        problem = "a mask" if masked else "inputs in another structure than its own"
        raise ModelError(
            f"{frame.path} receives {problem}, so its graph can't be a part of another."
        )
    return [
        tensor if tensor.dtype == own.dtype else keras.ops.cast(tensor, own.dtype)
        for tensor, own in zip(flat, graph.inputs, strict=True)
    ]


def _new_masked_tensor(tensor: Any) -> Any:
    """Returns a new symbolic tensor like another, with the same mask."""
    made, mask = new_tensor(tensor), masking.get_keras_mask(tensor)
    if mask is not None:
        masking.set_keras_mask(made, mask)
    return made


def _check_constants(
    frame: Frame, operation: Any, arguments: Any, *, of_graph: bool = False
) -> None:
    """Raises if an operation receives values that may change, such as weights.

    The constants of a graph do not change.
    """
    for leaf in keras.tree.flatten(arguments):
        constant = keras.ops.is_tensor(leaf) and not of_graph
        if isinstance(leaf, keras.Variable) or constant:
            raise ModelError(
                f"The `call` of {frame.path or 'the model'} passes weights, or tensors "
                f"that it has made itself, to {operation.name}. In a graph, they would "
                "be constants."
            )
