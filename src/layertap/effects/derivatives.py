"""The gradients and attributions that a save stores with the values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
import xxhash

from layertap.core.address import Effect
from layertap.effects.target import Of, Target, compiled_loss
from layertap.errors import OptionError, check_number

# Where the lines of attributions begin: for all rows alike.
Baseline = Literal["zero", "mean"] | Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Derivatives:
    """Gradients and attributions of targets. See `layertap.save`.

    `baseline` has arrays by address, unless it is zero or not known yet; these may be
    `means` of the data.
    """

    gradients: Target | None = None
    attributions: Target | None = None
    baseline: Baseline = "zero"
    steps: int | None = None
    means: bool = False

    def __post_init__(self) -> None:
        check_number("`steps`", self.steps, 1)
        named = isinstance(self.baseline, str) and self.baseline in ("zero", "mean")
        if not named and not isinstance(self.baseline, Mapping):
            raise OptionError(
                "`baseline` is invalid. Expected 'zero', 'mean', or a dictionary: an "
                f"array by address. Received {self.baseline!r}."
            )

        arrays = self.baseline if isinstance(self.baseline, Mapping) else {}
        for name, array in arrays.items():
            if np.asarray(array).dtype.kind not in "biuf":
                raise OptionError(
                    f"`baseline` is invalid for {name}. Expected numbers. Received "
                    f"{array!r}."
                )

    @property
    def targets(self) -> dict[Effect, Target]:
        """The targets that are differentiated, by the effect that is stored."""
        both: dict[Effect, Target | None] = {
            "gradient": self.gradients,
            "attribution": self.attributions,
        }
        return {kind: target for kind, target in both.items() if target is not None}

    @property
    def need_loss(self) -> bool:
        """Whether the compiled loss of the model is a target."""
        return any(target.of == "loss" for target in self.targets.values())

    @property
    def baseline_name(self) -> str:
        """The baseline as a store records it: arrays by a digest."""
        if isinstance(self.baseline, str):
            return self.baseline
        digest = xxhash.xxh3_64()
        for name, array in sorted(self.baseline.items()):
            digest.update(f"{name} {np.shape(array)};".encode())
            digest.update(np.ascontiguousarray(array, np.float64).tobytes())
        return f"{'mean' if self.means else 'arrays'} ({digest.hexdigest()})"

    def key(self, model: keras.Model) -> tuple[Any, ...]:
        """Identifies the targets, and how attributions are computed."""
        names = (t and t.name for t in (self.gradients, self.attributions))
        # Another `compile` makes other objects.
        losses = tuple(map(id, self._losses(model)))
        return (*names, *losses, self.baseline_name, self.steps)

    def calls(self, model: keras.Model) -> list[Any]:
        """Returns the functions and the losses that the targets call."""
        functions = [target.function for target in self.targets.values()]
        return [*functions, *self._losses(model)]

    def _losses(self, model: keras.Model) -> list[Any]:
        if not self.need_loss:
            return []
        known = compiled_loss(model)
        return [known["loss"], known.get("loss_weights")]


NONE = Derivatives()


def derivatives(
    gradients: Of | None = None,
    attributions: Of | None = None,
    baseline: Baseline = "zero",
    steps: int | None = None,
) -> Derivatives:
    """Returns the derivatives that the arguments of a save ask for."""
    passed = {"gradients": gradients, "attributions": attributions}
    both = [None if of is None else Target(of, name) for name, of in passed.items()]
    return Derivatives(both[0], both[1], baseline, steps)
