"""Functional models made of calls of a user's layers, which keep their own nodes."""

import copy
import itertools
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import keras

from layertap.errors import ModelError
from layertap.tracing.keras_internals import (
    Functional,
    Node,
    private,
    without_importing_tensorflow,
)

# Lists of nodes of operations, each with its content in another model.
_Nodes = list[tuple[list[Any], list[Any]]]

# Two models may have the same layers. One may be made while another is.
_lock = threading.RLock()


@dataclass(frozen=True, slots=True, eq=False)
class OperationCall:
    """One call of a Keras layer or operation with symbolic tensors."""

    operation: Any
    path: str  # empty for an operation inside a `call`
    args: Any
    kwargs: Any
    outputs: list[Any]  # flat
    # The `training` argument that it receives if the model receives none.
    default_training: bool | None = None
    # Whether it receives the same `training` argument in any case.
    fixed_training: bool = False

    @property
    def inputs(self) -> list[Any]:
        """The tensors among its arguments, flat."""
        return tensors_in((self.args, self.kwargs))

    def map_inputs(self, values: Mapping[int, Any]) -> tuple[Any, Any]:
        """Returns its arguments with the tensors replaced that have a value, by id."""
        return map_tensors(values, (self.args, self.kwargs))


def tensors_in(structure: Any) -> list[Any]:
    """Returns the symbolic tensors among a structure's leaves."""
    leaves = keras.tree.flatten(structure)
    return [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor)]


def map_tensors(values: Mapping[int, Any], structure: Any) -> Any:
    """Returns a structure with the tensors replaced that have a value, by id."""
    return keras.tree.map_structure(lambda leaf: values.get(id(leaf), leaf), structure)


def functional_model(
    inputs: Any, calls: Sequence[OperationCall], outputs: Any, name: str
) -> keras.Model:
    """Makes a functional model of calls, which shares the layers.

    The layers have its nodes only while it is made. Input tensors that no layer made
    become inputs by their names.
    """
    names = {call.operation.name for call in calls}
    tensors: dict[int, Any] = {}
    for tensor in keras.tree.flatten(inputs):
        new = tensors[id(tensor)] = new_input(tensor, names)
        names.add(new.name)

    calls = _distinctly_named(calls, {tensor.name for tensor in tensors.values()})
    nodes: _Nodes = [(own, []) for own in node_lists(c.operation for c in calls)]
    with exchanged(nodes):
        for call in calls:
            args, kwargs = call.map_inputs(tensors)
            made = list(map(new_tensor, call.outputs))
            Node(call.operation, call_args=args, call_kwargs=kwargs, outputs=made)
            tensors.update(zip(map(id, call.outputs), made, strict=True))
        with _without_key_warnings():
            own_inputs, own_outputs = map_tensors(tensors, (inputs, outputs))
            model = keras.Model(own_inputs, own_outputs, name=name)
        _add_config(model, nodes)
    return model


def _add_config(model: keras.Model, nodes: _Nodes) -> None:
    """Lets a model's configuration have the nodes that its layers have now."""
    config: dict[str, Any] | None = None
    # A layer without a configuration may raise anything. `get_config` raises it again.
    with suppress(Exception), without_importing_tensorflow():
        config = Functional.get_config(model)
    operations = {operation.name: operation for operation in model.operations}

    def get_config() -> Any:
        if config is None:
            with exchanged(nodes):
                return Functional.get_config(model)
        layers = []
        for layer in config["layers"]:
            now = keras.saving.serialize_keras_object(operations[layer["name"]])
            layers.append({**layer, "config": now["config"]})
        return copy.deepcopy({**config, "trainable": model.trainable, "layers": layers})

    model.get_config = get_config


def clone(model: keras.Model) -> keras.Model:
    """Returns a copy of a functional model with its own layers and weights."""
    try:
        with _without_key_warnings(), without_importing_tensorflow():
            copied = keras.models.clone_model(model)
    except ValueError as error:
        raise ModelError(f"{model.name!r} can't be copied: {error}") from error
    if len(copied.weights) != len(model.weights):
        raise ModelError(
            f"{model.name!r} can't be copied: it shares layers with a model inside it, "
            "and Keras does not copy these as shared."
        )
    layers = private(model, "_flatten_layers")(), private(copied, "_flatten_layers")()
    for theirs, ours in zip(*layers, strict=True):
        names = [weight.name for weight in _own_weights(theirs)]
        new = _own_weights(ours)
        if {weight.name for weight in new} == {*names}:
            # A quantised layer has its weights in another order than a new one.
            new.sort(key=lambda weight: names.index(weight.name))
        for one, other in zip(_own_weights(theirs), new, strict=True):
            other.assign(one.numpy())
    return copied


def _own_weights(layer: Any) -> list[Any]:
    """Returns the weights of a layer without those of layers inside it."""
    inside = private(layer, "_flatten_layers")(include_self=False)
    theirs = {id(weight) for part in inside for weight in part.weights}
    return [weight for weight in layer.weights if id(weight) not in theirs]


@contextmanager
def _without_key_warnings() -> Iterator[None]:
    """Silences Keras about inputs whose keys, as addresses, differ from their names."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="When providing `inputs` as a dict")
        yield


def node_lists(operations: Iterable[Any]) -> list[list[Any]]:
    """Returns the lists of inbound and outbound nodes of operations, each once."""
    unique = {id(operation): operation for operation in operations}.values()
    inbound = [private(operation, "_inbound_nodes") for operation in unique]
    return inbound + [private(operation, "_outbound_nodes") for operation in unique]


@contextmanager
def exchanged(nodes: _Nodes) -> Iterator[None]:
    """Gives operations the nodes of another model within this context."""

    def exchange() -> None:
        for theirs, ours in nodes:
            theirs[:], ours[:] = list(ours), list(theirs)

    with _lock:
        exchange()
        try:
            yield
        finally:
            exchange()


def _distinctly_named(
    calls: Sequence[OperationCall], taken: set[str]
) -> list[OperationCall]:
    """Returns calls of operations with different names, as a graph needs them.

    Operations of several opened models may share a name. The second is wrapped in a
    model with another name.
    """
    owners: dict[str, Any] = dict.fromkeys(taken)
    wrappers: dict[tuple[int, str], keras.Model] = {}
    names = {call.operation.name for call in calls}
    renamed = []
    for call in calls:
        operation = call.operation
        if owners.setdefault(operation.name, operation) is operation:
            renamed.append(call)
            continue
        inputs = list({id(tensor): tensor for tensor in call.inputs}.values())
        numbers = {id(tensor): number for number, tensor in enumerate(inputs)}
        key = id(operation), repr(call.map_inputs(numbers))
        if key not in wrappers:
            name = _unused_name(call.path or operation.name, {*owners, *names})
            wrappers[key] = owners[name] = functional_model(
                _unwrapped(inputs), [call], _unwrapped(call.outputs), name
            )
        args = (_unwrapped(inputs),)
        renamed.append(OperationCall(wrappers[key], call.path, args, {}, call.outputs))
    return renamed


def _unwrapped(tensors: list[Any]) -> Any:
    """Returns the only tensor of a list, or the list."""
    return tensors if len(tensors) > 1 else tensors[0]


def _unused_name(name: str, taken: Iterable[str]) -> str:
    """Returns a valid Keras name that is not taken."""
    # Keras' names have no slash, unlike paths.
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    numbers = (f"{name}_{number}" for number in itertools.count(1))
    return next(free for free in itertools.chain([name], numbers) if free not in taken)


def new_tensor(tensor: Any) -> Any:
    """Returns a new symbolic tensor like another."""
    return keras.KerasTensor(
        tensor.shape, tensor.dtype, sparse=tensor.sparse, name=tensor.name
    )


def new_input(tensor: Any, taken: Iterable[str] = ()) -> Any:
    """Returns a new input like a tensor or a spec, under a name that is not taken.

    An input of another model keeps the configuration of its layer.
    """
    history = getattr(tensor, "_keras_history", None)
    if history is not None and isinstance(history.operation, keras.layers.InputLayer):
        layer = history.operation
        return type(layer).from_config(layer.get_config()).output
    name = _unused_name(tensor.name, taken)
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)
