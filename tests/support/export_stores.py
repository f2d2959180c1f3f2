"""Stores to export, written without a model, and what their files have to hold."""

import json

import ml_dtypes
import numpy as np

import layertap
from layertap.core import text, tree
from layertap.core.plan import Branch, Derived, Join, Output, Plan, Recipe
from layertap.results.manifest import STATISTICS
from layertap.results.statistics.gather import Gatherer
from layertap.store.format.layout import ArraySpec
from layertap.store.writing.writer import Writer

ROWS = 50
REAL = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"),
    *("uint64", "float16", "bfloat16", "float32", "float64"),
)
COMPLEX = ("complex64", "complex128")
IDS = [f"photos/{i}/größe, 木.png" for i in range(ROWS)]
CLASSES = ["cat", "dog", "a\tbird"]


def bits(shape, dtype, seed=0):
    """Any numbers of a dtype: NaN of all kinds, infinities, both zeros, subnormal."""
    dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    random = np.random.default_rng(seed)
    if dtype == "bool":
        return random.integers(0, 2, shape).astype(bool)
    count = int(np.prod(shape)) * dtype.itemsize
    found = np.frombuffer(random.bytes(count), dtype).reshape(shape).copy()
    if dtype.kind in "fV" or dtype.name == "bfloat16":
        some = found.reshape(-1)
        special = [np.nan, np.inf, -np.inf, -0.0, 0.0]
        some[: len(special)] = np.array(special).astype(dtype)[: len(some)]
    return found


def plan_of(dtypes=REAL):
    """A plan with a join of maps, one output for each dtype, and more."""
    maps = Branch("fusion/in/0", "look", (None, 3, 2, 4), "float32")
    other = Branch("fusion/in/1", "my feel", (None, 3, 2, 5), "float32")
    first = Branch("again/in/0", "look", (None, 3, 2, 4), "float32", "fusion/in/0")
    both = Branch("again/in/1", "fusion", (None, 3, 2, 9), "float32")
    joins = (
        Join("fusion", "concatenate", 3, (None, 3, 2, 9), "float32", (maps, other)),
        Join("again", "concatenate", 3, (None, 3, 2, 13), "float32", (first, both)),
    )
    outputs = [Output(f"of_{d}/out", f"of_{d}", (None, 3), d) for d in dtypes]
    number = Output("number/out", "number", (None,), "float32")
    gradient = Derived("fusion/in_gradient/0", "look", (None, 3, 2, 4), "float32")
    return Plan(
        "zoo",
        joins,
        (*outputs, number),
        recipes={
            "again/in/0": Recipe(("fusion/in/0",)),
            "again/in/1": Recipe(("fusion/in/0", "fusion/in/1"), 3),
        },
        padded={"fusion/in/0": (1, 2), "number/out": ()},
        derived=(gradient,),
        gradients_of="loss",
    )


def store(
    path,
    plan=None,
    *,
    rows=ROWS,
    ids=None,
    labels=None,
    sample_weight=None,
    class_names=(),
    block_rows=16,
    finish=True,
    values=None,
    statistics=True,
    digest=0,
):
    """Writes a store as a save does; returns it open, and all its arrays."""
    plan = plan or plan_of()
    padded = {name: axes for name, axes in plan.padded.items() if axes}
    object.__setattr__(plan, "padded", padded)
    arrays = values or {
        value.address: bits((rows, *value.shape[1:]), value.dtype, seed)
        for seed, value in enumerate(plan.stored)
    }
    along = {"digests": np.full(rows, digest, "uint64")}
    identity = {"ids": None}
    if ids is not None:
        identity["ids"] = "text" if isinstance(ids[0], str) else "number"
        encode = text.encode if isinstance(ids[0], str) else np.array
        along["ids"] = encode(ids)
    for name, given in (("labels", labels), ("sample_weight", sample_weight)):
        identity[name] = tree.paths(given, name)
        along |= zip(tree.leaves(identity[name]), tree.leaves(given), strict=True)
    if padded:
        columns = sum(map(len, padded.values()))
        along["lengths"] = bits((rows, columns), "int32", 77)
    stored = arrays | along
    specs = [ArraySpec(n, a.shape[1:], a.dtype.name) for n, a in stored.items()]
    memory = 3 * block_rows * sum(spec.row_bytes for spec in specs)
    manifest = {"identity": identity, "plan": plan.to_json()}
    manifest["notes"] = {"class_names": list(class_names)}
    with Writer.create(path, specs, manifest, memory=memory) as writer:
        if rows:
            writer.append(stored)
            writer.commit()
        if finish:
            gatherer = Gatherer(plan)
            if statistics:
                gatherer.add(0, arrays)
            writer.finish(lambda: {STATISTICS: gatherer.to_json()})
    return layertap.open(path), stored


def expected_of(plan, stored):
    """All arrays that an export has, by name; texts and bfloat16 as in the store."""
    expected = {name: stored[name] for name in stored if name != "digests"}
    lengths = expected.pop("lengths", None)
    if "again/in/0" in plan.known:
        expected["again/in/0"] = stored["fusion/in/0"]
        both = [stored["fusion/in/0"], stored["fusion/in/1"]]
        expected["again/in/1"] = np.concatenate(both, 3)
    if lengths is not None:
        for name in ("fusion/in/0", "again/in/0", "again/in/1"):
            expected[f"lengths/{name}"] = lengths
    return expected


def widened(array):
    """Numbers of bfloat16 as float32, by NumPy's bits alone."""
    if array.dtype.name != "bfloat16":
        return array
    halves = np.zeros((*array.shape, 2), "<u2")
    halves[..., 1] = array.view("u2")
    return halves.view("<f4")[..., 0]


def assert_same(found, expected, name=""):
    """Asserts that two arrays are equal to the bit."""
    found = np.asarray(found)
    assert found.shape == expected.shape, name
    assert found.dtype == expected.dtype, name
    assert found.tobytes() == expected.tobytes(), name


def assert_metadata(metadata, saved):
    """Asserts that a file has its facts, as texts."""
    assert metadata["model"] == "zoo"
    assert metadata["layertap"].count(".") == 2
    assert json.loads(metadata["rows"]) == saved.rows
    assert json.loads(metadata["complete"]) is saved.complete
    assert json.loads(metadata["class_names"]) == saved.class_names
    values = json.loads(metadata["values"])
    assert list(values) == saved.plan.known
    assert values["fusion/in/1"] == {
        "made_by": "my feel",
        "dtype": "float32",
        "shape": [3, 2, 5],
    }
