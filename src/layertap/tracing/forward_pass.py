"""The state of one forward pass while it is traced, and the events that it receives."""

import copy
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
from numpy.typing import NDArray

from layertap.core.address import Side, component, parse
from layertap.tracing.join_kinds import native_name, origin
from layertap.tracing.keras_internals import private
from layertap.tracing.model_structure import call_number
from layertap.tracing.records import TracedJoin

Tensor = Any
Keep = Callable[[Tensor], Tensor]
# Runs a model on its inputs.
Run = Callable[[Any], Any]
# Tensors of the backend, and arrays of NumPy, by address.
Tensors = dict[str, Tensor]
Arrays = dict[str, NDArray[Any]]
# Runs a model on its inputs, and returns the wanted tensors.
Collector = Callable[[Any, Keep], Tensors]
# Computes the wanted tensors of a batch of arrays.
Step = Callable[[Any], Tensors]
# Makes a function that computes the wanted values with a graph that has nothing else.
Shortcut = Callable[[], Callable[[Any], Tensors] | None]
# Returns the tensor to use in the place of another one, by its name.
Change = Callable[[str, Tensor], Tensor]
# Marks tensors with a function, uses what that returns, and returns a number that
# follows from them, and other results.
Differentiable = Callable[[Change], tuple[Tensor, Tensors]]
Call = Callable[..., Any]
# A call to be wrapped: its owner, its name, and its handler during a pass. The handler
# receives the pass, the original call, and the arguments.
Point = tuple[Any, str, Call]
# Addresses by the path of a join or operation, and by the index of a branch or output.
Addresses = Mapping[str, Mapping[int, str]]


def as_is(tensor: Tensor) -> Tensor:
    """Keeps a tensor that nothing can change."""
    return tensor


@dataclass(frozen=True)
class Wanted:
    """The values that a pass collects, and the kinds of the joins among them."""

    addresses: Collection[str]
    kinds: Iterable[str]
    # Whether the model draws random numbers, to be the same in every pass.
    random: bool = False

    @cached_property
    def sides(self) -> Mapping[Side, Addresses]:
        """The addresses by side. The output of a join is under the join's path."""
        sides: dict[Side, dict[str, dict[int, str]]] = {"in": {}, "out": {}}
        for address in self.addresses:
            parts = parse(address)
            sides[parts.side].setdefault(parts.path, {})[parts.number] = address
        return sides


@dataclass(slots=True)
class Frame:
    """One operation that is being called. The path of the root model is empty."""

    operation: Any
    path: str
    # Whether the operation's own `call` is running. Around it, Keras builds the layer
    # and computes masks, which are not part of the model.
    inside: bool = False
    # Whether the join that the operation is named for was traced.
    joined: bool = False
    # Whether the operation is a join itself, so that its sums and products are not.
    covered: bool = False
    # How often each name was called in here.
    calls: dict[str, int] = field(default_factory=dict)
    # The arguments as the caller passed them, before any cast.
    arguments: tuple[Any, Any] = ((), {})

    def next_join(self, name: str) -> str:
        """Counts a join of this name in here, and returns its path."""
        part = component(name)
        return self._path(part, self._count(part))

    def next_call(self, operation: Any, *, made: bool = False) -> str:
        """Counts a call of an operation in here, and returns its path.

        `made` says that the pass itself made the operation.
        """
        part = component(_name(operation, made))
        number = call_number(self.operation, operation, self._count(part))
        return self._path(part, number)

    def native_join(
        self, kind: str, axis: int | None, stack: Iterable[tuple[str, str]]
    ) -> TracedJoin:
        """Counts a join that a function of the backend does in here."""
        whose = origin(stack, self.operation, kind)
        path = self.next_join(native_name(kind, whose))
        return TracedJoin(path, kind, axis, origin=whose)

    def _count(self, part: str) -> int:
        count = self.calls[part] = self.calls.get(part, 0) + 1
        return count

    def _path(self, part: str, number: int) -> str:
        part = numbered(part, number)
        return f"{self.path}/{part}" if self.path else part


def numbered(part: str, number: int) -> str:
    """Returns the part of a path that names one of several calls, 1 for the first."""
    return f"{part}@{number}" if number > 1 else part


class BackendListener:
    """Detects joins that a backend does without Keras. This one detects none."""

    def flush(self) -> None:
        """Reports the joins so far: the pass enters or leaves an operation."""

    def scope(self, frame: Frame) -> AbstractContextManager[Any]:
        """Returns a context that marks the calls of one operation."""
        return nullcontext()

    def covered(self) -> AbstractContextManager[Any]:
        """Returns a context in which nothing is reported: Keras does a known join."""
        return nullcontext()


class Done(BaseException):
    """Ends a pass after its last wanted value.

    It is not an `Exception`, so that a model's own `except Exception` lets it through.
    """


class Pass:
    """A forward pass that is being traced. Abstract.

    The wrapped calls of `hooks` report to it, and so does the backend's listener.
    """

    # Whether it computes values. Only passes that do not look for the origin of joins.
    computes = False

    def __init__(self, kinds: Iterable[str]) -> None:
        self.kinds = frozenset(kinds)
        self.listener = BackendListener()
        self.frames: list[Frame] = []
        self.loops: list[str] = []
        # The layers that a `call` made in this pass, by id.
        self.made: dict[int, Any] = {}
        # The last error, and the path of the innermost operation that raised it.
        self.failed: tuple[BaseException | None, str] = (None, "")
        # Whether a tensor belongs to the trace of this pass. One of another trace, such
        # as the body of a loop, can't be returned from this one.
        self.belongs: Callable[[Tensor], bool] = lambda tensor: True
        # How often a tensor was changed in place.
        self.version: Callable[[Tensor], int] = lambda tensor: 0

    def counts(self, kind: str) -> bool:
        """Whether joins of a kind are numbered: some share their names with layers."""
        return kind in self.kinds or kind == "concatenate"

    @property
    def listens(self) -> bool:
        """Whether the current call is part of the model's forward pass."""
        return not self.frames or self.frames[-1].inside

    def enter(self, operation: Any, args: Any, kwargs: Any) -> Frame:
        """Receives the call of an operation, before its own `call` runs."""
        self.listener.flush()
        path, made = "", id(operation) in self.made
        if self.frames:
            path = self.frames[-1].next_call(operation, made=made)
        frame = Frame(operation, path, arguments=(args, kwargs))
        self.frames.append(frame)
        return frame

    def begin(self, frame: Frame, args: Any, kwargs: Any) -> None:
        """Receives the arguments of an operation's own `call`, which begins."""
        self.listener.flush()
        frame.inside = True

    def run(self, frame: Frame, call: Call, args: Any, kwargs: Any) -> Any:
        """Runs an operation's own `call`, and returns its outputs."""
        return call(frame.operation, *args, **kwargs)

    def record_symbolic(self, operation: Any, arguments: Any, outputs: Any) -> None:
        """Receives a call of `keras.ops` with symbolic tensors."""

    def convert(self, before: Any, after: Any) -> None:
        """Receives the inputs of a functional model, before and after a conversion."""

    def leave(self, frame: Frame, outputs: Any) -> None:
        """Receives the outputs of an operation."""

    def fail(self, error: Exception, frame: Frame) -> None:
        """Notes the innermost operation that an error comes from.

        Keras raises new errors for those that pass through it.
        """
        known, path = self.failed
        same = any(cause is known for cause in causes(error))
        self.failed = error, path if same else frame.path

    def begin_join(self, join: TracedJoin, inputs: list[Tensor]) -> TracedJoin:
        """Receives a join and its inputs, before it is computed."""
        return join

    def end_join(self, join: TracedJoin, output: Tensor) -> None:
        """Receives the output of a join that `begin_join` returned."""

    def write(
        self, side: Side, path: str, tensors: list[Tensor]
    ) -> list[Tensor] | None:
        """Returns what to use in the place of branches or outputs; None for these."""
        return None

    def draw(self, generator: Any) -> None:
        """Receives a generator of random numbers, before it gives its next seed."""

    def held_tensors(self) -> list[Tensor]:
        """Returns the tensors that `replace_tensors` needs."""
        return []

    def replace_tensors(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Receives the held tensors, each with its counterpart outside the trace."""

    def trace(self, run: Run, inputs: Any) -> list[Tensor]:
        """Runs a model inside a trace, and returns the tensors that are held."""
        with suppress(Done):
            run(inputs)
        return self.held_tensors()


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error, and the errors that it comes from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _name(operation: Any, made: bool) -> str:
    """Returns the name of an operation, the same in every pass.

    Operations made during a `call` have names that count all earlier ones, unless the
    call names them.
    """
    name = re.sub(r"_\d+$", "", operation.name)
    if isinstance(operation, keras.layers.Layer):
        automatic = name.replace("_", "") == type(operation).__name__.lower()
        return name if made and automatic else operation.name
    return operation.name if private(operation, "_inbound_nodes") else name


def is_tensor(leaf: Any) -> bool:
    """Whether a leaf has a shape and a dtype, unlike masks and flags."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def leaves(structure: Any) -> Iterator[Any]:
    """Yields a structure's leaves, those of a dictionary in the order of its keys.

    The order of Keras' own `flatten` depends on the backend.
    """
    if isinstance(structure, Mapping):
        for key in sorted(structure, key=str):
            yield from leaves(structure[key])
    elif isinstance(structure, list | tuple):
        for member in structure:
            yield from leaves(member)
    else:
        yield structure


def tensors_of(structure: Any) -> list[Tensor]:
    """Returns the tensors among a structure's leaves."""
    return [leaf for leaf in leaves(structure) if is_tensor(leaf)]


def with_tensors(structure: Any, tensors: Iterator[Tensor]) -> Any:
    """Returns a structure with other tensors, in the order of `tensors_of`."""
    if isinstance(structure, Mapping):
        members: Any = copy.copy(structure)
        for key in sorted(structure, key=str):
            members[key] = with_tensors(structure[key], tensors)
        return members
    if isinstance(structure, list | tuple):
        changed = [with_tensors(member, tensors) for member in structure]
        named = hasattr(structure, "_fields")
        return type(structure)(*changed) if named else type(structure)(changed)
    return next(tensors) if is_tensor(structure) else structure


def layer_branches(operation: Any, kind: str, args: Any, kwargs: Any) -> list[Tensor]:
    """Returns the tensors that a layer joins: for attention, query, key and value."""
    if kind != "attention":
        return tensors_of(args[0] if args else kwargs)
    arguments = inspect.signature(operation.call).bind(*args, **kwargs).arguments
    if "inputs" in arguments:
        query, value, key = (*arguments["inputs"], None)[:3]
    else:
        query, value, key = map(arguments.get, ("query", "value", "key"))
    return [query, value if key is None else key, value]


def with_branches(
    operation: Any, kind: str, args: Any, kwargs: Any, written: list[Tensor]
) -> tuple[Any, Any]:
    """Returns the arguments of a layer with others than `layer_branches` returned."""
    if kind != "attention":
        branches = iter(written)
        if args:
            return (with_tensors(args[0], branches), *args[1:]), kwargs
        return args, with_tensors(kwargs, branches)
    bound = inspect.signature(operation.call).bind(*args, **kwargs)
    query, key, value = written
    # The value is the key, unless there is one, or one of both was replaced.
    names = {"query": query, "value": value}
    if key is not value:
        names["key"] = key
    if "inputs" not in bound.arguments:
        bound.arguments.update(names)
    else:
        others = bound.arguments["inputs"][3:]
        if others:
            names["key"] = key
        bound.arguments["inputs"] = [*names.values(), *others]
    return bound.args, bound.kwargs


def rank(tensor: Tensor) -> int | None:
    """Returns a tensor's number of axes, or None if that is unknown."""
    if hasattr(tensor.shape, "rank"):
        return tensor.shape.rank
    return len(tensor.shape)
