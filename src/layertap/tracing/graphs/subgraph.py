"""Where a functional graph has wanted values, without hearing it."""

import re
from typing import Any

import keras

from layertap.core import address
from layertap.tracing.forward_pass import Wanted, tensors_of
from layertap.tracing.graphs.record_pass import GRAPH_CALLS
from layertap.tracing.join_kinds import IN_ORDER
from layertap.tracing.keras_internals import Functional, private
from layertap.tracing.model_structure import functional, nodes_of

_PART = re.compile(r"(?P<name>.*?)(?:@(?P<call>\d+))?")


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
    if graph is None or type(model).call not in GRAPH_CALLS:
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
    return _arguments(node) if isinstance(private(node, "operation"), IN_ORDER) else []


def _outputs(node: Any) -> list[Any]:
    return tensors_of(private(node, "outputs"))


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
