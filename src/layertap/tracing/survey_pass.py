"""The pass that notes every join and every operation's outputs."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras

from layertap.tracing.forward_pass import (
    Frame,
    Joining,
    Pass,
    Tensor,
    flatten,
    is_tensor,
    rank,
    tensors_of,
)
from layertap.tracing.model_structure import named_inputs
from layertap.tracing.records import Trace, TracedJoin, TracedValue


class Survey(Pass):
    """A pass that notes every join and every operation's outputs.

    Args:
        kinds: The kinds of join to listen to.
        input_names: The names of the model's inputs, flat.
        model_name: Made by whom, if nobody but the root model itself.
    """

    def __init__(
        self, kinds: Iterable[str], input_names: Sequence[str], model_name: str
    ) -> None:
        super().__init__(kinds)
        self.input_names = input_names
        self.model_name = model_name
        self.joins_heard: dict[str, TracedJoin] = {}
        self.outputs: dict[str, tuple[TracedValue, ...]] = {}
        self.inputs: dict[str, TracedValue] = {}
        self._begun: dict[str, TracedJoin] = {}
        self._rows: Any = None
        self._makers: dict[Hashable, str] = {}
        # What no operation returned: the join that it is, or in whose `call` it was
        # made.
        self._joins: dict[Hashable, str] = {}
        self._scopes: dict[Hashable, str] = {}
        self._tokens: dict[Hashable, Hashable] = {}
        # A tensor that is dropped would hand its id to another.
        self._kept: dict[int, Tensor] = {}

    def heard(self, stopped: tuple[str, str] | None) -> Trace:
        """Returns what was heard, when all is.

        Args:
            stopped: As of `Trace`.
        """
        joins = {
            path: replace(
                join,
                inputs=tuple(map(self._attributed, join.inputs)),
                output=self._attributed(join.output),
            )
            for path, join in self.joins_heard.items()
        }
        outputs = {
            path: tuple(map(self._attributed, values))
            for path, values in self.outputs.items()
        }
        return Trace(joins, outputs, self.inputs, stopped)

    def enter(self, operation: Any, args: Any, kwargs: Any) -> Frame:
        """Notes that what is given to an operation was made where it was called."""
        if self.frames:
            for tensor in tensors_of((args, kwargs)):
                if self._key(tensor) not in self._makers:
                    self._keep(tensor)
                    self._seen(tensor, self.frames[-1].path)
        return super().enter(operation, args, kwargs)

    def begin(self, frame: Frame, args: Any, kwargs: Any) -> None:
        """Names the inputs, and follows tensors through the casts before `call`."""
        super().begin(frame, args, kwargs)
        if frame.path == "":
            inputs = keras.tree.flatten(args[0])
            self._rows = inputs[0].shape[0]
            for name, tensor in zip(self.input_names, inputs, strict=True):
                self._made(tensor, name)
            named = named_inputs(frame.operation, args[0])
            self.inputs = {name: self._value(tensor) for name, tensor in named.items()}
            return
        for before, after in _pairs(frame.arguments, (args, kwargs)):
            self.converted(before, after)

    def converted(self, before: Any, after: Any) -> None:
        """Follows a tensor through a conversion: who made it, and whether it is new.

        Two casts of one tensor to one dtype are one value. Symbolic tensors of
        PyTorch are copied by conversions that do nothing.
        """
        if before is after or not (is_tensor(before) and is_tensor(after)):
            return
        if self._key(before) in self._makers and self._key(after) not in self._makers:
            self._made(after, self._makers[self._key(before)])
        if before.shape == after.shape:
            token, dtype = self._token(before), _dtype(after)
            same = _dtype(before) == dtype
            self._tokens[self._key(after)] = token if same else (token, dtype)
            self._keep(before)
            self._keep(after)

    def leave(self, frame: Frame, outputs: Any) -> None:
        """Notes what the operation returned."""
        if not frame.path or frame.path in self.outputs:
            return
        tensors = tensors_of(outputs)
        for tensor in tensors:
            self._made(tensor, frame.path)
        self.outputs[frame.path] = tuple(map(self._value, tensors))

    def joins(self, joining: Joining, inputs: list[Tensor]) -> None:
        """Notes the join, its output still to come."""
        values = tuple(map(self._value, inputs))
        axis = joining.axis
        if axis is not None:
            extra = joining.kind == "stack"
            axis %= max(len(value.shape) for value in values) + extra
        self._begun[joining.path] = TracedJoin(
            joining.path,
            joining.kind,
            axis,
            values,
            values[0],
            joining.whole,
            joining.origin,
        )

    def joined(self, joining: Joining, output: Tensor) -> None:
        """Completes the join with its output."""
        value = self._value(output)
        if not joining.origin:
            self._joins.setdefault(value.token, joining.path)
        begun = self._begun.pop(joining.path)
        self.joins_heard[joining.path] = replace(begun, output=value)

    def settle(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Knows tensors again under what they are outside of the trace."""
        for before, after in pairs:
            self._keep(after)
            self._tokens[self._key(after)] = self._token(before)
            if self._key(before) in self._makers:
                self._makers[self._key(after)] = self._makers[self._key(before)]

    def kept(self) -> list[Tensor]:
        """Returns every tensor that was noted and belongs to the trace."""
        return [tensor for tensor in self._kept.values() if self.belongs(tensor)]

    def _seen(self, tensor: Tensor, path: str) -> None:
        self._scopes.setdefault(self._token(tensor), path or self.model_name)

    def _attributed(self, value: TracedValue) -> TracedValue:
        """Returns a value with the maker that is known now that all is heard."""
        if value.made_by:
            return value
        token = value.token
        return replace(value, made_by=self._joins.get(token, self._scopes[token]))

    def _token(self, tensor: Tensor) -> Hashable:
        key = self._key(tensor)
        return self._tokens.get(key, key)

    def _key(self, tensor: Tensor) -> Hashable:
        """Returns what is the same for one tensor, until it is changed in place."""
        return id(tensor), self.version(tensor)

    def _keep(self, tensor: Tensor) -> None:
        self._kept[id(tensor)] = tensor

    def _made(self, tensor: Tensor, path: str) -> None:
        self._makers[self._key(tensor)] = path
        self._keep(tensor)

    def _value(self, tensor: Tensor) -> TracedValue:
        self._keep(tensor)
        maker = self._makers.get(self._key(tensor), "")
        if not maker:
            self._seen(tensor, self.frames[-1].path)
        shape = _shape(tensor)
        fault = _not_dense(tensor)
        if self.loops:
            fault = f"it is computed inside {self.loops[-1]}"
        elif not self.belongs(tensor):
            fault = (
                "it is computed inside a trace of its own: a loop, a condition, or a "
                "function that is compiled or rematerialised by itself"
            )
        by_row = rank(tensor) != 0 and tensor.shape[0] == self._rows
        return TracedValue(
            (None, *shape[1:]) if by_row else shape,
            _dtype(tensor),
            maker,
            self._token(tensor),
            by_row,
            fault,
        )


def _dtype(tensor: Tensor) -> str:
    dtype: str = keras.backend.standardize_dtype(tensor.dtype)
    return dtype


def _shape(tensor: Tensor) -> tuple[int | None, ...]:
    """Returns a tensor's shape, with None for a size that is not a number."""
    if getattr(tensor.shape, "rank", 0) is None:
        return (None,)
    return tuple(size if isinstance(size, int) else None for size in tensor.shape)


def _not_dense(tensor: Tensor) -> str:
    """Says why a tensor has no rows of one size each, if so."""
    kind = type(tensor).__name__
    if "Sparse" in kind or "Ragged" in kind or kind == "BCOO":
        return f"it is a {kind}; make it dense before the join"
    if getattr(tensor.shape, "rank", 0) is None:
        return "not even its number of axes is known before it runs"
    return ""


def _pairs(given: Any, received: Any) -> Iterator[tuple[Any, Any]]:
    """Pairs the leaves of a call's arguments before and after their conversion."""
    before, after = flatten(given[0]), flatten(received[0])
    if len(before) == len(after):
        yield from zip(before, after, strict=True)
    for name in given[1].keys() & received[1].keys():
        before, after = flatten(given[1][name]), flatten(received[1][name])
        if len(before) == len(after):
            yield from zip(before, after, strict=True)
