"""The inputs of a model, its configuration, and the nodes of its graph."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers

from layertap.core import address
from layertap.errors import DataError, ModelError
from layertap.tracing.keras_internals import Functional, private


@dataclass(frozen=True)
class InputSpec:
    """The shape and dtype that a model accepts for one input."""

    name: str  # the key of the input in a dictionary of data
    # Rows first; None for an open size. Stateful models accept one number of rows only.
    shape: tuple[int | None, ...]
    dtype: str
    optional: bool = False
    # Whether the data have None in its place.
    absent: bool = False


def check_model(model: Any) -> None:
    """Raises unless this is a model of the Keras that is in use."""
    if not isinstance(model, keras.Model):
        raise ModelError(
            "The model has the wrong type. Expected a keras.Model of Keras 3. Received "
            f"{type(model).__module__}.{type(model).__name__}. Save a model of Keras 2 "
            "or tf_keras as .keras or .h5, and load it with keras.models.load_model; "
            "wrap a bare layer in keras.Sequential([layer])."
        )


def input_specs(model: keras.Model) -> Any:
    """Returns the structure of `InputSpec` that a model declares.

    The result is None for a model without a graph: a subclassed model, or a
    `Sequential` that is not built yet. It raises unless this is a model.
    """
    check_model(model)
    graph = functional(model)
    if graph is None:
        return None

    # Other models accept any number of rows: a Sequential declares that of the first
    # data that it saw.
    inside = [model, *layers_of(model)]
    fixed = any(getattr(layer, "stateful", False) for layer in inside)

    def spec(tensor: Any) -> InputSpec:
        layer = private(tensor, "_keras_history").operation
        check_strings(tensor.dtype, f"Input {layer.name!r} of {model.name!r}")
        optional = getattr(layer, "optional", False)  # New in Keras 3.6.
        shape = (tensor.shape[0] if fixed else None, *tensor.shape[1:])
        return InputSpec(layer.name, shape, tensor.dtype, optional)

    # Keras' own kinds of dictionary and list, which JAX does not know, become plain.
    structure = _plain(private(graph, "_inputs_struct"))
    specs = keras.tree.map_structure(spec, structure)
    if isinstance(specs, dict):
        for key, value in specs.items():
            if isinstance(value, InputSpec):
                specs[key] = replace(value, name=str(key))
    return specs


def fixed_rows(specs: Any) -> int | None:
    """Returns the only number of rows that a model accepts, or None for any."""
    rows = (spec.shape[0] for spec in keras.tree.flatten(specs))
    return next(filter(None, rows), None)


def _plain(part: Any) -> Any:
    if isinstance(part, dict) and not isinstance(part, OrderedDict):
        return {name: _plain(member) for name, member in part.items()}
    return list(map(_plain, part)) if isinstance(part, list) else part


def check_strings(dtype: str, subject: str) -> None:
    """Raises if a dtype is that of strings, and the backend has none."""
    backend = keras.backend.backend()
    if dtype == "string" and backend != "tensorflow":
        raise ModelError(
            f"{subject} holds strings. Keras runs models of strings on TensorFlow "
            f"only. Received the backend {backend}. Set KERAS_BACKEND=tensorflow "
            "before Keras is imported, or encode the strings outside of the model."
        )


def built_specs(model: keras.Model) -> Any:
    """Returns the specs that a subclassed model was built with, or None.

    Keras stores the shapes but not the dtypes: the default dtype is assumed.
    """
    config = (model.get_build_config() if model.built else None) or {}
    shapes = config.get("input_shape") or config.get("shapes_dict")
    if not shapes:
        return None
    if isinstance(shapes, dict) and len(shapes) == 1:
        shapes = next(iter(shapes.values()))
    tensor = partial(keras.KerasTensor, dtype=keras.config.floatx())
    return specs_of(keras.tree.map_shape_structure(tensor, shapes))


def specs_of(inputs: Any, declared: Any = None) -> Any:
    """Returns the specs of a batch of arrays, with the names of the declared specs."""
    if declared is not None:
        return keras.tree.map_structure(
            lambda spec, leaf: (
                replace(spec, absent=True)
                if leaf is None
                else replace(spec, shape=(spec.shape[0], *leaf.shape[1:]))
            ),
            declared,
            inputs,
        )

    def named(structure: Any, name: str) -> Any:
        if isinstance(structure, dict):
            return {key: named(value, str(key)) for key, value in structure.items()}
        if isinstance(structure, list | tuple):
            members = [named(value, f"{name}_{i}") for i, value in enumerate(structure)]
            return type(structure)(members)
        if structure is None:
            return InputSpec(name, (None,), "", optional=True, absent=True)
        if not structure.shape:
            raise DataError(
                f"Input {name!r} is a scalar. Expected an array with one row for each "
                "example."
            )
        texts = structure.dtype == object
        dtype = "string" if texts else keras.backend.standardize_dtype(structure.dtype)
        return InputSpec(name, (None, *structure.shape[1:]), dtype)

    return named(inputs, "input")


def map_arrays(function: Callable[[Any], Any], structure: Any) -> Any:
    """Returns a structure with a function of each leaf; None stays None."""
    return keras.tree.map_structure(
        lambda leaf: None if leaf is None else function(leaf), structure
    )


def named_inputs(model: keras.Model, inputs: Any) -> dict[str, Any]:
    """Returns the inputs of a model by their names, as parts of paths.

    An input with the name of a layer is left out: that path is the layer's.
    """
    specs = keras.tree.flatten(input_specs(model) or specs_of(inputs))
    taken = {
        layer.name for layer in model.layers if not isinstance(layer, layers.InputLayer)
    }
    return {
        address.component(spec.name): tensor
        for spec, tensor in zip(specs, keras.tree.flatten(inputs), strict=True)
        if tensor is not None and spec.name not in taken
    }


def layers_of(model: keras.Model) -> list[Any]:
    """Returns all layers inside a model, those of nested models too, in their order."""
    return list(private(model, "_flatten_layers")(include_self=False))


def learned(model: keras.Model) -> list[Any]:
    """Returns the state that layers have from `adapt` and not in variables.

    That is, in the order of the layers: vocabularies with the weights of their words,
    and the boundaries of bins.
    """
    states: list[Any] = []
    for layer in layers_of(model):
        if isinstance(layer, _VOCABULARIES):
            # A saved model has the weights of words, if any.
            own: dict[str, Any] = {}
            layer.save_own_variables(own)
            weights = {name: np.asarray(array).tolist() for name, array in own.items()}
            states.append([[str(word) for word in layer.get_vocabulary()], weights])
        elif isinstance(layer, layers.Discretization):
            states.append([float(edge) for edge in layer.bin_boundaries])
    return states


_VOCABULARIES = (layers.IntegerLookup, layers.StringLookup, layers.TextVectorization)


def needs_values(model: keras.Model) -> bool:
    """Whether a layer needs the values of tensors, so that Keras compiles nothing."""
    return not all(layer.supports_jit for layer in [model, *layers_of(model)])


def functional(model: Any) -> Any:
    """Returns the functional graph behind a model, or None if it has none."""
    if isinstance(model, keras.Sequential):
        return private(model, "_functional") if model.built else None
    return model if isinstance(model, Functional) else None


def accepts_training(operation: Any) -> bool:
    """Whether an operation has a `training` argument."""
    return "training" in inspect.signature(operation.call).parameters


def training_default(operation: Any) -> bool | None:
    """Returns an operation's default for its `training` argument, if it is a flag."""
    parameter = inspect.signature(operation.call).parameters.get("training")
    default = None if parameter is None else parameter.default
    return default if isinstance(default, bool) else None


def forward(model: keras.Model, inputs: Any, *, training: bool = False) -> Any:
    """Calls the model as `model.predict` does, or as `model.fit` does."""
    kwargs = {"training": training} if accepts_training(model) else {}
    graph = functional(model)
    own = None if graph is None else private(graph, "_inputs_struct")
    if isinstance(own, dict) and isinstance(inputs, dict):
        # Keras warns of other kinds of dictionaries.
        inputs = type(own)(inputs)
    return model(inputs, **kwargs)


def attach_variables(model: keras.Model) -> None:
    """Gives variables their numbers: on JAX, Keras has them elsewhere during `fit`."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def nodes_in_order(graph: Functional) -> Iterator[Any]:
    """Yields the nodes of a graph in the order in which Keras runs them."""
    nodes = private(graph, "_nodes_by_depth")
    for depth in sorted(nodes, reverse=True):
        for node in nodes[depth]:
            if not private(node, "is_input"):
                yield node


def call_number(caller: Any, operation: Any, count: int) -> int:
    """Returns the number of a call of an operation, 1 for the first.

    `count` is how often `caller` has called it, with this call. Keras runs the calls of
    a shared layer in its own order. In a functional graph, they are numbered in the
    order in which they were written.
    """
    made = private(operation, "_inbound_nodes")
    if len(made) < 2:
        return count
    graph = functional(caller)
    if graph is None or type(graph).call is not Functional.call:
        return count
    run = [n for n in nodes_in_order(graph) if private(n, "operation") is operation]
    if count > len(run):
        return count
    return [node for node in made if node in run].index(run[count - 1]) + 1


def call_of(model: keras.Model, tensor: Any) -> tuple[str, int, int] | None:
    """Returns which call of a model's graph made a symbolic tensor, or None.

    That is the name of the operation, the number of its call, and that of the output.
    """
    graph = functional(model)
    if graph is None:
        return None
    operation, node, index = private(tensor, "_keras_history")
    if any(tensor is known for known in graph.inputs):
        return operation.name, 1, 0
    run, made = list(nodes_in_order(graph)), private(operation, "_inbound_nodes")
    if made[node] not in run:
        return None
    return operation.name, [n for n in made if n in run].index(made[node]) + 1, index
