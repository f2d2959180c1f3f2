"""Functional graphs: where a join stands in one, and models that end before it."""

import re
from typing import Any

import keras

from layertap import address
from layertap.listening.collection import Wanted
from layertap.listening.kinds import OPERATIONS
from layertap.listening.models import functional
from layertap.listening.order import nodes_of
from layertap.listening.passes import tensors_of
from layertap.listening.private import Functional, private

_GRAPH_CALLS = (Functional.call, keras.Sequential.call)

_PART = re.compile(r"(?P<name>.*?)(?:@(?P<call>\d+))?")

# Joins whose branches are the arguments of their node, in their order.
_IN_ORDER = tuple(
    each
    for kind, classes in OPERATIONS.items()
    if kind != "attention"
    for each in classes
)

# From the root inwards: the graph, and the node in it.
Way = list[tuple[Functional, Any]]


def branch_graph(
    model: keras.Model, path: str, index: int, dtype: str, name: str
) -> keras.Model | None:
    """Makes a functional model of one branch of a join.

    It shares the layers of the model, and adds nodes to none of them: a part of a
    graph is a model over tensors that are there, and parts of nested graphs are
    called one after the other on new inputs.

    Args:
        model: The model.
        path: The path of the join.
        index: Which of its branches.
        dtype: The dtype that the join receives.
        name: The name of the new model.

    Returns:
        The model, or None if the join does not stand in a functional graph.
    """
    way = _way(model, path)
    if way is None:
        return None
    graph, node = way[-1]
    tensors = _arguments(node)
    if index >= len(tensors) or not isinstance(tensors[index], keras.KerasTensor):
        return None
    ends = [_arguments(node) for _, node in way[:-1]] + [[tensors[index]]]
    if len(way) == 1 and tensors[index].dtype == dtype:
        return keras.Model(private(graph, "_inputs_struct"), tensors[index], name=name)
    inputs = keras.tree.map_structure(_new_input, private(way[0][0], "_inputs_struct"))
    found: list[Any] = keras.tree.flatten(inputs)
    for depth, ((graph, _), end) in enumerate(zip(way, ends, strict=True)):
        if len(found) != len(graph.inputs):
            return None
        part = keras.Model(graph.inputs, end, name=f"{name}_part_{depth}")
        found = keras.tree.flatten(part(found))
    output = found[0] if found[0].dtype == dtype else keras.ops.cast(found[0], dtype)
    return keras.Model(inputs, output, name=name)


def subgraph(
    model: keras.Model, branches: Wanted, outputs: Wanted
) -> keras.Model | None:
    """Makes a functional model of all wanted values, where the graph has them all.

    Args:
        model: The model. It gets no new nodes.
        branches: Wanted branches: address by join path and index.
        outputs: Wanted outputs: address by operation path and index.

    Returns:
        A model that returns tensors by address; None if some value is not one of the
        model's own graph.
    """
    graph = functional(model)
    if graph is None or type(model).call not in _GRAPH_CALLS:
        return None
    found: dict[str, Any] = {}
    for wanted, tensors_at in ((branches, _branches), (outputs, _outputs)):
        for path, names in wanted.items():
            node = _node(graph, path)
            tensors = [] if node is None else tensors_at(node)
            for index, name in names.items():
                if index >= len(tensors):
                    return None
                found[name] = tensors[index]
    if not all(isinstance(tensor, keras.KerasTensor) for tensor in found.values()):
        return None
    inputs = private(graph, "_inputs_struct")
    return keras.Model(inputs, found, name="layertap_subgraph")


def _branches(node: Any) -> list[Any]:
    return _arguments(node) if isinstance(private(node, "operation"), _IN_ORDER) else []


def _outputs(node: Any) -> list[Any]:
    return tensors_of(private(node, "outputs"))


def _way(model: keras.Model, path: str) -> Way | None:
    """Finds the node of a join, opening nested graphs on the way."""
    way: Way = []
    operation: Any = model
    for part in path.split("/"):
        graph = functional(operation)
        # A model that has a graph and a `call` of its own need not follow the graph.
        if graph is None or type(graph).call is not Functional.call:
            return None
        node = _node(graph, part)
        if node is None:
            return None
        way.append((graph, node))
        operation = private(node, "operation")
    return way if isinstance(operation, _IN_ORDER) else None


def _node(graph: Functional, part: str) -> Any:
    """Finds the node whose call has this part of a path."""
    found = _PART.fullmatch(part)
    assert found is not None  # the pattern matches anything
    for operation in graph.operations:
        if address.component(operation.name) == found["name"]:
            nodes = nodes_of(graph, operation)
            number = int(found["call"] or 1)
            return nodes[number - 1] if number <= len(nodes) else None
    return None


def _arguments(node: Any) -> list[Any]:
    leaves: list[Any] = keras.tree.flatten(private(node, "arguments").args)
    return leaves


def _new_input(tensor: Any) -> Any:
    name = private(tensor, "_keras_history").operation.name
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)
