"""Listening on PyTorch: there is no trace, each pass is heard as it runs."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import torch

from layertap.listening.passes import Belongs, Run, Step


def belongs(tensors: Sequence[Any]) -> Belongs:
    """Returns that any tensor can be had: PyTorch runs eagerly."""
    return lambda tensor: True


def compile(run: Run, model: keras.Model) -> Step:
    """Makes a step of a run of the model.

    Args:
        run: Takes the model's inputs and what to do with a tensor that is heard;
            returns the wanted tensors by address.
        model: The model; its variables are read, never assigned.

    Returns:
        A function of arrays to arrays.
    """
    cloning = False

    def hear(inputs: Any) -> tuple[dict[str, Any], bool]:
        kept: list[tuple[torch.Tensor, int]] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept.append((tensor, tensor._version))
            return tensor.clone() if cloning else tensor

        # A copy: PyTorch would share the memory of the caller's array.
        tensors = keras.tree.map_structure(
            lambda x: keras.ops.convert_to_tensor(np.array(x)), inputs
        )
        with torch.no_grad(), keras.StatelessScope():
            found = run(tensors, keep)
        changed = not cloning and any(
            tensor._version != version for tensor, version in kept
        )
        return found, changed

    def step(inputs: Any) -> dict[str, Any]:
        nonlocal cloning
        found, changed = hear(inputs)
        if changed:
            # The model changes tensors in place after it has joined them.
            cloning = True
            found, _ = hear(inputs)
        return {name: keras.ops.convert_to_numpy(x) for name, x in found.items()}

    return step
