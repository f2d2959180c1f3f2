"""Plans are records: they count, they print, and they survive JSON."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from layertap.core.plan import (
    Branch,
    Ignored,
    Join,
    Output,
    Plan,
    Recipe,
    Refused,
    itemsize,
)
from layertap.errors import AddressError

# Four bytes a number: 40 in left, 24 in right; the second join has them joined, and
# left again.
FIRST = Join(
    "fusion",
    "concatenate",
    1,
    (None, 16),
    "float32",
    (
        Branch("fusion/in/0", "left", (None, 10), "float32"),
        Branch("fusion/in/1", "right", (None, 6), "float32"),
    ),
)
SECOND = Join(
    "outer",
    "concatenate",
    1,
    (None, 26),
    "float32",
    (
        Branch("outer/in/0", "fusion", (None, 16), "float32", "fusion/out"),
        Branch("outer/in/1", "left", (None, 10), "float32", "fusion/in/0"),
    ),
)
PLAN = Plan(
    "two",
    (FIRST, SECOND),
    (Output("head/out", "head", (None, 2, 3), "bfloat16"),),
    (Refused("rnn/cell/in/0", "it is computed inside a loop"),),
    {
        "outer/in/0": Recipe(("fusion/in/0", "fusion/in/1"), 1),
        "outer/in/1": Recipe(("fusion/in/0",)),
    },
)
OPEN = replace(
    PLAN, outputs=(Output("maps/out", "maps", (None, None, 7, None), "uint8"),)
)


LESS = replace(
    PLAN,
    dtype="float16",
    reduce="max",
    narrowed={"fusion/in/0": "float32"},
    padded={"head/out": (1, 2)},
    ignored=(Ignored("tf.concat", "concatenate", "it is of booleans: a mask"),),
)


def test_ignored_joins_are_counted_below_the_table():
    assert "1 join left out, not joining data" in str(LESS)
    assert "left out" not in str(PLAN)


@pytest.mark.parametrize("plan", [PLAN, OPEN, LESS, Plan("empty", ())])
def test_round_trip_through_json(plan):
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_aliases_are_not_counted():
    assert PLAN.addresses == [
        "fusion/in/0", "fusion/in/1", "outer/in/0", "outer/in/1", "head/out",
    ]  # fmt: skip
    stored = [value.address for value in PLAN.stored]
    assert stored == ["fusion/in/0", "fusion/in/1", "head/out"]
    assert [value.bytes_per_row for value in PLAN.values] == [40, 24, 64, 40, 12]
    assert PLAN.bytes_per_row == 40 + 24 + 12
    assert PLAN.to_json()["bytes_per_row"] == 76
    assert PLAN.to_json()["outputs"][0]["bytes_per_row"] == 12


def test_an_unknown_size_leaves_the_bytes_unknown():
    assert OPEN.outputs[0].bytes_per_row is None
    assert OPEN.bytes_per_row is None
    assert OPEN.to_json()["bytes_per_row"] is None
    line = next(line for line in str(OPEN).splitlines() if "maps/out" in line)
    assert "(rows, ?, 7, ?)" in line
    assert "? per row." in " ".join(str(OPEN).split())


def test_a_value_without_further_axes_has_one_number_a_row():
    assert Branch("a/in/0", "x", (None,), "int64").bytes_per_row == 8


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("float32", 4), ("float16", 2), ("bfloat16", 2), ("int8", 1), ("bool", 1)],
)
def test_bytes_of_a_number(dtype, size):
    assert itemsize(dtype) == size


def test_the_table_shows_all_values():
    text = str(PLAN)
    for words in (
        "Plan of two",
        "fusion/in/0",
        "(rows, 10)",
        "left",
        "= fusion/out",
        "= fusion/in/0",
        "head/out",
        "(rows, 2, 3)",
        "bfloat16",
        "rnn/cell/in/0",
        "5 values, 3 of them stored: 76 bytes per row",
    ):
        assert words in text
    for words in ("refused:", "inside a", "loop"):
        assert words in text


def test_the_table_names_reduction_dtype_and_padding():
    for words in (
        "reduced: max",
        "floating numbers stored as float16",
        "1 of them padded to the shapes shown",
    ):
        assert words in str(LESS)
        assert words not in str(PLAN)


def test_json_without_options_is_a_plan_without_them():
    data = PLAN.to_json()
    for name in ("dtype", "reduce", "narrowed", "padded"):
        del data[name]
    assert Plan.from_json(data) == PLAN


def test_the_table_for_so_many_rows():
    console = Console(file=io.StringIO(), width=200)
    console.print(PLAN.table(1500))
    assert "114.0 kB for 1,500 rows" in console.file.getvalue()


def test_names_are_not_read_as_markup():
    branch = Branch("a[red]b/in/0", "[/bold]", (None, 1), "float32")
    text = str(Plan("[red]m", (replace(FIRST, branches=(branch,)),)))
    assert "a[red]b/in/0" in text
    assert "[/bold]" in text
    assert "[red]m" in text


def test_html_has_the_table_and_escapes_names():
    html = PLAN._repr_html_()
    assert "<table>" in html
    assert "head/out" in html
    angle = Plan("<script>", (FIRST,))._repr_html_()
    assert "<script>" not in angle


def test_a_join_by_its_path():
    assert PLAN.join("outer") is SECOND
    with pytest.raises(AddressError, match=r"'two'.*Did you mean 'outer'"):
        PLAN.join("oute")


@pytest.mark.parametrize("missing", ["model", "joins", "outputs", "refused", "recipes"])
def test_json_that_lacks_a_part_is_an_error(missing):
    data = PLAN.to_json()
    del data[missing]
    with pytest.raises(KeyError, match=missing):
        Plan.from_json(data)
