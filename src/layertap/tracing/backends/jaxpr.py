"""Reads the joins that are written with JAX itself from the jaxpr of a forward pass.

An equation's stack of names says in which operation it was traced, its traceback who
requested it. Functions that JAX compiles separately are read in place of their call.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import keras
from jax.extend import core

from layertap.tracing.forward_pass import BackendListener, Frame, Pass, Run, rank
from layertap.tracing.join_kinds import RNN_LOOP, joins_by_name
from layertap.tracing.keras_internals import private
from layertap.tracing.records import TracedJoin

# The kind of join of a primitive, by its name.
PRIMITIVES = {
    "concatenate": "concatenate",
    "stack": "stack",
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "max": "maximum",
    "min": "minimum",
    "dot_general": "dot",
}
# The kind of join of a function that JAX may compile separately, by its name.
FUNCTIONS = {"matmul": "dot", "dot": "dot"}
# Primitives that bring a function's arguments into the form that it needs.
FORMING = ("broadcast_in_dim", "reshape", "squeeze", "transpose")
# Primitives with a jaxpr that runs once, in their place.
CALLS = re.compile(
    "p?jit|(closed|core)_call|custom_(jvp|vjp)_call(_jaxpr)?|remat2?|checkpoint"
)
_JAX = str(Path(jax.__file__).parent / "_src")
_passes = itertools.count()


class ScopeListener(BackendListener):
    """Writes the current operation into the names of traced equations."""

    def __init__(self) -> None:
        self._prefix = f"layertap.{next(_passes)}"
        self.frames: list[Frame] = []

    def scope(self, frame: Frame) -> AbstractContextManager[Any]:
        """Returns the scope of one operation."""
        self.frames.append(frame)
        return self._scope(str(len(self.frames) - 1))

    def covered(self) -> AbstractContextManager[Any]:
        """Returns a scope in which no join is read."""
        return self._scope("covered")

    def frame(self, names: str) -> Frame | None:
        """Returns the operation that a stack of names is in; None if covered."""
        scopes = re.findall(rf"{re.escape(self._prefix)}\.(\d+|covered)", names)
        if not scopes or scopes[-1] == "covered":
            return None
        return self.frames[int(scopes[-1])]

    def _scope(self, name: str) -> AbstractContextManager[Any]:
        return jax.named_scope(f"{self._prefix}.{name}")


@dataclass(frozen=True)
class _Context:
    """The place of a jaxpr: its stack of names, its callers, and its loops."""

    names: str = ""
    # The equations that called it, the outermost first.
    callers: tuple[core.JaxprEqn, ...] = ()
    loops: tuple[str, ...] = ()

    def inside(self, equation: core.JaxprEqn) -> "_Context":
        """Returns the context of an equation's body."""
        names = f"{self.names}/{equation.source_info.name_stack}"
        return _Context(names, (*self.callers, equation), self.loops)

    def stack(self) -> Iterator[tuple[str, str]]:
        """Yields the files and functions behind the last caller, the innermost first.

        JAX traces a function that it compiles separately once. The stack of that trace
        is replaced by that of the current call.
        """
        for equation in reversed(self.callers):
            traceback = equation.source_info.traceback
            for frame in traceback.frames if traceback else ():
                name = frame.function_name
                if name.startswith(("trace_to_jaxpr", "_create_pjit_jaxpr")):
                    break
                yield frame.file_name, name
            else:
                return


def belongs(tensors: Sequence[Any]) -> Callable[[Any], bool]:
    """Returns a test of whether a tensor is in the trace of `tensors`, or constant."""
    trace = private(tensors[0], "_trace")
    return lambda tensor: getattr(tensor, "_trace", trace) is trace


def run_with_native_joins(pass_: Pass, run: Run, inputs: Any) -> None:
    """Traces the model to a jaxpr, and reads the jaxpr.

    If the pass computes values, so does the reading, in the trace around it.
    """
    pass_.listener = listener = ScopeListener()
    tensors: list[Any] = []

    def traced(inputs: Any) -> list[Any]:
        pass_.belongs = belongs(jax.tree.leaves(inputs))
        held = pass_.trace(run, inputs)
        tensors.extend(tensor for tensor in held if isinstance(tensor, jax.Array))
        return tensors

    closed = jax.make_jaxpr(traced)(inputs)
    reading = _JaxprReader(pass_, listener)
    arguments = [*closed.consts, *jax.tree.leaves(inputs)]
    outputs = reading.read(closed.jaxpr, arguments, _Context())
    pass_.replace_tensors(list(zip(tensors, outputs, strict=True)))
    reading.report()


class _JaxprReader:
    """Reads a jaxpr and those inside it, and reports their joins to a pass."""

    def __init__(self, pass_: Pass, listener: ScopeListener) -> None:
        self._pass = pass_
        self._listener = listener
        # By join: its operation, its place, itself, its inputs and its output.
        self._joins: list[tuple[Frame, _Context, TracedJoin, list[Any], Any]] = []
        # By id: a value, the value that a join reshaped to it, and how.
        self._unformed: dict[int, tuple[Any, Any, core.JaxprEqn]] = {}

    def read(
        self, jaxpr: core.Jaxpr, arguments: Sequence[Any], context: _Context
    ) -> list[Any]:
        """Reads a jaxpr, and returns its outputs for its constants and inputs."""
        computing = self._pass.computes and not context.loops
        variables = [*jaxpr.constvars, *jaxpr.invars]
        formed = arguments if computing else map(_node, arguments)
        values = dict(zip(variables, formed, strict=True))

        def value(atom: Any) -> Any:
            if isinstance(atom, core.Literal):
                return atom.val if computing else _node(atom.aval)
            return values[atom]

        for equation in jaxpr.eqns:
            inputs = list(map(value, equation.invars))
            here = context.inside(equation)
            body = called_jaxpr(equation)
            if body is not None and equation.params.get("name") not in FUNCTIONS:
                outputs = self.read(body.jaxpr, [*body.consts, *inputs], here)
            else:
                join = self._find_join(equation, inputs, here)
                if join is not None and computing:
                    inputs = self._write(join, inputs)
                outputs = _computed(equation, inputs) if computing else _nodes(equation)
                if join is not None:
                    self._joins.append((*join, outputs[0]))
                if body is None:
                    self._read_loop(equation, here)
            if equation.primitive.name in FORMING:
                stack = itertools.takewhile(_in_jax, here.stack())
                if any(joins_by_name(function) for _, function in stack):
                    self._unformed[id(outputs[0])] = outputs[0], inputs[0], equation
            values.update(zip(equation.outvars, outputs, strict=True))
        return list(map(value, jaxpr.outvars))

    def report(self) -> None:
        """Reports the joins, in their order."""
        for frame, context, join, inputs, output in self._joins:
            self._pass.frames, self._pass.loops = [frame], list(context.loops)
            self._pass.end_join(self._pass.begin_join(join, inputs), output)
        self._pass.frames, self._pass.loops = [], []

    def _read_loop(self, equation: core.JaxprEqn, context: _Context) -> None:
        """Reads the joins in the bodies of a loop or a condition."""
        frame = self._listener.frame(context.names)
        name = f"`jax.lax.{equation.primitive.name}`"
        if frame is not None and isinstance(frame.operation, keras.layers.RNN):
            name = RNN_LOOP
        parameters = list(equation.params.values())
        for body in filter(_is_jaxpr, jax.tree.leaves(parameters, is_leaf=_is_jaxpr)):
            arguments = [*body.consts, *(v.aval for v in body.jaxpr.invars)]
            inside = replace(context, loops=(*context.loops, name))
            self.read(body.jaxpr, arguments, inside)

    def _find_join(
        self, equation: core.JaxprEqn, inputs: list[Any], here: _Context
    ) -> tuple[Frame, _Context, TracedJoin, list[Any]] | None:
        """Returns the join that an equation does, with its branches, or None."""
        kind = PRIMITIVES.get(equation.primitive.name)
        kind = kind or FUNCTIONS.get(equation.params.get("name"))
        frame = self._listener.frame(here.names) if kind else None
        if kind is None or frame is None or frame.covered:
            return None
        stack = list(here.stack())
        if kind == "concatenate":
            in_jax = itertools.takewhile(_in_jax, stack)
            if any(function == "stack" for _, function in in_jax):
                # Some releases write a stack as reshapes and a concatenation.
                kind, inputs = "stack", list(map(self._undo_forming, inputs))
        elif kind != "stack":
            inputs = list(map(self._undo_forming, inputs))
            if any(rank(x) == 0 for x in inputs if hasattr(x, "shape")):
                return None
        if kind not in self._pass.kinds:
            return None
        axis = equation.params.get("dimension", equation.params.get("axis"))
        return frame, here, frame.native_join(kind, axis, stack), inputs

    def _write(
        self, found: tuple[Frame, _Context, TracedJoin, list[Any]], inputs: list[Any]
    ) -> list[Any]:
        """Returns the inputs of a join's equation, after the pass wrote branches."""
        _, _, join, branches = found
        written = self._pass.write("in", join.path, list(branches))
        if written is None:
            return inputs
        pairs = list(zip(branches, written, strict=True))
        branches[:] = written
        return [
            value if after is before else self._formed(value, after)
            for value, (before, after) in zip(inputs, pairs, strict=True)
        ]

    def _formed(self, value: Any, branch: Any) -> Any:
        """Brings another branch into the form in which the join has a value."""
        if id(value) not in self._unformed:
            return branch
        _, before, equation = self._unformed[id(value)]
        return _computed(equation, [self._formed(before, branch)])[0]

    def _undo_forming(self, value: Any) -> Any:
        """Returns the value that the user passed, before the join reshaped it."""
        while id(value) in self._unformed:
            _, value, _ = self._unformed[id(value)]
        return value


def without_constants(function: Any, argument: dict[str, Any]) -> tuple[Any, Any]:
    """Runs a function that returns a dictionary and other results.

    Of the dictionary, constants are left out: a derivative that JAX knows to be zero.
    """
    closed, form = jax.make_jaxpr(function, return_shape=True)(argument)
    varying: set[Any] = {*closed.jaxpr.invars, *closed.jaxpr.constvars}
    for equation in closed.jaxpr.eqns:
        variables = [v for v in equation.invars if not isinstance(v, core.Literal)]
        if varying.intersection(variables):
            varying.update(equation.outvars)
    computed = core.jaxpr_as_fun(closed)(*jax.tree.leaves(argument))
    found, others = jax.tree.unflatten(jax.tree.structure(form), computed)
    # Dictionaries are flattened in the order of their keys.
    pairs = zip(sorted(found), closed.jaxpr.outvars, strict=False)
    return {name: found[name] for name, v in pairs if v in varying}, others


def _in_jax(frame: tuple[str, str]) -> bool:
    return frame[0].startswith(_JAX)


def _node(value: Any) -> jax.ShapeDtypeStruct:
    """Returns a value that is read without being computed."""
    if isinstance(value, jax.ShapeDtypeStruct):
        return value
    return jax.ShapeDtypeStruct(value.shape, value.dtype)


def _nodes(equation: core.JaxprEqn) -> list[Any]:
    return [_node(variable.aval) for variable in equation.outvars]


def _computed(equation: core.JaxprEqn, inputs: list[Any]) -> list[Any]:
    """Returns the outputs of an equation."""
    body = called_jaxpr(equation)
    if body is not None:
        return list(core.jaxpr_as_fun(body)(*inputs))
    outputs = equation.primitive.bind(*inputs, **equation.params)
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def _is_jaxpr(leaf: Any) -> bool:
    return isinstance(leaf, core.ClosedJaxpr)


def called_jaxpr(equation: core.JaxprEqn) -> core.ClosedJaxpr | None:
    """Returns the jaxpr that an equation runs once in its place, or None."""
    if not CALLS.fullmatch(equation.primitive.name):
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        body = equation.params.get(name)
        if body is not None:
            return body if _is_jaxpr(body) else core.ClosedJaxpr(body, [])
    return None
