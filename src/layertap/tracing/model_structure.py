"""A model's inputs, how it is called, and the order of the calls in its graph."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from layertap.core import address
from layertap.errors import DataError, ModelError
from layertap.tracing.keras_internals import Functional, private, without_tensorflow


@dataclass(frozen=True)
class InputSpec:
    """What one input of a model takes.

    Attributes:
        name: The input's name, as in a dictionary of data.
        shape: Its shape with the row axis first; None where any size will do.
        dtype: Its Keras dtype.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


def check_model(model: Any) -> None:
    """Raises unless this is a model of the Keras that is in use.

    Raises:
        ModelError: If it is anything else.
    """
    if isinstance(model, keras.Model):
        return
    found = f"{type(model).__module__}.{type(model).__name__}"
    raise ModelError(
        f"A keras.Model of Keras 3 is needed, found {found}. "
        "Models of Keras 2 and of tf_keras have to be saved as .keras or .h5 and "
        "loaded with keras.models.load_model; a bare layer can be wrapped in "
        "keras.Sequential([layer])."
    )


def input_specs(model: keras.Model) -> Any:
    """Returns the structure of `InputSpec` that a functional model takes.

    Args:
        model: Any model.

    Returns:
        One spec, or a list or dictionary of them as the model was made; None if the
        model has no graph (a subclassed model, a `Sequential` not built yet).
    """
    graph = functional(model)
    if graph is None:
        return None
    structure = private(graph, "_inputs_struct")
    named = isinstance(structure, dict)

    def spec(path: tuple[Any, ...], tensor: Any) -> InputSpec:
        name = path[0] if path else private(tensor, "_keras_history").operation.name
        return InputSpec(str(name), (None, *tensor.shape[1:]), tensor.dtype)

    specs = keras.tree.map_structure_up_to(
        structure, lambda tensor: spec((), tensor), structure
    )
    if named:
        specs = {
            key: spec((key,), structure[key])
            if not keras.tree.is_nested(structure[key])
            else value
            for key, value in specs.items()
        }
    return specs


def built_specs(model: keras.Model) -> Any:
    """Returns the specs a subclassed model was built with, or None if it was not.

    Keras keeps the shapes but not the dtypes: Keras' default one is assumed.
    """
    config = model.get_build_config() if model.built else None
    if not config:
        return None
    shapes = config.get("input_shape") or config.get("shapes_dict")
    if not shapes:
        return None
    if isinstance(shapes, dict) and len(shapes) == 1:
        shapes = next(iter(shapes.values()))
    return _named(shapes, "input")


def _named(shapes: Any, name: str) -> Any:
    if isinstance(shapes, dict):
        return {key: _named(shape, str(key)) for key, shape in shapes.items()}
    if shapes and not isinstance(shapes[0], int | None):
        return [_named(shape, f"{name}_{i}") for i, shape in enumerate(shapes)]
    return InputSpec(name, (None, *shapes[1:]), keras.config.floatx())


def specs_of(inputs: Any, declared: Any = None) -> Any:
    """Returns the specs of a batch: its shapes and dtypes, whatever its rows.

    Args:
        inputs: A structure of arrays.
        declared: The specs that the model declares, for the names; None where it
            declares nothing.
    """
    if declared is not None:
        return keras.tree.map_structure(
            lambda spec, leaf: InputSpec(
                spec.name, (None, *leaf.shape[1:]), spec.dtype
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
        if not structure.shape:
            raise DataError(f"Input {name!r} is a scalar: it has no rows.")
        dtype = keras.backend.standardize_dtype(structure.dtype)
        return InputSpec(name, (None, *structure.shape[1:]), dtype)

    return named(inputs, "input")


def named_inputs(model: keras.Model, inputs: Any) -> dict[str, Any]:
    """Returns the inputs of a model by their names, as parts of paths.

    One that has the name of a layer is left out: that path is the layer's.

    Args:
        model: The model.
        inputs: The structure of tensors that it is given.
    """
    specs = specs_of(inputs, input_specs(model))
    taken = {
        layer.name
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
    }
    return {
        address.component(spec.name): tensor
        for spec, tensor in zip(
            keras.tree.flatten(specs), keras.tree.flatten(inputs), strict=True
        )
        if spec.name not in taken
    }


def learned(model: keras.Model) -> list[Any]:
    """Returns what layers have learned of data by `adapt`, and no variable holds.

    Args:
        model: The model.

    Returns:
        By layer, in their order: vocabularies with weights of words, and boundaries
        of bins.
    """
    found: list[Any] = []
    for layer in private(model, "_flatten_layers")(include_self=False):
        if isinstance(layer, _VOCABULARIES):
            # What a saved model keeps of it: weights of words, if it has such.
            own: dict[str, Any] = {}
            layer.save_own_variables(own)
            weights = {name: np.asarray(array).tolist() for name, array in own.items()}
            found.append([[str(word) for word in layer.get_vocabulary()], weights])
        elif isinstance(layer, keras.layers.Discretization):
            found.append([float(edge) for edge in layer.bin_boundaries])
    return found


_VOCABULARIES = (
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
)


def config_of(model: keras.Model) -> Any:
    """Returns `model.get_config()`.

    Raises:
        NotImplementedError: If the model has no configuration.
    """
    with without_tensorflow():
        return model.get_config()


def functional(model: Any) -> Any:
    """Returns the functional graph behind a model, or None if it has none."""
    if isinstance(model, keras.Sequential):
        return private(model, "_functional") if model.built else None
    return model if isinstance(model, Functional) else None


def forward(model: keras.Model, inputs: Any) -> Any:
    """Calls the model as `model.predict` does."""
    if "training" in inspect.signature(model.call).parameters:
        return model(inputs, training=False)
    return model(inputs)


def nodes_in_order(graph: Functional) -> Iterator[Any]:
    """Yields the nodes of a graph in the order in which Keras runs them."""
    nodes = private(graph, "_nodes_by_depth")
    for depth in sorted(nodes, reverse=True):
        for node in nodes[depth]:
            if not private(node, "is_input"):
                yield node


def nodes_of(graph: Functional, operation: Any) -> list[Any]:
    """Returns the nodes of an operation in a graph, in the order they were made."""
    inside = {id(node) for node in nodes_in_order(graph)}
    made = private(operation, "_inbound_nodes")
    return [node for node in made if id(node) in inside]


def call_number(caller: Any, operation: Any, count: int) -> int:
    """Returns the number of a call of an operation, 1 for the first.

    Keras runs the calls of a shared layer in an order of its own. In a functional
    graph they are numbered as the user wrote them; elsewhere, as they happen.

    Args:
        caller: The operation whose `call` runs.
        operation: The operation that it calls.
        count: How often it was called in there, this call too.
    """
    if len(private(operation, "_inbound_nodes")) < 2:
        return count
    graph = functional(caller)
    if graph is None or type(graph).call is not Functional.call:
        return count
    made = nodes_of(graph, operation)
    run = [
        node
        for node in nodes_in_order(graph)
        if private(node, "operation") is operation
    ]
    return made.index(run[count - 1]) + 1 if count <= len(run) else count
