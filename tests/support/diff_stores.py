"""Stores to compare, written without a model."""

import numpy as np

from layertap.core import text
from layertap.core.plan import Branch, Join, Plan, Recipe
from layertap.store.format.layout import ArraySpec
from layertap.store.writing.writer import Writer

ROWS = 50


def plan_of(width=3, dtype="float32", narrowed=None, others=()):
    """A plan of two branches, and of a second join that repeats one of them."""
    left = Branch("fusion/in/0", "left", (None, width), dtype)
    right = Branch("fusion/in/1", "right", (None, 2, 2), "int32")
    more = tuple(Branch(f"{n}/in/0", "more", (None,), "float64") for n in others)
    again = Branch("again/in/0", "left", (None, width), dtype, "fusion/in/0")
    joins = (
        Join("fusion", "concatenate", 1, (None, 9), dtype, (left, right)),
        Join("again", "concatenate", 1, (None, 9), dtype, (again, *more)),
    )
    recipes = {"again/in/0": Recipe(("fusion/in/0",))}
    return Plan("m", joins, recipes=recipes, narrowed=narrowed or {})


def values_of(plan, rows=ROWS):
    values = {}
    for value in plan.stored:
        random = np.random.default_rng(6)
        numbers = 100 * random.normal(size=(rows, *value.shape[1:]))
        values[value.address] = numbers.astype(value.dtype)
    return values


def store(
    path,
    plan,
    values,
    *,
    block_rows=8,
    ids=None,
    labels=None,
    digests=None,
    **identity,
):
    """Writes a store as a save does, but without a model."""
    rows = len(next(iter(values.values())))
    along = {"digests": np.zeros(rows, "uint64") if digests is None else digests}
    if ids is not None:
        along["ids"] = text.encode(ids) if isinstance(ids[0], str) else np.array(ids)
    if labels is not None:
        along["labels"] = np.array(labels)
    if plan.narrowed:
        along["overflowed"] = np.zeros((rows, 1), "int32")
    arrays = values | along
    specs = [ArraySpec(n, a.shape[1:], a.dtype.name) for n, a in arrays.items()]
    kind = {"i": "number", "u": "text"}.get(along["ids"].dtype.kind if ids else "")
    known = {"backend": "jax", "labels": labels and "labels", "ids": kind, **identity}
    memory = 3 * block_rows * sum(spec.row_bytes for spec in specs)
    manifest = {"identity": known, "plan": plan.to_json()}
    with Writer.create(path, specs, manifest, memory=memory) as writer:
        writer.append(arrays)
        writer.finish()
    return path
