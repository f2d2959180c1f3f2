"""Listening on TensorFlow: the pass is heard while `tf.function` traces it."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from layertap.listening.passes import Belongs, Run, Step, as_is


def belongs(tensors: Sequence[Any]) -> Belongs:
    """Returns whether a tensor is in the same function graph as `tensors`."""
    graph = tensors[0].graph
    return lambda tensor: getattr(tensor, "graph", graph) is graph


def compile(run: Run, model: keras.Model) -> Step:
    """Makes one traced function of a run of the model.

    Args:
        run: Takes the model's inputs and what to do with a tensor that is heard;
            returns the wanted tensors by address.
        model: The model; its variables are read, never assigned.

    Returns:
        A function of arrays to arrays, traced once for all numbers of rows.
    """
    traced: dict[Any, Any] = {}

    def scoped(*flat: Any, structure: Any) -> dict[str, Any]:
        with keras.StatelessScope():
            return run(keras.tree.pack_sequence_as(structure, flat), as_is)

    def trace(inputs: Any, flat: list[Any], rows: int | None) -> Any:
        specs = [tf.TensorSpec((rows, *x.shape[1:]), x.dtype) for x in flat]
        function = tf.function(
            lambda *flat: scoped(*flat, structure=inputs), autograph=False
        )
        return function.get_concrete_function(*specs)

    def step(inputs: Any) -> dict[str, Any]:
        flat = [tf.convert_to_tensor(x) for x in keras.tree.flatten(inputs)]
        rows = flat[0].shape[0]
        key = tuple((x.dtype, tuple(x.shape[1:])) for x in flat)
        function = traced.get(key) or traced.get((rows, key))
        if function is None:
            try:
                function = traced[key] = trace(inputs, flat, None)
            except (TypeError, ValueError):
                # A model may compute with the number of rows in Python.
                function = traced[rows, key] = trace(inputs, flat, rows)
        return {name: value.numpy() for name, value in function(*flat).items()}

    return step
