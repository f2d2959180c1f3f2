"""The snapshot of a model: whether a trace of it would be the same."""

from operator import methodcaller
from typing import Any

import keras

from layertap.tracing.reuse.parts import SIMPLE, Part, part_of

# At each call, and faster than a loop.
_HOLDS = methodcaller("holds")


class Snapshot:
    """The attributes of a model and of all its parts: what a trace depends on.

    Layers, containers, functions, and objects and classes of the user are followed, and
    their members compared by identity; arrays of NumPy by content. Variables are read
    at each call, so that their numbers don't matter. Other objects count as themselves:
    a change inside one is not noticed, nor one of an imported module.
    """

    def __init__(self, *roots: Any) -> None:
        self._environment = _environment()
        self._parts: list[Part] = []
        # Each object, so that its id stays its own.
        known: dict[int, Any] = {}
        waiting = [*roots]
        while waiting:
            found = waiting.pop()
            if type(found) in SIMPLE or id(found) in known:
                continue
            known[id(found)] = found
            if (part := part_of(found)) is not None:
                self._parts.append(part)
                waiting += (type(found), *part.parts())
        # Those in which the first run of the model stored tensors.
        self._storing: list[Part] | None = None

    def holds(self) -> bool:
        """Whether all parts have the members that they had."""
        if self._environment != _environment():
            return False
        return all(map(_HOLDS, self._parts))

    def settle(self) -> None:
        """Accepts the tensors that the model's `call` stored in its own layers.

        The first run shows in which. If another run stores some elsewhere, the model
        is taken for a changed one.
        """
        known = self._parts if self._storing is None else self._storing
        changed = [part for part in known if not part.holds()]
        for part in changed:
            part.settle()
        if self._storing is None:
            self._storing = changed


def _environment() -> tuple[Any, ...]:
    """Returns the settings of Keras that a trace depends on."""
    config = keras.config
    # New in Keras 3.9.
    flash = getattr(config, "is_flash_attention_enabled", bool)
    return (
        *(config.floatx(), config.epsilon(), config.image_data_format(), flash()),
        *(config.dtype_policy().name, keras.distribution.distribution()),
    )
