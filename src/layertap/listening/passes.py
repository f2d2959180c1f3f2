"""One forward pass, as it is heard: where it stands, and what it joins."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
from numpy.typing import NDArray

from layertap import address

Tensor = Any
Belongs = Callable[[Tensor], bool]
Keep = Callable[[Tensor], Tensor]
Run = Callable[[Any, Keep], dict[str, Tensor]]
Step = Callable[[Any], dict[str, NDArray[Any]]]


def as_is(tensor: Tensor) -> Tensor:
    """Keeps a tensor that nothing can change."""
    return tensor


@dataclass(slots=True)
class Frame:
    """One operation that is being called.

    Attributes:
        operation: The Keras operation.
        path: Its path; empty for the root.
        inside: Whether the operation's own `call` runs now. Around it, Keras builds
            the layer and computes masks, which is no part of the model.
        joined: Whether the join that the operation is named for was heard.
        calls: How often each name was called in here.
        arguments: The arguments as the caller gave them, before any cast.
    """

    operation: Any
    path: str
    inside: bool = False
    joined: bool = False
    calls: dict[str, int] = field(default_factory=dict)
    arguments: tuple[Any, Any] = ((), {})

    def child(self, name: str) -> str:
        """Returns the path of the next call of `name` in here, and counts it."""
        part = address.component(name)
        count = self.calls[part] = self.calls.get(part, 0) + 1
        if count > 1:
            part = f"{part}@{count}"
        return f"{self.path}/{part}" if self.path else part


class Pass:
    """A forward pass that is being heard. Abstract: see `Survey` and `Collection`.

    The calls that `calls.py` wraps report here. The pass keeps the stack of
    operations, so that whatever is heard has a path.

    Args:
        belongs: Whether a tensor belongs to the trace of this pass. A tensor of
            another trace, the body of a loop say, cannot be returned from this one.
    """

    def __init__(self, belongs: Belongs = lambda tensor: True) -> None:
        self.belongs = belongs
        self.frames: list[Frame] = []
        self.loops: list[str] = []

    @property
    def listens(self) -> bool:
        """Whether what happens now is a part of the model's forward pass."""
        return not self.frames or self.frames[-1].inside

    def enter(self, operation: Any, args: Any, kwargs: Any) -> Frame:
        """An operation was called; its `call` does not run yet."""
        path = self.frames[-1].child(operation.name) if self.frames else ""
        frame = Frame(operation, path, arguments=(args, kwargs))
        self.frames.append(frame)
        return frame

    def begin(self, frame: Frame, args: Any, kwargs: Any) -> None:
        """The operation's own `call` begins, with arguments as it receives them."""
        frame.inside = True

    def converted(self, before: Any, after: Any) -> None:
        """A functional model converted one of its inputs."""

    def leave(self, frame: Frame, outputs: Any) -> None:
        """The operation returned."""

    def join_path(self, names: tuple[type, ...], kind: str) -> str:
        """Returns the path of a join that happens now.

        An operation that is itself such a join lends it its path; inside any other
        the join is named by its kind.

        Args:
            names: Classes of the operations that are joins of this kind.
            kind: The kind of join.
        """
        frame = self.frames[-1]
        if isinstance(frame.operation, names) and not frame.joined and frame.path:
            frame.joined = True
            return frame.path
        return frame.child(kind)

    def join_inputs(self, path: str, kind: str, axis: int, inputs: Any) -> None:
        """A join is about to happen."""

    def join_output(self, path: str, output: Tensor) -> None:
        """The join happened."""


@dataclass(frozen=True)
class ValueHeard:
    """One tensor as a survey heard it.

    Attributes:
        shape: Its shape, with None where the size is not known.
        dtype: Its Keras dtype.
        made_by: The path of the operation that returned it last.
        token: Equal for two values if they are the same tensor.
        fault: Why it can't be had; empty if it can.
    """

    shape: tuple[int | None, ...]
    dtype: str
    made_by: str
    token: int
    fault: str = ""


@dataclass(frozen=True)
class JoinHeard:
    """One join as a survey heard it."""

    path: str
    kind: str
    axis: int
    inputs: tuple[ValueHeard, ...]
    output: ValueHeard


class Survey(Pass):
    """A pass that notes every join and every operation's outputs.

    Args:
        input_names: The names of the model's inputs, flat.
        model_name: Made by whom, if nobody but the root model itself.
        belongs: As of `Pass`.
    """

    def __init__(
        self, input_names: Sequence[str], model_name: str, belongs: Belongs
    ) -> None:
        super().__init__(belongs)
        self.input_names = input_names
        self.model_name = model_name
        self.joins: dict[str, JoinHeard] = {}
        self.outputs: dict[str, tuple[ValueHeard, ...]] = {}
        self._makers: dict[int, str] = {}
        self._tokens: dict[int, int] = {}
        # A tensor that is dropped would hand its id to another.
        self._kept: list[Tensor] = []

    def begin(self, frame: Frame, args: Any, kwargs: Any) -> None:
        """Names the inputs, and follows tensors through the casts before `call`."""
        super().begin(frame, args, kwargs)
        if frame.path == "":
            for name, tensor in zip(
                self.input_names, keras.tree.flatten(args[0]), strict=True
            ):
                self._made(tensor, name)
            return
        for before, after in _pairs(frame.arguments, (args, kwargs)):
            self.converted(before, after)

    def converted(self, before: Any, after: Any) -> None:
        """Follows a tensor through a conversion: who made it, and whether it is new.

        Symbolic tensors of PyTorch are copied by conversions that do nothing.
        """
        if before is after or not (is_tensor(before) and is_tensor(after)):
            return
        if id(before) in self._makers and id(after) not in self._makers:
            self._made(after, self._makers[id(before)])
        if (before.dtype, shape_of(before)) == (after.dtype, shape_of(after)):
            self._tokens[id(after)] = self._token(before)
            self._kept += (before, after)

    def leave(self, frame: Frame, outputs: Any) -> None:
        """Notes what the operation returned."""
        if not frame.path or frame.path in self.outputs:
            return
        tensors = [leaf for leaf in flatten(outputs) if is_tensor(leaf)]
        for tensor in tensors:
            self._made(tensor, frame.path)
        self.outputs[frame.path] = tuple(map(self._value, tensors))

    def join_inputs(self, path: str, kind: str, axis: int, inputs: Any) -> None:
        """Notes the join, its output still to come."""
        values = tuple(map(self._value, inputs))
        axis %= max(len(value.shape) for value in values)
        self.joins[path] = JoinHeard(path, kind, axis, values, values[0])

    def join_output(self, path: str, output: Tensor) -> None:
        """Completes the join with its output."""
        heard = self.joins[path]
        self.joins[path] = JoinHeard(
            path, heard.kind, heard.axis, heard.inputs, self._value(output)
        )

    def _token(self, tensor: Tensor) -> int:
        return self._tokens.get(id(tensor), id(tensor))

    def _made(self, tensor: Tensor, path: str) -> None:
        self._makers[id(tensor)] = path
        self._kept.append(tensor)

    def _value(self, tensor: Tensor) -> ValueHeard:
        self._kept.append(tensor)
        scope = self.frames[-1].path or self.model_name
        fault = _not_dense(tensor)
        if self.loops:
            fault = f"it is computed inside {self.loops[-1]}"
        elif not self.belongs(tensor):
            fault = "it is computed inside a trace of its own (a loop or a condition)"
        return ValueHeard(
            shape_of(tensor),
            keras.backend.standardize_dtype(tensor.dtype),
            self._makers.get(id(tensor), scope),
            self._token(tensor),
            fault,
        )


class Done(BaseException):
    """The last wanted value was heard: the rest of the pass is not needed.

    Not an `Exception`, so that a model's own `except Exception` lets it through.
    """


class Collection(Pass):
    """A pass that keeps the wanted values, and ends as soon as it has them all.

    Args:
        branches: Wanted branches: address by join path and index.
        outputs: Wanted outputs: address by operation path and index. A join's path
            names its output too.
        keep: What to do with a tensor at the moment it is heard.
    """

    def __init__(
        self,
        branches: Mapping[str, Mapping[int, str]],
        outputs: Mapping[str, Mapping[int, str]],
        keep: Keep = as_is,
    ) -> None:
        super().__init__()
        self.branches = branches
        self.outputs = outputs
        self.keep = keep
        self.values: dict[str, Tensor] = {}
        self._missing = sum(map(len, branches.values())) + sum(
            map(len, outputs.values())
        )

    def leave(self, frame: Frame, outputs: Any) -> None:
        """Keeps the operation's outputs, if they are wanted."""
        wanted = self.outputs.get(frame.path)
        if wanted and not self.loops:
            self._collect(
                wanted, [leaf for leaf in flatten(outputs) if is_tensor(leaf)]
            )

    def join_inputs(self, path: str, kind: str, axis: int, inputs: Any) -> None:
        """Keeps the join's branches, if they are wanted."""
        wanted = self.branches.get(path)
        if wanted and not self.loops:
            self._collect(wanted, inputs)

    def join_output(self, path: str, output: Tensor) -> None:
        """Keeps the join's output, if it is wanted."""
        wanted = self.outputs.get(path)
        if wanted and not self.loops:
            self._collect(wanted, [output])

    def _collect(self, wanted: Mapping[int, str], tensors: Sequence[Tensor]) -> None:
        for index, name in wanted.items():
            if name not in self.values and index < len(tensors):
                self.values[name] = self.keep(tensors[index])
                self._missing -= 1
        if not self._missing:
            raise Done


def is_tensor(leaf: Any) -> bool:
    """Whether a leaf has a shape and a dtype, as masks and flags may not."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _not_dense(tensor: Tensor) -> str:
    """Says why a tensor has no rows of one size each, if so."""
    kind = type(tensor).__name__
    if "Sparse" in kind or "Ragged" in kind or kind == "BCOO":
        return f"it is a {kind}; make it dense before the join"
    if getattr(tensor.shape, "rank", 0) is None:
        return "not even its number of axes is known before it runs"
    return ""


def shape_of(tensor: Tensor) -> tuple[int | None, ...]:
    """Returns a tensor's shape, with None for a size that is not a number."""
    if getattr(tensor.shape, "rank", 0) is None:
        return (None,)
    return tuple(size if isinstance(size, int) else None for size in tensor.shape)


def flatten(structure: Any) -> list[Any]:
    """Returns a structure's leaves; a dictionary's in the order of its sorted keys.

    Keras' own flattening follows the backend's idea of order for dictionaries.
    """
    return list(_leaves(structure))


def _leaves(structure: Any) -> Iterator[Any]:
    if isinstance(structure, Mapping):
        for key in sorted(structure, key=str):
            yield from _leaves(structure[key])
    elif isinstance(structure, list | tuple):
        for member in structure:
            yield from _leaves(member)
    else:
        yield structure


def _pairs(given: Any, received: Any) -> Iterator[tuple[Any, Any]]:
    """Pairs the leaves of a call's arguments before and after their conversion."""
    before, after = flatten(given[0]), flatten(received[0])
    if len(before) == len(after):
        yield from zip(before, after, strict=True)
    for name in given[1].keys() & received[1].keys():
        before, after = flatten(given[1][name]), flatten(received[1][name])
        if len(before) == len(after):
            yield from zip(before, after, strict=True)
