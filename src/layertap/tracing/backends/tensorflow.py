"""Listening on TensorFlow: the pass is heard while `tf.function` traces it."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from layertap.tracing.forward_pass import (
    Arrays,
    BackendListener,
    Call,
    Done,
    Joining,
    Pass,
    Point,
    Run,
    Shortcut,
    Step,
    as_is,
)
from layertap.tracing.join_kinds import native_name, origin
from layertap.tracing.keras_internals import private

# By type of node: the kind of join that it does.
NODES = {
    "ConcatV2": "concatenate",
    "Pack": "stack",
    "AddV2": "add",
    "AddN": "add",
    "Sub": "subtract",
    "Mul": "multiply",
    "Maximum": "maximum",
    "Minimum": "minimum",
    "MatMul": "dot",
    "BatchMatMulV2": "dot",
    "BatchMatMulV3": "dot",
}


def undecidable(error: BaseException) -> bool:
    """Whether a model decides in Python by values, which a trace does not have."""
    if isinstance(error, tf.errors.OperatorNotAllowedInGraphError):
        return True
    if isinstance(error, AttributeError):
        return error.name == "numpy" and isinstance(error.obj, tf.Tensor)
    return isinstance(error, NotImplementedError) and "symbolic tf.Tensor" in str(error)


def belongs(tensors: Sequence[Any]) -> Callable[[Any], bool]:
    """Returns whether a tensor is in the same function graph as `tensors`."""
    graph = tensors[0].graph
    return lambda tensor: getattr(tensor, "graph", graph) is graph


class GraphEar(BackendListener):
    """Reads the nodes that were added to the graph since it looked last.

    Whenever the pass moves from one operation to another, all nodes that are new
    were made by the operation it was in. The body of a loop has a graph of its own.

    Args:
        heard: The pass to report to.
    """

    def __init__(self, heard: Pass) -> None:
        self._pass = heard
        self._read: dict[int, int] = {}
        self._graphs: list[Any] = []

    def moves(self) -> None:
        """Reports the new joins, if they are the model's."""
        graph = tf.compat.v1.get_default_graph()
        if id(graph) not in self._read:
            self._graphs.append(graph)
        nodes = graph.get_operations()
        new = nodes[self._read.get(id(graph), 0) :]
        self._read[id(graph)] = len(nodes)
        if self._pass.frames and self._pass.listens:
            for node in new:
                self._report(node)

    def _report(self, node: Any) -> None:
        kind = NODES.get(node.type)
        frame = self._pass.frames[-1]
        if kind not in self._pass.kinds or frame.covered:
            return
        inputs, axis = list(node.inputs), None
        if kind == "concatenate":
            *inputs, along = inputs
            known = tf.get_static_value(along)
            axis = None if known is None else int(known)
        elif kind == "stack":
            axis = node.get_attr("axis")
        elif any(x.shape.rank == 0 for x in inputs):
            return
        frames = ((f.filename, f.name) for f in reversed(list(node.traceback)))
        whose = origin(frames, frame.operation, kind)
        path = frame.child(native_name(kind, whose))
        joining = Joining(path, kind, axis, origin=whose)
        self._pass.joins(joining, inputs)
        self._pass.joined(joining, node.outputs[0])


def run_with_native_joins(heard: Pass, run: Callable[[Any], Any], inputs: Any) -> None:
    """Runs the model so that joins written with TensorFlow are heard, too.

    Args:
        heard: The pass.
        run: The model's forward pass.
        inputs: What it takes.
    """
    if tf.executing_eagerly():
        _in_a_graph(heard, run, inputs)
        return
    heard.ear = GraphEar(heard)
    # What is in the graph already is not of this pass.
    heard.ear.moves()
    run(inputs)
    heard.ear.moves()


def _in_a_graph(heard: Pass, run: Callable[[Any], Any], inputs: Any) -> None:
    """Makes a graph of an eager run, for what runs eagerly leaves no nodes."""
    kept: list[Any] = []

    def traced(inputs: Any) -> list[Any]:
        with suppress(Done):
            run_with_native_joins(heard, run, inputs)
        kept.extend(heard.kept())
        return kept

    function = tf.function(traced, autograph=False)
    found = function.get_concrete_function(inputs)(inputs)
    heard.settle(zip(kept, found, strict=True))


def symbolic(tensor: Any) -> bool:
    """Whether a tensor has no values, as in a survey."""
    return True


def version(tensor: Any) -> int:
    """Returns how often a tensor was changed in place: never."""
    return 0


def retrace() -> AbstractContextManager[Any]:
    """Returns a context in which everything is traced again: nothing is kept here."""
    return nullcontext()


def points(heard: Callable[[], Pass | None]) -> list[Point]:
    """Returns what is wrapped of TensorFlow itself.

    A `tf.function` inside the model runs as the function it was made of: its own
    trace would keep its values, and be silent when it is run again. The graph of a
    loop's body is read when it is left.

    Args:
        heard: Returns the pass that is being heard, if there is one.
    """

    def inlined(original: Call) -> Call:
        @functools.wraps(original)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if heard() is None:
                return original(self, *args, **kwargs)
            function = self.python_function
            if self.input_signature is not None:
                # It may depend on the shapes of the signature. Traced anew, it tells.
                again = tf.function(function, input_signature=self.input_signature)
                return original(again, *args, **kwargs)
            if private(self, "_autograph"):
                function = _converted(function)
            return function(*args, **kwargs)

        return call

    def read(original: Call) -> Call:
        @contextmanager
        @functools.wraps(original)
        def as_default(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            with original(self, *args, **kwargs) as graph:
                yield graph
                told = heard()
                if told is not None:
                    told.ear.moves()

        return as_default

    return [
        (type(tf.function(as_is)), "__call__", inlined),
        (tf.__internal__.FuncGraph, "as_default", read),
    ]


def _converted(function: Call) -> Call:
    """Returns a function with Python's conditions and loops over tensors as nodes."""
    autograph = tf.__internal__.autograph
    here = autograph.control_status_ctx()
    # The step around it is traced without, and so would be all that it calls.
    enabled = type(here)(status=type(here.status).ENABLED)

    def converted(*args: Any, **kwargs: Any) -> Any:
        with enabled:
            return autograph.tf_convert(function, enabled)(*args, **kwargs)

    return converted


def compile(
    run: Run, model: keras.Model, shortcut: Callable[[], Shortcut | None]
) -> Step:
    """Makes one traced function of a run of the model.

    Args:
        run: Takes the model's inputs and what to do with a tensor that is heard;
            returns the wanted tensors by address.
        model: The model; its variables are read, never assigned.
        shortcut: Not needed: what is heard once is compiled.

    Returns:
        The step, traced once for all numbers of rows.
    """
    traced: dict[Any, Any] = {}

    def scoped(*flat: Any, structure: Any) -> dict[str, Any]:
        with keras.StatelessScope():
            return run(keras.tree.pack_sequence_as(structure, flat), as_is)

    def trace(inputs: Any, flat: list[Any], rows: int | None) -> Any:
        specs = [tf.TensorSpec((rows, *x.shape[1:]), x.dtype) for x in flat]
        function = tf.function(
            lambda *flat: scoped(*flat, structure=inputs), autograph=False
        )
        return function.get_concrete_function(*specs)

    def step(inputs: Any) -> Callable[[], Arrays]:
        flat = [tf.convert_to_tensor(x) for x in keras.tree.flatten(inputs)]
        rows = flat[0].shape[0]
        key = tuple((x.dtype, tuple(x.shape[1:])) for x in flat)
        function = traced.get(key) or traced.get((rows, key))
        if function is None:
            try:
                function = traced[key] = trace(inputs, flat, None)
            except (TypeError, ValueError):
                # A model may compute with the number of rows in Python.
                function = traced[rows, key] = trace(inputs, flat, rows)
        found = function(*flat)
        return lambda: {name: _array(tensor) for name, tensor in found.items()}

    return step


def _array(tensor: Any) -> NDArray[Any]:
    """Returns the values of a tensor, without a copy where it is on the CPU."""
    try:
        return np.asarray(memoryview(tensor))
    except ValueError:
        # Buffers of Python have no bfloat16.
        found: NDArray[Any] = tensor.numpy()
        return found
