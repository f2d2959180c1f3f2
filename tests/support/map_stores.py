"""Stores of maps with their gradients, written without a model."""

import numpy as np

from layertap.core.plan import Derived, Output, Plan
from tests.support.export_stores import ROWS, store


def maps_alone(folder, count=1, rows=ROWS, target="loss", **along):
    """A store of some values of five by three numbers in four channels."""
    shape = (None, 5, 3, 4)
    names = [f"conv{n}" for n in range(count)]
    plan = Plan(
        "maps",
        (),
        tuple(Output(f"{name}/out", name, shape, "float32") for name in names),
        derived=tuple(
            Derived(f"{name}/out_gradient", name, shape, "float32") for name in names
        ),
        gradients_of=target,
        channels_first=tuple(f"{name}/out" for name in names)
        * along.pop("channels_first", False),
    )
    random = np.random.default_rng(0)
    values = {
        value.address: random.normal(size=(rows, *shape[1:])).astype("float32")
        for value in plan.stored
    }
    saved, _ = store(folder / "values.zarr", plan, rows=rows, values=values, **along)
    return saved
