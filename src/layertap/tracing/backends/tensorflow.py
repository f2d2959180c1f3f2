"""Tracing on TensorFlow: the pass runs while `tf.function` traces the model."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from layertap.tracing.backends import Backend
from layertap.tracing.backends.gathered import forms, split
from layertap.tracing.forward_pass import (
    Arrays,
    BackendListener,
    Call,
    Collector,
    Differentiable,
    Pass,
    Point,
    Run,
    Shortcut,
    Step,
    Tensors,
    as_is,
)
from layertap.tracing.keras_internals import private
from layertap.tracing.model_structure import map_arrays

# The kind of join of a node, by its type.
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


class GraphListener(BackendListener):
    """Reports the joins among the nodes that are new in the graph.

    All nodes since the last flush were made by the operation that is being called. The
    body of a loop has its own graph.
    """

    def __init__(self, pass_: Pass) -> None:
        self._pass = pass_
        # By graph, how many of its nodes were read.
        self._read: dict[Any, int] = {}

    def flush(self) -> None:
        """Reports the new joins of the model."""
        graph = tf.compat.v1.get_default_graph()
        nodes = graph.get_operations()
        new = nodes[self._read.get(graph, 0) :]
        self._read[graph] = len(nodes)
        if self._pass.frames and self._pass.listens:
            for node in new:
                self._report(node)

    def _report(self, node: Any) -> None:
        kind = NODES.get(node.type, "")
        frame = self._pass.frames[-1]
        if kind not in self._pass.kinds or frame.covered:
            return
        inputs, axis = list(node.inputs), None
        if kind == "concatenate":
            *inputs, axis_tensor = inputs
            value = tf.get_static_value(axis_tensor)
            axis = None if value is None else int(value)
        elif kind == "stack":
            axis = node.get_attr("axis")
        elif any(x.shape.rank == 0 for x in inputs):
            return
        stack = ((f.filename, f.name) for f in reversed(list(node.traceback)))
        join = frame.native_join(kind, axis, stack)
        written = self._pass.write("in", join.path, inputs)
        for index, tensor in enumerate(written or ()):
            private(node, "_update_input")(index, tensor)
        join = self._pass.begin_join(join, written or inputs)
        self._pass.end_join(join, node.outputs[0])


class TensorFlow(Backend):
    """Tracing on TensorFlow. Its functions inside a model are inlined: see `points`."""

    def compile(self, run: Collector, model: keras.Model, shortcut: Shortcut) -> Step:
        """Compiles a run of the model, if possible once for all numbers of rows."""
        traced: dict[Any, Any] = {}
        lock = threading.Lock()

        def trace(inputs: Any, flat: list[Any], rows: int | None) -> Any:
            def scoped(*flat: Any) -> Tensors:
                tensors = iter(flat)
                with keras.StatelessScope():
                    return run(map_arrays(lambda x: next(tensors), inputs), as_is)

            specs = [tf.TensorSpec((rows, *x.shape[1:]), x.dtype) for x in flat]
            return tf.function(scoped, autograph=False).get_concrete_function(*specs)

        def step(inputs: Any) -> Tensors:
            tensors = keras.tree.flatten(map_arrays(tf.convert_to_tensor, inputs))
            flat = [x for x in tensors if x is not None]
            rows = flat[0].shape[0]
            key = tuple(x if x is None else (x.dtype, *x.shape[1:]) for x in tensors)
            function = traced.get(key) or traced.get((rows, key))
            if function is None:
                with lock:
                    function = traced.get(key) or traced.get((rows, key))
                    if function is None:
                        try:
                            function = traced[key] = trace(inputs, flat, None)
                        except (TypeError, ValueError):
                            # A model may compute with the number of rows in Python.
                            function = traced[rows, key] = trace(inputs, flat, rows)
            return function(*flat)

        return step

    def begin(
        self, step: Step, inputs: Any, full: int | None = None
    ) -> Callable[[], Arrays]:
        """Begins a step: on a CPU, it is done."""
        tensors = step(inputs)
        if tf.config.list_logical_devices("GPU"):
            return copied(tensors)
        return lambda: {name: _array(tensor) for name, tensor in tensors.items()}

    def values_of(self, variable: keras.Variable) -> NDArray[Any]:
        """See `Backend`: Keras would copy them twice."""
        return _array(tf.convert_to_tensor(variable.value))

    def differentiate(self, run: Differentiable) -> tuple[Tensors, Tensors]:
        """Returns the derivatives of a number in the graph that is being traced."""
        marked: dict[str, Any] = {}

        def mark(name: str, tensor: Any) -> Any:
            marked[name] = tf.identity(tensor)
            return marked[name]

        number, others = run(mark)
        found = tf.gradients(number, [*marked.values()])
        pairs = zip(marked, found, strict=True)
        derivatives = {n: tf.convert_to_tensor(d) for n, d in pairs if d is not None}
        return derivatives, others

    def run_with_native_joins(self, pass_: Pass, run: Run, inputs: Any) -> None:
        """Runs the model in a graph, and reads the graph's nodes."""
        if tf.executing_eagerly():
            self._run_in_a_graph(pass_, run, inputs)
            return
        pass_.listener = GraphListener(pass_)
        # The earlier nodes of the graph are not of this pass.
        pass_.listener.flush()
        run(inputs)
        pass_.listener.flush()

    def undecidable(self, error: BaseException) -> bool:
        """Whether Python had to decide by values that a trace does not have."""
        if isinstance(error, tf.errors.OperatorNotAllowedInGraphError):
            return True
        if isinstance(error, AttributeError):
            return error.name == "numpy" and isinstance(error.obj, tf.Tensor)
        unable = isinstance(error, NotImplementedError)
        return unable and "symbolic tf.Tensor" in str(error)

    def traces(self) -> bool:
        """Whether the caller is inside a `tf.function`."""
        return not tf.executing_eagerly()

    def belongs(self, tensors: Sequence[Any]) -> Callable[[Any], bool]:
        """Returns a test of whether a tensor is in the same graph as `tensors`."""
        graph = tensors[0].graph
        return lambda tensor: getattr(tensor, "graph", graph) is graph

    def points(self) -> list[Point]:
        """Returns the calls of TensorFlow that are wrapped."""
        return [
            (type(tf.function(as_is)), "__call__", _call_inlined),
            (tf.__internal__.FuncGraph, "as_default", _read_graph),
        ]

    def _run_in_a_graph(self, pass_: Pass, run: Run, inputs: Any) -> None:
        """Makes a graph of an eager run, which has no nodes."""
        tensors: list[Any] = []

        def traced(inputs: Any) -> list[Any]:
            with_joins = partial(self.run_with_native_joins, pass_, run)
            tensors.extend(pass_.trace(with_joins, inputs))
            return tensors

        function = tf.function(traced, autograph=False)
        values = function.get_concrete_function(inputs)(inputs)
        pass_.replace_tensors(zip(tensors, values, strict=True))


def copied(tensors: Tensors) -> Callable[[], Arrays]:
    """Begins to copy values to the host, and returns a function that waits for them.

    TensorFlow waits for its copies, so that another thread does.
    """
    ordered = forms(tensors)
    gathered = _gathered([tensors[form.name] for form in ordered])
    copying = _copies.submit(gathered.numpy)
    return lambda: split(copying.result(), ordered)


@tf.function(autograph=False, reduce_retracing=True)
def _gathered(tensors: list[Any]) -> Any:
    return tf.concat([tf.reshape(_bytes(t), [-1]) for t in tensors], axis=0)


def _bytes(tensor: Any) -> Any:
    if tensor.dtype == tf.bool:
        return tf.cast(tensor, tf.uint8)
    return tf.bitcast(tensor, tf.uint8)


# A thread is started at the first copy.
_copies = ThreadPoolExecutor(1, "layertap-copies")


def _call_inlined(
    pass_: Pass, original: Call, function: Any, /, *args: Any, **kwargs: Any
) -> Any:
    """Inlines a `tf.function`: its own trace would hide its values, and be reused."""
    python_function = function.python_function
    if function.input_signature is not None:
        # It may depend on the signature's shapes. A new trace has its calls.
        retraced = tf.function(
            python_function, input_signature=function.input_signature
        )
        return original(retraced, *args, **kwargs)
    if private(function, "_autograph"):
        python_function = _with_autograph(python_function)
    return python_function(*args, **kwargs)


@contextmanager
def _read_graph(
    pass_: Pass, original: Call, graph: Any, /, *args: Any, **kwargs: Any
) -> Iterator[Any]:
    """Reads the graph of a loop's body at its end."""
    with original(graph, *args, **kwargs) as default:
        yield default
        pass_.listener.flush()


def _with_autograph(function: Call) -> Call:
    """Returns a function whose conditions and loops over tensors become nodes."""
    autograph = tf.__internal__.autograph
    current = autograph.control_status_ctx()
    # The compiled step is traced without autograph, and so are all its calls.
    enabled = type(current)(status=type(current.status).ENABLED)

    def converted(*args: Any, **kwargs: Any) -> Any:
        with enabled:
            return autograph.tf_convert(function, enabled)(*args, **kwargs)

    return converted


def _array(tensor: Any) -> NDArray[Any]:
    """Returns the values of a tensor, without a copy on the CPU."""
    try:
        return np.asarray(memoryview(tensor))
    except ValueError:
        # Python's buffers do not support bfloat16.
        return tensor.numpy()
