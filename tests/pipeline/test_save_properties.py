"""Values of any graph of branches and joins are right, and survive a store."""

import re
import tempfile
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from keras import layers, ops
from numpy.typing import NDArray

import layertap
from layertap.inputs.feed import Feed
from layertap.pipeline.planned_pass import planned_pass
from layertap.tracing.model_structure import input_specs
from tests.support.campaign import times

pytestmark = pytest.mark.every_backend

ROWS, SIZE = 7, 3

Array = NDArray[Any]


@dataclass
class Tensor:
    """A tensor of a graph, and its value by NumPy for these inputs."""

    symbolic: Any
    truth: Array
    makers: set[str]
    joined: bool = False
    used: bool = False

    def take(self) -> Any:
        self.used = True
        return self.symbolic


def dense_by_hand(layer: layers.Dense, x: Array) -> Array:
    kernel, bias = layer.get_weights()
    return x @ kernel.astype("float64") + bias


def dense(units: int, name: str) -> layers.Dense:
    return layers.Dense(units, bias_initializer="random_normal", name=name)


@dataclass
class Graph:
    """Builds a graph, step by step. All choices wrap around the existing tensors.

    Attributes:
        tensors: All tensors so far.
        branches: The branches of every join by its path, and its axis.
    """

    rank: int
    tensors: list[Tensor] = field(default_factory=list)
    branches: dict[str, tuple[int, list[Tensor]]] = field(default_factory=dict)
    shared: dict[int, layers.Dense] = field(default_factory=dict)
    nested: list[tuple[keras.Model, Tensor, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = (6,) if self.rank == 2 else (4, 3)
        self.x = np.random.default_rng(self.rank).normal(size=(ROWS, *shape))
        self.x = self.x.astype("float32")
        self.input = keras.Input(shape, name="x")
        self.add(self.input, self.x.astype("float64"), "x")

    def add(
        self, symbolic: Any, truth: Array, maker: str, joined: bool = False
    ) -> None:
        assert symbolic.shape[1:] == truth.shape[1:]
        self.tensors.append(Tensor(symbolic, truth, {maker}, joined))

    def add_same(self, symbolic: Any, tensor: Tensor, maker: str) -> None:
        # A layer that may return its input itself: then either one made it.
        tensor.makers.add(maker)
        same = Tensor(symbolic, tensor.truth, tensor.makers, joined=tensor.joined)
        self.tensors.append(same)

    def pick(self, choice: int) -> Tensor:
        return self.tensors[choice % len(self.tensors)]

    def name(self, kind: str) -> str:
        return f"{kind}_{len(self.tensors)}"

    def step(self, kind: str, choices: list[int]) -> None:
        getattr(self, f"step_{kind}")(*choices)

    def step_dense(self, one: int, units: int, *_: int) -> None:
        tensor, name = self.pick(one), self.name("dense")
        layer = dense(1 + units % 4, name)
        made = layer(tensor.take())
        self.add(made, dense_by_hand(layer, tensor.truth), name)

    def step_activation(self, one: int, *_: int) -> None:
        tensor, name = self.pick(one), self.name("activation")
        made = layers.Activation("tanh", name=name)(tensor.take())
        self.add(made, np.tanh(tensor.truth), name)

    def step_dropout(self, one: int, *_: int) -> None:
        tensor, name = self.pick(one), self.name("dropout")
        made = layers.Dropout(0.5, name=name)(tensor.take())
        self.add_same(made, tensor, name)

    def step_permute(self, one: int, *_: int) -> None:
        tensor, name = self.pick(one), self.name("permute")
        if self.rank == 2:
            self.add_same(layers.Permute((1,), name=name)(tensor.take()), tensor, name)
            # On PyTorch it is a view, another tensor.
            self.tensors[-1].joined = False
        else:
            made = layers.Permute((2, 1), name=name)(tensor.take())
            self.add(made, tensor.truth.transpose(0, 2, 1), name)

    def step_shared(self, one: int, *_: int) -> None:
        """Calls one layer for all tensors of one width."""
        tensor = self.pick(one)
        width = tensor.truth.shape[-1]
        layer = self.shared.setdefault(width, dense(3, f"shared_{width}"))
        made = layer(tensor.take())
        self.add(made, dense_by_hand(layer, tensor.truth), layer.name)

    def step_nested(self, one: int, again: int, *_: int) -> None:
        """Calls a model with a join, a new one or one that is called again."""
        if again % 2 and self.nested:
            model, tensor, calls = self.nested.pop()
        else:
            tensor, calls = self.pick(one), 0
            inner = keras.Input(tensor.truth.shape[1:])
            width = tensor.truth.shape[-1]
            tanh = layers.Activation("tanh", name="tanh")
            halves = [dense(width, "left")(inner), tanh(inner)]
            mix = layers.Concatenate(name="mix")(halves)
            model = keras.Model(
                inner, dense(width, "end")(mix), name=self.name("model")
            )
        path = model.name + (f"@{calls + 1}" if calls else "")
        left, end = model.get_layer("left"), model.get_layer("end")
        halves = [
            Tensor(None, dense_by_hand(left, tensor.truth), {f"{path}/left"}),
            Tensor(None, np.tanh(tensor.truth), {f"{path}/tanh"}),
        ]
        mixed = np.concatenate([half.truth for half in halves], -1)
        self.branches[f"{path}/mix"] = self.rank - 1, halves
        self.add(model(tensor.take()), dense_by_hand(end, mixed), path)
        self.nested.append((model, self.tensors[-1], calls + 1))

    def step_join(self, one: int, axis: int, by: int, *others: int) -> None:
        """Joins any tensors, some of them several times, that fit along any axis."""
        first, axis = self.pick(one), 1 + axis % (self.rank - 1)

        def around(tensor: Tensor) -> tuple[int, ...]:
            return tensor.truth.shape[:axis] + tensor.truth.shape[axis + 1 :]

        fitting = [other for other in self.tensors if around(other) == around(first)]
        parts = [first, *(fitting[other % len(fitting)] for other in others)]
        taken = [part.take() for part in parts]
        truth = np.concatenate([part.truth for part in parts], axis)
        given_axis = axis if by % 2 else axis - self.rank
        if by % 3:
            name = self.name("join")
            made = layers.Concatenate(axis=given_axis, name=name)(taken)
        else:
            made = ops.concatenate(taken, axis=given_axis)
            name = made._keras_history.operation.name
        self.branches[name] = axis, parts
        self.add(made, truth, name, joined=True)

    def model(self) -> keras.Model:
        """Returns the model; unused tensors are its outputs."""
        ends = [tensor.symbolic for tensor in self.tensors if not tensor.used]
        return keras.Model(self.input, ends if len(ends) > 1 else ends[0])


KINDS = ["join"] * 4 + [
    "dense", "activation", "dropout", "permute", "shared", "shared", "nested",
]  # fmt: skip

steps = st.tuples(
    st.sampled_from(KINDS), st.lists(st.integers(0, 11), min_size=5, max_size=7)
)
programs = st.tuples(st.sampled_from([2, 3]), st.lists(steps, min_size=3, max_size=10))


def build(rank: int, program: list[tuple[str, list[int]]]) -> Graph:
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    graph = Graph(rank)
    for kind, choices in program:
        graph.step(kind, choices)
    graph.step("join", [len(graph.tensors) - 1, 0, 1, 0])
    return graph


def without_calls(path: str) -> str:
    """Removes the numbers of calls, which depend on the order of execution."""
    return re.sub(r"@\d+", "", path)


def assert_right(graph: Graph, values: Any) -> None:
    """Asserts that all values, aliases too, equal those of NumPy."""
    expected = {
        f"{path}/in/{index}": tensor
        for path, (_, tensors) in graph.branches.items()
        for index, tensor in enumerate(tensors)
    }
    assert set(values) == set(expected)
    for address, tensor in expected.items():
        np.testing.assert_allclose(
            values[address][:], tensor.truth, rtol=2e-4, atol=2e-5, err_msg=address
        )
    for join in values.plan.joins:
        axis, tensors = graph.branches[join.path]
        assert join.axis == axis
        for branch, tensor in zip(join.branches, tensors, strict=True):
            assert branch.shape == (None, *tensor.truth.shape[1:])
            assert without_calls(branch.made_by) in set(
                map(without_calls, tensor.makers)
            )


def as_numpy(tensors: Any) -> list[Array]:
    return [ops.convert_to_numpy(tensor) for tensor in keras.tree.flatten(tensors)]


def assert_stored_once(graph: Graph, plan: layertap.Plan) -> None:
    """Asserts that a tensor is stored once, and an inner join is not stored."""
    distinct = {
        id(tensor)
        for _, tensors in graph.branches.values()
        for tensor in tensors
        if not tensor.joined
    }
    assert len(plan.stored) <= len(distinct)


@pytest.mark.campaign
@settings(
    derandomize=True,
    max_examples=times(3, 6),
    suppress_health_check=[HealthCheck.too_slow],
    # Shrinking takes minutes: each try plans, compiles and saves a model.
    phases=[Phase.explicit, Phase.generate],
)
@given(programs)
def test_any_graph(program):
    graph = build(*program)
    model = graph.model()
    plan = layertap.plan(model)
    assert_stored_once(graph, plan)
    values = layertap.capture(model, graph.x, batch_size=SIZE)
    assert_right(graph, values)

    tap = planned_pass(model, plan, joined=True)
    batch = next(Feed(graph.x, input_specs(model), SIZE).batches())
    found = layertap.Values(plan, tap(batch))
    for path, (axis, tensors) in graph.branches.items():
        parts = [found[f"{path}/in/{index}"] for index in range(len(tensors))]
        own = tap(batch)[f"{path}/out"]
        assert np.concatenate(parts, axis).tobytes() == own.tobytes()

    paths = list(graph.branches)
    stem, head = layertap.split(model, paths[len(paths) // 2])
    parts, whole = as_numpy(head(stem(graph.x))), as_numpy(model(graph.x))
    for one, other in zip(parts, whole, strict=True):
        assert one.tobytes() == other.tobytes()

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/values.zarr"
        layertap.save(model, graph.x, path, batch_size=SIZE, memory=1)
        saved = layertap.open(path)
        assert saved.rows == ROWS
        assert list(saved) == list(values)
        for address, expected in values.items():
            assert saved[address][:].tobytes() == expected.tobytes()
            assert saved[address][2:4].tobytes() == expected[2:4].tobytes()


# Every kind of step at least once, so that all are tested.
ALL = [
    ("dense", [0, 2, 0, 0, 0]),
    ("shared", [0, 0, 0, 0, 0]),
    ("activation", [1, 0, 0, 0, 0]),
    ("nested", [1, 0, 0, 0, 0]),
    ("nested", [1, 1, 0, 0, 0]),
    ("join", [1, 0, 0, 2, 1, 1]),
    ("shared", [1, 0, 0, 0, 0]),
    ("dropout", [2, 0, 0, 0, 0]),
    ("permute", [6, 0, 0, 0, 0]),
    ("join", [6, 0, 1, 6, 0]),
    ("join", [10, 1, 2, 10, 3]),
]


@pytest.mark.parametrize("rank", [2, 3])
def test_a_graph_of_everything(rank):
    graph = build(rank, ALL)
    assert {kind for kind, _ in ALL} == set(KINDS)
    assert len(graph.branches) == 6
    test_any_graph.hypothesis.inner_test((rank, ALL))
