"""The wanted values as nodes of a model's own graph, without a trace."""

from typing import Any

import keras

from layertap.core import address
from layertap.tracing.forward_pass import Wanted, numbered, tensors_of
from layertap.tracing.graphs.record_pass import GRAPH_CALLS
from layertap.tracing.join_kinds import IN_ORDER
from layertap.tracing.keras_internals import Functional, private
from layertap.tracing.model_structure import functional, nodes_in_order


def subgraph(model: keras.Model, wanted: Wanted) -> keras.Model | None:
    """Makes a model that returns the wanted values by address, without new nodes.

    The result is None if one of them is not a value of the model's own graph.
    """
    tensors = graph_tensors(model, wanted)
    if tensors is None:
        return None
    inputs = private(functional(model), "_inputs_struct")
    return keras.Model(inputs, tensors, name="layertap_subgraph")


def graph_tensors(model: keras.Model, wanted: Wanted) -> dict[str, Any] | None:
    """Returns the symbolic tensors of wanted values, if the model's graph has them."""
    graph = functional(model)
    if graph is None or type(model).call not in GRAPH_CALLS:
        return None
    nodes = _nodes_by_path(graph)
    sides = (wanted.sides["in"], _branches), (wanted.sides["out"], _outputs)
    try:
        tensors = {
            name: tensors_at(nodes[path])[index]
            for addresses, tensors_at in sides
            for path, names in addresses.items()
            for index, name in names.items()
        }
    except LookupError:
        return None
    symbolic = all(isinstance(t, keras.KerasTensor) for t in tensors.values())
    return tensors if symbolic else None


def _branches(node: Any) -> list[Any]:
    if not isinstance(private(node, "operation"), IN_ORDER):
        return []
    return keras.tree.flatten(private(node, "arguments").args)


def _outputs(node: Any) -> list[Any]:
    return tensors_of(private(node, "outputs"))


def _nodes_by_path(graph: Functional) -> dict[str, Any]:
    """Returns the nodes of a graph by the paths of their calls."""
    inside = {id(node) for node in nodes_in_order(graph)}
    nodes: dict[str, Any] = {}
    for operation in graph.operations:
        part = address.component(operation.name)
        made = [n for n in private(operation, "_inbound_nodes") if id(n) in inside]
        for number, node in enumerate(made, 1):
            nodes[numbered(part, number)] = node
    return nodes
