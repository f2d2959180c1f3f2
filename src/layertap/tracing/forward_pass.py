"""One forward pass, as it is heard: where it stands, and who hears what."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import keras
from numpy.typing import NDArray

from layertap.core import address
from layertap.tracing.keras_internals import private
from layertap.tracing.model_structure import call_number

Tensor = Any
Keep = Callable[[Tensor], Tensor]
Run = Callable[[Any, Keep], dict[str, Tensor]]
Arrays = dict[str, NDArray[Any]]
# Begins the pass of a batch. What it returns is called for the arrays: before the next
# batch's, which may have been begun by then.
Step = Callable[[Any], Callable[[], Arrays]]
# Another way to the wanted values, by a graph that has nothing else.
Shortcut = Callable[[Any], dict[str, Tensor]]
Call = Callable[..., Any]
# The addresses of wanted values, by the path of a join or operation and the index.
Wanted = Mapping[str, Mapping[int, str]]
# What is wrapped: where it stands, its name, and its wrap.
Point = tuple[Any, str, Callable[[Call], Call]]


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
        covered: Whether the operation is a join as a whole, so that what it adds or
            multiplies on its way is no join.
        calls: How often each name was called in here.
        arguments: The arguments as the caller gave them, before any cast.
    """

    operation: Any
    path: str
    inside: bool = False
    joined: bool = False
    covered: bool = False
    calls: dict[str, int] = field(default_factory=dict)
    arguments: tuple[Any, Any] = ((), {})

    def child(self, name: str) -> str:
        """Returns the path of the next join of that name in here, and counts it."""
        part = address.component(name)
        return self._path(part, self._counted(part))

    def calls_operation(self, operation: Any) -> str:
        """Returns the path of the next call of an operation in here, and counts it."""
        part = address.component(_name(operation))
        count = self._counted(part)
        return self._path(part, call_number(self.operation, operation, count))

    def _counted(self, part: str) -> int:
        count = self.calls[part] = self.calls.get(part, 0) + 1
        return count

    def _path(self, part: str, number: int) -> str:
        if number > 1:
            part = f"{part}@{number}"
        return f"{self.path}/{part}" if self.path else part


@dataclass(frozen=True, slots=True)
class Joining:
    """A join that happens now.

    Attributes:
        path: Its path.
        kind: Its kind.
        axis: The axis along which it joins; None for kinds that have none.
        whole: Whether an operation of the model is that join, and lent it its path.
        origin: Whose own business it is, as of `kinds.origin`; empty for the user's.
    """

    path: str
    kind: str
    axis: int | None
    whole: bool = False
    origin: str = ""


class BackendListener:
    """Hears what a backend does itself, where no call of Keras tells of it.

    This one hears nothing. Each backend has its own, which reports to a pass.
    """

    def moves(self) -> None:
        """The pass goes into an operation, or out of one, after this."""

    def scope(self, frame: Frame) -> AbstractContextManager[Any]:
        """Returns what marks the calls of one operation."""
        return nullcontext()

    def covered(self) -> AbstractContextManager[Any]:
        """Returns what covers the ear while Keras does a join that it told of."""
        return nullcontext()


class Done(BaseException):
    """The last wanted value was heard: the rest of the pass is not needed.

    Not an `Exception`, so that a model's own `except Exception` lets it through.
    """


class Pass:
    """A forward pass that is being heard. Abstract: see `Survey` and `Collection`.

    The calls that `calls.py` wraps report here, and so does the backend's ear. The
    pass keeps the stack of operations, so that whatever is heard has a path.

    Args:
        kinds: The kinds of join to listen to.
    """

    # Whether it collects values. One that does not asks whose business a join is.
    computes = False
    # Whether it hears operations of `keras.ops` that are called with symbolic tensors.
    symbolic = False

    def __init__(self, kinds: Iterable[str]) -> None:
        self.kinds = frozenset(kinds)
        self.ear = BackendListener()
        self.frames: list[Frame] = []
        self.loops: list[str] = []
        # The last error, and the path of the innermost operation it went through.
        self.failed: tuple[BaseException | None, str] = (None, "")
        # Whether a tensor belongs to the trace of this pass. One of another trace,
        # the body of a loop say, cannot be returned from this one.
        self.belongs: Callable[[Tensor], bool] = lambda tensor: True
        # How often a tensor was changed in place.
        self.version: Callable[[Tensor], int] = lambda tensor: 0

    @property
    def listens(self) -> bool:
        """Whether what happens now is a part of the model's forward pass."""
        return not self.frames or self.frames[-1].inside

    def enter(self, operation: Any, args: Any, kwargs: Any) -> Frame:
        """An operation was called; its `call` does not run yet."""
        self.ear.moves()
        path = self.frames[-1].calls_operation(operation) if self.frames else ""
        frame = Frame(operation, path, arguments=(args, kwargs))
        self.frames.append(frame)
        return frame

    def begin(self, frame: Frame, args: Any, kwargs: Any) -> None:
        """The operation's own `call` begins, with arguments as it receives them."""
        self.ear.moves()
        frame.inside = True

    def run(self, frame: Frame, call: Call, args: Any, kwargs: Any) -> Any:
        """Runs an operation's own `call`, and returns its outputs."""
        return call(frame.operation, *args, **kwargs)

    def symbolically(
        self, operation: Any, args: Any, kwargs: Any, outputs: Any
    ) -> None:
        """An operation of `keras.ops` was called with symbolic tensors."""

    def converted(self, before: Any, after: Any) -> None:
        """A functional model converted one of its inputs."""

    def leave(self, frame: Frame, outputs: Any) -> None:
        """The operation returned."""

    def fails(self, error: Exception, frame: Frame) -> None:
        """An error goes through an operation; the innermost one is noted.

        Keras makes new errors of those that pass through it.
        """
        known: BaseException | None = error
        while known is not None:
            if known is self.failed[0]:
                self.failed = error, self.failed[1]
                return
            known = known.__cause__ or known.__context__
        self.failed = error, frame.path

    def joins(self, joining: Joining, inputs: list[Tensor]) -> None:
        """A join is about to happen."""

    def joined(self, joining: Joining, output: Tensor) -> None:
        """The join happened."""

    def settle(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """The trace has ended: tensors that were kept, and what they are outside."""

    def kept(self) -> list[Tensor]:
        """Returns the tensors that are to be settled."""
        return []


def _name(operation: Any) -> str:
    """Returns the name of an operation, the same in every pass.

    An operation that is no layer and in no graph was made by the call that calls it,
    and numbered by how many there were before.
    """
    name: str = operation.name
    in_a_graph = bool(private(operation, "_inbound_nodes"))
    if isinstance(operation, keras.layers.Layer) or in_a_graph:
        return name
    return re.sub(r"_\d+$", "", name)


def is_tensor(leaf: Any) -> bool:
    """Whether a leaf has a shape and a dtype, as masks and flags may not."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


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


def tensors_of(structure: Any) -> list[Tensor]:
    """Returns the tensors among a structure's leaves."""
    return [leaf for leaf in _leaves(structure) if is_tensor(leaf)]


def rank(tensor: Tensor) -> int | None:
    """Returns a tensor's number of axes, or None if that is not known."""
    if hasattr(tensor.shape, "rank"):
        known: int | None = tensor.shape.rank
        return known
    return len(tensor.shape)
