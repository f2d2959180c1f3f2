"""A case: one model, and what is known about it without layertap."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import keras
import numpy as np

from tests.zoo.truth import Array, run

Inputs = Any
Outputs = Any
Joined = Mapping[str, Array]
Branches = dict[str, list[Array]]


# Backends round, and order their sums, each in its own way.
TOLERANCES = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}


@dataclass(frozen=True)
class Case:
    """One model, and its true values.

    Attributes:
        name: The name of the case.
        build: Builds the model: same names, same weights, on every backend.
        inputs: Makes so many rows of inputs for `model.predict`. Fewer rows are the
            first of more.
        truth: Computes the branches' true values for these inputs, by address, in the
            dtype that the join receives.
        joins: The joins' axes, by path. Rows are axis 0.
        made_by: The operation or input of the model that each branch comes from, by
            address; only where there's one right answer.
        finish: Computes the model's outputs from these inputs and joined values.
        precision: The coarsest float dtype that values went through.
        since: The first release of Keras whose `predict` runs the model.
    """

    name: str
    build: Callable[[], keras.Model]
    inputs: Callable[[int], Inputs]
    truth: Callable[[keras.Model, Inputs], dict[str, Array]]
    joins: dict[str, int]
    made_by: dict[str, str]
    finish: Callable[[keras.Model, Inputs, Joined], Outputs]
    precision: str = "float32"
    since: tuple[int, int] = (3, 0)

    def joined(self, truth: Mapping[str, Array]) -> dict[str, Array]:
        """Joins the branches of every join."""
        joined = {}
        for path, axis in self.joins.items():
            count = sum(address.startswith(f"{path}/in/") for address in truth)
            branches = [truth[f"{path}/in/{index}"] for index in range(count)]
            joined[path] = np.concatenate(branches, axis)
        return joined

    def assert_close(self, actual: Array, expected: Array) -> None:
        """Asserts one shape and dtype, and values that are equal but for rounding."""
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
        tolerance = TOLERANCES[self.precision]
        np.testing.assert_allclose(
            actual.astype("float64"),
            expected.astype("float64"),
            rtol=tolerance,
            atol=tolerance,
        )


def numbers(rows: int, *shape: int, seed: int = 0) -> Array:
    random = np.random.default_rng((seed, *shape))
    return random.standard_normal((rows, *shape), dtype="float32")


def ids(rows: int, length: int, *, below: int) -> Array:
    """Gives ids with zeros among them, for masking, but none to start a row."""
    random = np.random.default_rng((length, below))
    values = random.integers(0, below, (rows, length)).astype("int32")
    values[:, 0] = 1 + values[:, 0] % (below - 1)
    return values


def give_values(model: keras.Model) -> None:
    """Sets every weight, biases and moving statistics too, alike on all backends."""
    random = np.random.default_rng(7)
    for weight in model.weights:
        values = random.standard_normal(weight.shape)
        if "kernel" in weight.name:
            values /= np.sqrt(np.prod(weight.shape[:-1]))
        elif weight.name in ("gamma", "moving_variance"):
            values = 0.5 + np.abs(values)
        weight.assign(values.astype("float32"))


def called(model: keras.Model, x: Inputs) -> keras.Model:
    """Calls a subclassed model, which has no weights before its first call."""
    model(x)
    return model


# A case is a function that builds the model, under a decorator that declares the rest.
# Truths and makers are lists, one entry a branch, by the join's path. By default, a
# model accepts six numbers a row, and its one join is `fusion`, at axis 1, followed by
# `head`.


def through(*paths: str, join: str = "fusion") -> Callable[..., Array]:
    """Finishes a model whose last join is followed by these layers, and no more."""
    return lambda model, x, joined: run(model, joined[join], *paths)


def six_numbers(rows: int) -> Array:
    return numbers(rows, 6)


def case(
    *,
    truth: Callable[[keras.Model, Inputs], Branches],
    inputs: Callable[[int], Inputs] = six_numbers,
    joins: dict[str, int] | None = None,
    made_by: Mapping[str, list[str | None]] | None = None,
    finish: Callable[[keras.Model, Inputs, Joined], Outputs] | None = None,
    precision: str = "float32",
    since: tuple[int, int] = (3, 0),
) -> Callable[[Callable[[], keras.Model]], Case]:
    def make_case(function: Callable[[], keras.Model]) -> Case:
        def build() -> keras.Model:
            # Resets Keras' counter of automatic names.
            keras.utils.clear_session(free_memory=False)
            model = function()
            give_values(model)
            return model

        makers = by_address(made_by or {})
        return Case(
            name=function.__name__,
            build=build,
            inputs=inputs,
            truth=lambda model, x: by_address(truth(model, x)),
            joins=joins or {"fusion": 1},
            made_by={address: maker for address, maker in makers.items() if maker},
            finish=finish or through("head"),
            precision=precision,
            since=since,
        )

    return make_case


def cases_of(*modules: ModuleType) -> list[Case]:
    """Lists the cases of modules, in the order in which they are written."""
    values = [value for module in modules for value in vars(module).values()]
    return [value for value in values if isinstance(value, Case)]


def by_address(entries: Mapping[str, list[Any]]) -> dict[str, Any]:
    return {
        f"{path}/in/{index}": entry
        for path, branches in entries.items()
        for index, entry in enumerate(branches)
    }
