"""In which order a functional graph runs its nodes, and in which it was made."""

from collections.abc import Iterator
from typing import Any

from layertap.tracing.keras_internals import Functional, private
from layertap.tracing.model_structure import functional


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
