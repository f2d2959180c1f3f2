"""The pass that keeps wanted values, and ends with the last of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from layertap.tracing.forward_pass import (
    Done,
    Frame,
    Joining,
    Keep,
    Pass,
    Tensor,
    as_is,
    tensors_of,
)
from layertap.tracing.model_structure import named_inputs

Wanted = Mapping[str, Mapping[int, str]]


class Collection(Pass):
    """A pass that keeps the wanted values, and ends as soon as it has them all.

    Args:
        branches: Wanted branches: address by join path and index.
        outputs: Wanted outputs: address by operation path and index. A join's path
            names its output too.
        kinds: The kinds of the joins among them.
        keep: What to do with a tensor at the moment it is heard.
    """

    computes = True

    def __init__(
        self,
        branches: Wanted,
        outputs: Wanted,
        kinds: Iterable[str],
        keep: Keep = as_is,
    ) -> None:
        super().__init__(kinds)
        self.branches = branches
        self.outputs = outputs
        self.keep = keep
        self.values: dict[str, Tensor] = {}
        self._missing = sum(map(len, branches.values())) + sum(
            map(len, outputs.values())
        )

    def begin(self, frame: Frame, args: Any, kwargs: Any) -> None:
        """Keeps the model's inputs, if they are wanted."""
        super().begin(frame, args, kwargs)
        if not frame.path and self.outputs:
            for name, tensor in named_inputs(frame.operation, args[0]).items():
                if name in self.outputs:
                    self._collect(self.outputs[name], [tensor])

    def leave(self, frame: Frame, outputs: Any) -> None:
        """Keeps the operation's outputs, if they are wanted."""
        wanted = self.outputs.get(frame.path)
        if wanted and not self.loops:
            self._collect(wanted, tensors_of(outputs))

    def joins(self, joining: Joining, inputs: list[Tensor]) -> None:
        """Keeps the join's branches, if they are wanted."""
        wanted = self.branches.get(joining.path)
        if wanted and not self.loops:
            self._collect(wanted, inputs)

    def joined(self, joining: Joining, output: Tensor) -> None:
        """Keeps the join's output, if it is wanted."""
        wanted = self.outputs.get(joining.path)
        if wanted and not self.loops:
            self._collect(wanted, [output])

    def settle(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Puts what tensors are outside of the trace in their place."""
        outside = {id(before): after for before, after in pairs}
        self.values = {
            name: outside.get(id(tensor), tensor)
            for name, tensor in self.values.items()
        }

    def kept(self) -> list[Tensor]:
        """Returns the values that were collected."""
        return list(self.values.values())

    def _collect(self, wanted: Mapping[int, str], tensors: Sequence[Tensor]) -> None:
        for index, name in wanted.items():
            if name not in self.values and index < len(tensors):
                self.values[name] = self.keep(tensors[index])
                self._missing -= 1
        if not self._missing:
            raise Done
