"""Malicious stores: they are refused, and use little memory and time.

Those with huge claims are used in a process of their own, which may use little.
"""

import itertools
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import layertap
from layertap.core.plan import Plan
from layertap.errors import StoreCorruptError
from tests.support.campaign import share
from tests.support.hostile import AUXILIARY, ROWS, Store, make, use, use_alone

pytestmark = pytest.mark.slow

HUGE = 10**4000


@pytest.fixture
def store(tmp_path):
    make(tmp_path / "v")
    return Store(tmp_path / "v")


def damaged(store, change):
    """Returns whether a store is refused after a change of its root."""
    ours = store.ours()
    change(ours)
    store.put_root(ours)
    return "open" in use(store.path)


def recipes(store, made):
    """Writes recipes of values, and makes all of them outputs of the plan."""
    ours = store.ours()
    plan = ours["plan"]
    for name, (addresses, axis) in made.items():
        plan["recipes"][name] = {"addresses": addresses, "axis": axis}
        plan["outputs"].append(
            {
                **{"address": name, "made_by": "x", "shape": [None, 2]},
                **{"dtype": "float16", "alias_of": None},
            }
        )
    store.put_root(ours)


DTYPES = [
    *("(1,2", "(,)i4", "1 1i4", ",,f4", "a5", "00f4", "O", "V8", "M8[s]", "f4,f4"),
    *("T", "U9", "c32", "", "f4,(2147483647)i8"),
]


WHERE = ["join", "branch", "alias", "narrowed", "plan"]


@pytest.mark.parametrize(
    ("dtype", "where"), share(4, [*itertools.product(DTYPES, WHERE)])
)
def test_invalid_dtypes(store, dtype, where):
    ours = store.ours()
    plan = ours["plan"]
    holder, key = {
        "join": (plan["joins"][0], "dtype"),
        "branch": (plan["joins"][0]["branches"][0], "dtype"),
        "alias": (plan["joins"][1]["branches"][0], "dtype"),
        "narrowed": (plan["narrowed"], "fusion/in/0"),
        "plan": (plan, "dtype"),
    }[where]
    holder[key] = dtype
    store.put_root(ours)
    with pytest.raises(StoreCorruptError):
        layertap.open(store.path)


@given(st.text(st.sampled_from("(), 0123456789fiuOSUVMm[]<>=|:;")))
def test_no_dtype_is_read_as_code(dtype):
    plan = Plan("m", ()).to_json() | {"dtype": dtype}
    try:
        Plan.from_json(plan)
    except (KeyError, TypeError, ValueError):
        # `layertap.open` reports these as damage.
        return


SHAPES = {
    "of too many digits together": [0, HUGE, HUGE],
    "larger than any float": [0, *[2**62] * 28],
    "of many axes": [0] + [HUGE] * 63,
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_huge_shapes_of_joined_values(store, shape):
    for where in ("join", "alias"):
        ours = store.ours()
        join = ours["plan"]["joins"][1]
        (join if where == "join" else join["branches"][0])["shape"] = shape
        store.put_root(ours)
        use(store.path)


SIZES = {"2^40": 2**40, "2^62": 2**62, "2^70": 2**70, "10^4000": HUGE}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("axes", [1, 3, 28])
@pytest.mark.parametrize("rows", [0, 1])
def test_huge_shapes_of_stored_values(store, size, axes, rows):
    """The plan and the array agree, and there are no values."""
    ours = store.ours()
    for array in ours["arrays"]:
        digests = "0" * 16 * rows
        sizes = {"rows": rows, "block_rows": 1, "chunk_rows": 1, "digests": digests}
        shape = {"shape": (size,) * axes} if array == "words/out" else {}
        store.claim(array, **sizes, **shape)
    ours["rows"] = rows
    ours["plan"]["outputs"][0]["shape"] = [0, *(size,) * axes]
    store.put_root(ours)
    use(store.path)


# Statistics.


@pytest.mark.parametrize(
    "found",
    [
        *(None, [], "", 3, {"fusion/in/0": None}, {"fusion/in/0": {"axis": 1}}),
        {"words/out": {"axis": HUGE, "mean": "1"}},
        {
            "words/out": dict.fromkeys(("mean", "variance", "minimum"), "1 1")
            | {"axis": 2}
        },
        {
            "words/out": dict.fromkeys(("mean", "minimum", "maximum"), " " * 2**20)
            | {"axis": 2, "variance": "1 1"}
        },
    ],
    ids=lambda found: str(found)[:40],
)
def test_invalid_statistics(store, found):
    store.put_root(store.ours() | {"statistics": found})
    problems = use(store.path)
    assert {"statistics", "to_json", "show", "show --json"} <= problems
    assert "open" not in problems


def test_statistics_of_missing_values(store):
    ours = store.ours()
    more = {"../x": {}, "ids": {"axis": None}, "no": ours["statistics"]["words/out"]}
    before = list(layertap.open(store.path).statistics)
    store.put_root(ours | {"statistics": ours["statistics"] | more})
    assert list(layertap.open(store.path).statistics) == before
    assert "statistics" not in use(store.path)


# Recipes.

BAD_RECIPES = {
    "of itself": {"a": (["a"], 0)},
    "in a circle": {"a": (["b"], 0), "b": (["c", "fusion/in/0"], 1), "c": (["a"], 0)},
    "without addresses": {"a": ([], 0)},
    "without addresses, joined": {"a": ([], 1)},
    "of a missing value": {"a": (["b"], 0)},
    "along the rows": {"a": (["fusion/in/0", "fusion/in/0"], 0)},
    "along an axis before": {"a": (["fusion/in/0", "fusion/in/0"], -1)},
    "along a missing axis": {"a": (["fusion/in/0", "fusion/in/0"], 2)},
    "along axis 10^4000": {"a": (["fusion/in/0", "fusion/in/0"], HUGE)},
    "of unlike dtypes": {"a": (["fusion/in/0", "labels/more/0"], 1)},
    "of unlike shapes": {"a": (["fusion/in/0", "words/out"], 1)},
    "of the root": {"a": ([""], 0)},
    "of a group": {"a": (["fusion/in"], 0)},
    "of another store": {"a": (["../v/fusion/in/0"], 0)},
}


@pytest.mark.parametrize("made", BAD_RECIPES.values(), ids=BAD_RECIPES)
def test_invalid_recipes(store, made):
    recipes(store, made)
    assert "open" in use(store.path)


def doubled(times):
    """Returns recipes, each of which joins the one before with itself."""
    names = ["fusion/in/1", *(f"doubled-{i}" for i in range(times))]
    return {new: ([old, old], 1) for old, new in itertools.pairwise(names)}


@pytest.mark.parametrize("times", [24, 62])
def test_recipes_that_double(store, times):
    """A few hundred bytes of recipe for 2**24 numbers a row, and more."""
    made = doubled(times)
    recipes(store, made)
    problems = use_alone(store.path, verify=False)
    if times > 32:
        assert "open" in problems or f"3 of {list(made)[-1]}" in problems


@pytest.mark.parametrize("length", [400, 3000])
def test_recipes_of_recipes(store, length):
    names = ["fusion/in/1", *(f"longer-{i}" for i in range(length))]
    pairs = itertools.pairwise(names)
    recipes(store, {new: ([old, "fusion/in/0"], 1) for old, new in pairs})
    use_alone(store.path, verify=False)


# Parts that contradict each other.


def test_an_empty_plan(store):
    nothing = {"joins": [], "outputs": [], "recipes": {}, "narrowed": {}, "padded": {}}
    damaged(store, lambda ours: ours["plan"].update(nothing))


def test_a_plan_without_stored_values(store):
    def change(ours):
        plan = ours["plan"]
        branches = [branch for join in plan["joins"] for branch in join["branches"]]
        for value in [*plan["outputs"], *branches]:
            recipe = {"addresses": ["labels/digit"], "axis": 0}
            plan["recipes"][value["address"]] = recipe

    damaged(store, change)


PADDED = {
    "no axis": {"words/out": []},
    "no axis, and another value": {"words/out": [], "elsewhere": [1]},
    "a missing axis": {"words/out": [9]},
    "an axis below 0": {"words/out": [-HUGE]},
}


@pytest.mark.parametrize("padded", PADDED.values(), ids=PADDED)
def test_invalid_padded_axes(store, padded):
    damaged(store, lambda ours: ours["plan"].update(padded=padded))


@pytest.mark.parametrize(
    "dtype", ["float32", "complex64", "bool", "bfloat16", "uint64"]
)
@pytest.mark.parametrize("name", ["overflowed", "lengths", "ids", "digests"])
def test_auxiliary_arrays_of_another_dtype(tmp_path, name, dtype):
    shape, _ = AUXILIARY[name]
    array = np.full((ROWS, *shape), 1, layertap.store.format.layout.DTYPES[dtype])
    if array.dtype.kind in "fc":
        array[:] = np.nan
    if dtype == "uint64":
        array[:] = 2**64 - 1
    auxiliary = AUXILIARY | {name: (shape, dtype)}
    make(tmp_path / "v", auxiliary=auxiliary, values={name: array})
    use(tmp_path / "v")


@pytest.mark.parametrize("depth", [100, 450, 900, 950, 980])
@pytest.mark.parametrize("where", ["labels", "identity", "plan", "root", "array"])
def test_deeply_nested_metadata(store, where, depth):
    deep = "[" * depth + '"labels/digit"' + "]" * depth
    ours, name = store.ours(), "zarr.json"
    holder = {"labels": ours["identity"], "identity": ours["identity"]}.get(where, ours)
    if where == "plan":
        ours["plan"]["model"] = "@"
    elif where != "array":
        holder["labels" if where == "labels" else "more"] = "@"
    store.put_root(ours)
    if where == "array":
        metadata, name = store.metadata("ids"), "ids/zarr.json"
        metadata["attributes"]["layertap"]["deep"] = "@"
        store.put_metadata("ids", metadata)
    content = (store.path / name).read_text()
    assert content.count('"@"') == 1
    store.put(name, content.replace('"@"', deep).encode())
    use(store.path)


# Many and long.

MANY = {
    "one array twice": [*(f"a{i}" for i in range(100_000)), "a0"],
    "many arrays": [f"a{i}" for i in range(100_000)],
    "groups in groups": ["a/" * 300_000 + "a"],
    "a long name": ["a" * 10_000_000],
}


@pytest.mark.parametrize("arrays", MANY.values(), ids=MANY)
def test_names_of_arrays(store, arrays):
    ours = store.ours()
    store.put_root(ours | {"arrays": arrays})
    assert "open" in use_alone(store.path, verify=False)


LONG = {"words": "x " * 500_000, "lines": "\n" * 500_000, "a word": "x" * 10**6}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_names_that_fill_the_screen(store, text):
    ours = store.ours()
    ours["plan"]["model"] = text
    ours["plan"]["joins"][0]["branches"][0]["made_by"] = text
    store.put_root(ours)
    use_alone(store.path, verify=False)


# Sizes.


def crc32c(data):
    sum_ = 0xFFFFFFFF
    for byte in data:
        sum_ ^= byte
        for _ in range(8):
            sum_ = (sum_ >> 1) ^ (0x82F63B78 if sum_ & 1 else 0)
    return sum_ ^ 0xFFFFFFFF


# The bytes of a row; those of its chunk. All of the file but the index is a hole.
SHARDS = {
    "a huge row": (2**40, 2**40 + 4, None),
    "a row too large for memory": (5 * 2**30, 5 * 2**30 + 4, None),
    "a small row in a huge chunk": (6, 2**42, None),
    "a small row in a huge chunk, compressed": (6, 2**42, "zstd"),
    "a huge row in a small chunk, compressed": (5 * 2**30, 2**19, "zstd"),
    "a huge row in a huge chunk, compressed": (5 * 2**30, 5 * 2**30, "zstd"),
}


@pytest.mark.parametrize("claimed", SHARDS.values(), ids=SHARDS)
def test_huge_shards_with_a_right_index(store, claimed):
    """Everything agrees with such a size. One number of the row is read, too."""
    row, length, compression = claimed
    sizes = {"rows": 1, "block_rows": 1, "chunk_rows": 1, "digests": "0" * 16}
    for array in store.ours()["arrays"]:
        shape = {}
        if array == "words/out":
            shape = {"shape": (row,), "dtype": "uint8", "compression": compression}
        store.claim(array, **sizes, **shape)
    ours = store.ours() | {"rows": 1}
    ours["plan"]["outputs"][0] |= {"shape": [None, row], "dtype": "uint8"}
    store.put_root(ours)
    index = struct.pack("<QQ", 0, length)
    index += struct.pack("<I", crc32c(index))
    store.put("words/out/c.0.0.0", b"")
    with (store.path / "words/out/c.0.0").open("wb") as shard:
        shard.seek(length)
        shard.write(index)
    assert "one of words/out" in use_alone(store.path, verify=False)


def test_long_ids(tmp_path):
    """NumPy needs four bytes for each character of a text, and the disk much less."""
    wide = np.full((ROWS, 2**25), ord("a"), "uint8")
    make(
        tmp_path / "v",
        auxiliary=AUXILIARY | {"ids": ((2**25,), "uint8")},
        values={"ids": wide},
        compression="zstd",
    )
    use_alone(tmp_path / "v", verify=False, gib=1)


def test_a_valid_store_in_a_process_of_its_own(store):
    """The limits of such a process suffice for a valid store."""
    problems = use_alone(store.path)
    assert {name.split(" of ")[0] for name in problems} == {
        "lengths",
        "no value",
        "no join",
    }


@pytest.mark.parametrize("digits", [4299, 4300, 4301])
@pytest.mark.parametrize("key", ["rows", "format"])
def test_numbers_of_many_digits(store, key, digits):
    ours = json.dumps(store.ours() | {key: "@"}).replace('"@"', "9" * digits)
    store.put("zarr.json", f'{{"attributes": {{"layertap": {ours}}}}}'.encode())
    assert "open" in use(store.path)
