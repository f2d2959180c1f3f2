"""Which values of a model are stored, and how: the arguments of a plan."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import keras
import numpy as np

from layertap.effects.derivatives import NONE, Derivatives
from layertap.errors import OptionError
from layertap.planning.join_filter import Kind
from layertap.planning.padding import Pad
from layertap.planning.reduction import AS_COMPUTED, Reduction

Pattern: TypeAlias = str | keras.Operation
Patterns: TypeAlias = Pattern | Sequence[Pattern] | None


@dataclass(frozen=True)
class Selection:
    """The values of a model that a plan stores, and how. See `plan`."""

    before: Patterns = None
    outputs: Patterns = None
    joins: Kind | Sequence[Kind] = ("concatenate",)
    for_head: bool = False
    reduction: Reduction = AS_COMPUTED
    pad: Pad | None = None
    derivatives: Derivatives = NONE

    def __post_init__(self) -> None:
        for name in ("before", "outputs", "joins"):
            passed = getattr(self, name)
            if isinstance(passed, Sequence) and not isinstance(passed, str):
                object.__setattr__(self, name, tuple(passed))
        if isinstance(self.pad, np.generic):
            object.__setattr__(self, "pad", self.pad.item())
        integer = isinstance(self.pad, int)
        if not (self.pad is None or self.pad is False or (integer and self.pad >= 1)):
            raise OptionError(
                "`pad` is invalid. Expected True or a positive integer. "
                f"Received {self.pad!r}."
            )
        reduces = self.reduction.reduce is not None
        if self.for_head and (reduces or self.pad):
            raise OptionError(
                f"for_head=True and `{'reduce' if reduces else 'pad'}` can't be "
                "combined: a head accepts complete values of their true sizes. Leave "
                "one of the options out."
            )
        if self.for_head and self.before is None and self.outputs:
            raise OptionError(
                "for_head=True needs joins, which a head comes after. Pass `before=`."
            )

    def key(self, model: keras.Model) -> Hashable:
        """Identifies the selection, and the content of the functions that it calls."""
        others = replace(self, derivatives=NONE)
        return others, self.reduction.name, self.derivatives.key(model)

    def calls(self, model: keras.Model) -> list[Any]:
        """Returns the functions of the user that it calls."""
        return [self.reduction.reduce, *self.derivatives.calls(model)]
