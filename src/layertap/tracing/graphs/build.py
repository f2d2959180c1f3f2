"""Models made of calls of a user's layers, which get no new nodes by it."""

import copy
import itertools
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras

from layertap.errors import ModelError
from layertap.tracing.keras_internals import Functional, Node, private

Lists = list[tuple[list[Any], list[Any]]]

# Two parts of a model may have the same layers. A part is made within another.
_lock = threading.RLock()


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One call of an operation, with symbolic tensors.

    Attributes:
        operation: The Keras layer or operation.
        path: Its path; empty for what has none, as an operation inside a `call`.
        args: Its positional arguments.
        kwargs: Its arguments by name.
        outputs: The tensors that it returns, flat.
        untold: What it is told of training if the model is told nothing.
        fixed: Whether it is told that in any case.
    """

    operation: Any
    path: str
    args: Any
    kwargs: Any
    outputs: list[Any]
    untold: bool | None = None
    fixed: bool = False

    @property
    def inputs(self) -> list[Any]:
        """The tensors among its arguments, flat."""
        return tensors_in((self.args, self.kwargs))


def tensors_in(structure: Any) -> list[Any]:
    """Returns the symbolic tensors among a structure's leaves."""
    leaves = keras.tree.flatten(structure)
    return [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor)]


def part(inputs: Any, steps: Sequence[Step], outputs: Any, name: str) -> keras.Model:
    """Makes a functional model of calls.

    It shares the layers that are called. Nodes are put into them only while the model
    is made, so that the model they are from stays as it is.

    Args:
        inputs: The structure of tensors that the model takes. Those that no layer made
            become inputs by their names.
        steps: The calls, in order.
        outputs: The structure of tensors that it returns.
        name: The name of the model.
    """
    names = {step.operation.name for step in steps}
    tensors: dict[int, Any] = {}
    for tensor in keras.tree.flatten(inputs):
        new = tensors[id(tensor)] = like_input(tensor, names)
        names.add(new.name)

    def here(leaf: Any) -> Any:
        return tensors[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

    steps = _told_apart(steps, {tensor.name for tensor in tensors.values()})
    nodes = _Nodes([step.operation for step in steps])
    with nodes.alone():
        for step in steps:
            args, kwargs = keras.tree.map_structure(here, (step.args, step.kwargs))
            made = list(map(like, step.outputs))
            Node(step.operation, call_args=args, call_kwargs=kwargs, outputs=made)
            tensors.update(zip(map(id, step.outputs), made, strict=True))
        with keys_may_be_addresses():
            model = keras.Model(
                keras.tree.map_structure(here, inputs),
                keras.tree.map_structure(here, outputs),
                name=name,
            )

        frame = _frame(model)
    operations = {operation.name: operation for operation in model.operations}

    def get_config() -> Any:
        if frame is None:
            with nodes.alone():
                return Functional.get_config(model)
        layers = []
        for layer in frame["layers"]:
            now = keras.saving.serialize_keras_object(operations[layer["name"]])
            layers.append({**layer, "config": now["config"]})
        return copy.deepcopy({**frame, "trainable": model.trainable, "layers": layers})

    model.get_config = get_config
    return model


def _frame(model: keras.Model) -> dict[str, Any] | None:
    """Returns the configuration of a model; None if a layer of it has none."""
    try:
        found: dict[str, Any] = Functional.get_config(model)
    except Exception:  # Whatever a layer raises; it is told who asks for it.
        return None
    return found


def clone(model: keras.Model) -> keras.Model:
    """Returns a functional model like another, with layers and weights of its own.

    Raises:
        ModelError: If Keras can't copy it.
    """
    try:
        with keys_may_be_addresses():
            found = keras.models.clone_model(model)
    except ValueError as error:
        raise ModelError(f"{model.name!r} can't be copied: {error}") from error
    weights = model.get_weights()
    if [weight.shape for weight in found.weights] != [each.shape for each in weights]:
        raise ModelError(
            f"{model.name!r} can't be copied: it shares layers with a model inside it, "
            "which Keras does not copy as shared."
        )
    found.set_weights(weights)
    return found


@contextmanager
def keys_may_be_addresses() -> Iterator[None]:
    """Lets Keras not warn of inputs that are not called as their keys are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="When providing `inputs` as a dict")
        yield


class _Nodes:
    """The nodes of a model that is made of another's operations.

    Args:
        operations: The operations.
    """

    def __init__(self, operations: Iterable[Any]) -> None:
        found = {id(operation): operation for operation in operations}
        self._lists: Lists = [
            (private(operation, name), [])
            for operation in found.values()
            for name in ("_inbound_nodes", "_outbound_nodes")
        ]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lets the operations have these nodes, and no others."""
        with _lock:
            self._exchange()
            try:
                yield
            finally:
                self._exchange()

    def _exchange(self) -> None:
        for theirs, ours in self._lists:
            theirs[:], ours[:] = list(ours), list(theirs)


def _told_apart(steps: Sequence[Step], taken: set[str]) -> list[Step]:
    """Returns calls of operations that have different names, as a graph needs them.

    Where models were opened, two may have one name. The second is put into a model of
    its own, which has another.

    Args:
        steps: The calls.
        taken: Names that nothing else may have.
    """
    owners: dict[str, Any] = dict.fromkeys(taken)
    wraps: dict[tuple[int, str], keras.Model] = {}
    found = []
    for step in steps:
        operation = step.operation
        if owners.setdefault(operation.name, operation) is operation:
            found.append(step)
            continue
        given = list({id(tensor): tensor for tensor in step.inputs}.values())
        key = id(operation), repr(_numbered(step, given))
        if key not in wraps:
            name = _free(step.path or operation.name, {*owners, *_names(steps)})
            wraps[key] = owners[name] = part(
                _alone(given), [step], _alone(step.outputs), name
            )
        args = (_alone(given),)
        found.append(Step(wraps[key], step.path, args, {}, step.outputs))
    return found


def _alone(tensors: list[Any]) -> Any:
    """Returns a tensor that is the only one, or all of them."""
    return tensors if len(tensors) > 1 else tensors[0]


def _numbered(step: Step, given: Sequence[Any]) -> Any:
    """Returns the arguments of a call with numbers in place of its tensors."""
    numbers = {id(tensor): number for number, tensor in enumerate(given)}

    def number(leaf: Any) -> Any:
        return numbers[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

    return keras.tree.map_structure(number, (step.args, step.kwargs))


def _names(steps: Sequence[Step]) -> set[str]:
    return {step.operation.name for step in steps}


def _free(name: str, taken: Iterable[str]) -> str:
    """Returns a name that Keras takes, and that is not taken."""
    # Keras' names have no slash, as paths have.
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    numbers = (f"{name}_{number}" for number in itertools.count(1))
    return next(free for free in itertools.chain([name], numbers) if free not in taken)


def like(tensor: Any) -> Any:
    """Returns another symbolic tensor of the same form."""
    return keras.KerasTensor(
        tensor.shape, tensor.dtype, sparse=tensor.sparse, name=tensor.name
    )


def like_input(tensor: Any, taken: Iterable[str] = ()) -> Any:
    """Returns a new input of the form and the name of a symbolic tensor.

    One that an input layer made gets a layer like that one.

    Args:
        tensor: The tensor.
        taken: Names that the input may not have.
    """
    history = getattr(tensor, "_keras_history", None)
    if history is not None and isinstance(history.operation, keras.layers.InputLayer):
        layer = history.operation
        again = type(layer).from_config(layer.get_config())
    else:
        again = keras.layers.InputLayer(
            batch_shape=tensor.shape,
            dtype=tensor.dtype,
            name=_free(tensor.name, taken),
        )
    return again.output
