"""Reads the jaxpr of a forward pass for the joins that were written with JAX itself.

A jaxpr is read when the trace has ended: each of its equations tells by its stack of
names in which operation it was made, and by its traceback who asked for it. Functions
that JAX compiles on their own are read as if they stood in place of their call.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import keras
from jax.extend import core

from layertap.tracing.forward_pass import (
    BackendListener,
    Done,
    Frame,
    Joining,
    Pass,
    rank,
)
from layertap.tracing.join_kinds import RNN_LOOP, joins_by_name, native_name, origin
from layertap.tracing.keras_internals import private

# By name of the primitive: the kind of join that it does.
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
# By name of a function that JAX may compile on its own.
FUNCTIONS = {"matmul": "dot", "dot": "dot"}
# Primitives by which a function brings what it is given into the form it needs.
FORMING = ("broadcast_in_dim", "reshape", "squeeze", "transpose")
# Primitives that hold a jaxpr which runs once, in their place.
CALLS = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "remat",
    "remat2",
    "checkpoint",
)
_JAX = str(Path(jax.__file__).parent / "_src")
_passes = itertools.count()


class ScopeEar(BackendListener):
    """Writes the operation that is called into the names of what JAX traces."""

    def __init__(self) -> None:
        self._number = next(_passes)
        self.frames: list[Frame] = []

    def scope(self, frame: Frame) -> AbstractContextManager[Any]:
        """Returns the scope of one operation."""
        self.frames.append(frame)
        name = f"layertap.{self._number}.{len(self.frames) - 1}"
        scope: AbstractContextManager[Any] = jax.named_scope(name)
        return scope

    def covered(self) -> AbstractContextManager[Any]:
        """Returns a scope in which no join is to be read."""
        scope: AbstractContextManager[Any] = jax.named_scope(
            f"layertap.{self._number}.covered"
        )
        return scope

    def frame(self, names: str) -> Frame | None:
        """Returns the operation in which something was traced; None if covered."""
        found = re.findall(rf"layertap\.{self._number}\.(\d+|covered)", names)
        if not found or found[-1] == "covered":
            return None
        return self.frames[int(found[-1])]


@dataclass(eq=False)
class Node:
    """A value of a jaxpr that is read without being computed.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
    """

    shape: tuple[Any, ...]
    dtype: Any


@dataclass(frozen=True)
class _Where:
    """Where a jaxpr stands.

    Attributes:
        names: The stack of names around it.
        callers: The equations that called it, the outermost first.
        loops: The loops in which it runs.
    """

    names: str = ""
    callers: tuple[core.JaxprEqn, ...] = ()
    loops: tuple[str, ...] = ()

    def inside(self, equation: core.JaxprEqn) -> "_Where":
        """Returns where the body of an equation stands."""
        names = f"{self.names}/{equation.source_info.name_stack}"
        return _Where(names, (*self.callers, equation), self.loops)

    def frames(self) -> Iterator[tuple[str, str]]:
        """Yields who asked for the last of the callers, the innermost first.

        What JAX compiles on its own it traces once: whoever asked for it then is not
        who asks for it now.
        """
        for each in reversed(self.callers):
            traceback = each.source_info.traceback
            for frame in traceback.frames if traceback else ():
                name = frame.function_name
                if name.startswith(("trace_to_jaxpr", "_create_pjit_jaxpr")):
                    break
                yield frame.file_name, name
            else:
                return


@dataclass(frozen=True)
class _Found:
    """A join that was read, to be reported when all is read."""

    frame: Frame
    kind: str
    axis: int | None
    inputs: list[Any]
    output: Any
    origin: str
    loops: tuple[str, ...]


def belongs(tensors: Sequence[Any]) -> Callable[[Any], bool]:
    """Returns whether a tensor is of the same trace as `tensors`, or a constant."""
    trace = private(tensors[0], "_trace")
    return lambda tensor: getattr(tensor, "_trace", trace) is trace


def run_with_native_joins(heard: Pass, run: Callable[[Any], Any], inputs: Any) -> None:
    """Runs the model so that joins written with JAX are heard, too.

    Its forward pass is traced to a jaxpr, and the jaxpr is read when the trace has
    ended: computing, if the pass collects values, which are then values of the trace
    around it.

    Args:
        heard: The pass.
        run: The model's forward pass.
        inputs: What it takes.
    """
    heard.ear = ear = ScopeEar()
    kept: list[Any] = []

    def traced(inputs: Any) -> list[Any]:
        heard.belongs = belongs(jax.tree.leaves(inputs))
        with suppress(Done):
            run(inputs)
        kept.extend(each for each in heard.kept() if isinstance(each, jax.Array))
        return kept

    closed = jax.make_jaxpr(traced)(inputs)
    reading = _Reading(heard, ear)
    given = [*closed.consts, *jax.tree.leaves(inputs)]
    outputs = reading.read(closed.jaxpr, given, _Where())
    heard.settle(list(zip(kept, outputs, strict=True)))
    reading.report()


class _Reading:
    """One reading of a jaxpr, and of those inside it.

    Args:
        heard: The pass to report to. If it computes, so does the reading.
        ear: Knows which operation a stack of names is of.
    """

    def __init__(self, heard: Pass, ear: ScopeEar) -> None:
        self._pass = heard
        self._ear = ear
        self._found: list[_Found] = []
        # By id, what a value was before the join brought it into form.
        self._before: dict[int, tuple[Any, Any]] = {}

    def read(self, jaxpr: core.Jaxpr, given: Sequence[Any], where: _Where) -> list[Any]:
        """Reads equation by equation.

        Args:
            jaxpr: What is read.
            given: Its constants and its inputs.
            where: Where it stands.

        Returns:
            Its outputs.
        """
        computing = self._pass.computes and not where.loops
        form = _as_it_is if computing else _node
        variables = [*jaxpr.constvars, *jaxpr.invars]
        values = dict(zip(variables, map(form, given), strict=True))

        def value(atom: Any) -> Any:
            if isinstance(atom, core.Literal):
                return atom.val if computing else _node(atom.aval)
            return values[atom]

        for equation in jaxpr.eqns:
            inputs = list(map(value, equation.invars))
            here = where.inside(equation)
            body = _body(equation)
            join = equation.params.get("name") in FUNCTIONS
            if body is not None and not join:
                outputs = self.read(body.jaxpr, [*body.consts, *inputs], here)
            else:
                outputs = _computed(equation, inputs) if computing else _nodes(equation)
                self._join(equation, inputs, outputs, where)
                if body is None:
                    self._loop(equation, here)
            if equation.primitive.name in FORMING:
                frames = itertools.takewhile(_in_jax, here.frames())
                if any(joins_by_name(function) for _, function in frames):
                    self._before[id(outputs[0])] = outputs[0], inputs[0]
            values.update(zip(equation.outvars, outputs, strict=True))
        return list(map(value, jaxpr.outvars))

    def report(self) -> None:
        """Reports the joins that were found, in their order."""
        heard = self._pass
        for found in self._found:
            path = found.frame.child(native_name(found.kind, found.origin))
            joining = Joining(path, found.kind, found.axis, origin=found.origin)
            heard.frames, heard.loops = [found.frame], list(found.loops)
            heard.joins(joining, found.inputs)
            heard.joined(joining, found.output)
        heard.frames, heard.loops = [], []

    def _loop(self, equation: core.JaxprEqn, here: _Where) -> None:
        """Reads what is joined in the bodies of a loop or a condition."""
        frame = self._ear.frame(here.names)
        name = f"`jax.lax.{equation.primitive.name}`"
        if frame is not None and isinstance(frame.operation, keras.layers.RNN):
            name = RNN_LOOP
        parameters = list(equation.params.values())
        for body in filter(_is_jaxpr, jax.tree.leaves(parameters, is_leaf=_is_jaxpr)):
            given = [*body.consts, *(v.aval for v in body.jaxpr.invars)]
            self.read(body.jaxpr, given, replace(here, loops=(*here.loops, name)))

    def _join(
        self,
        equation: core.JaxprEqn,
        inputs: list[Any],
        outputs: list[Any],
        where: _Where,
    ) -> None:
        kind = PRIMITIVES.get(equation.primitive.name)
        kind = kind or FUNCTIONS.get(equation.params.get("name"))
        here = where.inside(equation)
        frame = self._ear.frame(here.names) if kind else None
        if kind is None or frame is None or frame.covered:
            return
        frames = list(here.frames())
        if kind == "concatenate":
            inside_jax = itertools.takewhile(_in_jax, frames)
            if any(function == "stack" for _, function in inside_jax):
                # Of releases that write a stack as what it comes down to.
                kind, inputs = "stack", [self._given(x) for x in inputs]
        elif kind != "stack":
            inputs = [self._given(x) for x in inputs]
            if any(rank(x) == 0 for x in inputs if hasattr(x, "shape")):
                return
        if kind not in self._pass.kinds:
            return
        axis = equation.params.get("dimension", equation.params.get("axis"))
        whose = origin(frames, frame.operation, kind)
        self._found.append(
            _Found(frame, kind, axis, inputs, outputs[0], whose, where.loops)
        )

    def _given(self, value: Any) -> Any:
        """Returns what a value was before the join brought it into form."""
        while id(value) in self._before:
            _, value = self._before[id(value)]
        return value


def _in_jax(frame: tuple[str, str]) -> bool:
    return frame[0].startswith(_JAX)


def _as_it_is(value: Any) -> Any:
    return value


def _node(value: Any) -> Node:
    return value if isinstance(value, Node) else Node(value.shape, value.dtype)


def _nodes(equation: core.JaxprEqn) -> list[Any]:
    return [_node(variable.aval) for variable in equation.outvars]


def _computed(equation: core.JaxprEqn, inputs: list[Any]) -> list[Any]:
    """Returns the outputs of an equation."""
    body = _body(equation)
    if body is not None:
        return list(core.jaxpr_as_fun(body)(*inputs))
    found = equation.primitive.bind(*inputs, **equation.params)
    return list(found) if equation.primitive.multiple_results else [found]


def _is_jaxpr(leaf: Any) -> bool:
    return isinstance(leaf, core.ClosedJaxpr)


def _body(equation: core.JaxprEqn) -> core.ClosedJaxpr | None:
    """Returns the jaxpr that an equation runs once in its place, if it does."""
    if equation.primitive.name not in CALLS:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        body = equation.params.get(name)
        if body is not None:
            return body if _is_jaxpr(body) else core.ClosedJaxpr(body, [])
    return None
