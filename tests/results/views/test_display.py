"""The displays of stores, values and arrays show the numbers that are in the store."""

import json
from dataclasses import replace

import numpy as np
import pytest

import layertap
from layertap.core.plan import Branch, Join, Output, Plan
from layertap.core.values import Values
from tests.support.displays import HOSTILE, Display
from tests.support.export_stores import IDS, ROWS, plan_of, store
from tests.support.hostile import BLOCK_ROWS, Store, make
from tests.support.store_bucket import Bucket

RANDOM = np.random.default_rng(5)
VALUES = {
    "fusion/in/0": RANDOM.normal(size=(11, 4)).astype("float16"),
    "fusion/in/1": np.stack([np.zeros(11), np.arange(11)], 1).astype("float16"),
    "words/out": np.arange(66, dtype="int32").reshape(11, 3, 2),
    "overflowed": np.array([[0, 2]] * 11, "int32"),
}
VALUES["fusion/in/0"][3, 1] = np.nan
VALUES["fusion/in/0"][4, 2] = np.inf


@pytest.fixture
def path(tmp_path):
    make(tmp_path / "v", values=VALUES)
    return tmp_path / "v"


def expected(name):
    """Returns the numbers of a value of the store, of rebuilt ones too."""
    if name == "outer/in/0":
        return np.concatenate([VALUES["fusion/in/0"], VALUES["fusion/in/1"]], 1)
    return VALUES["fusion/in/0" if name == "outer/in/1" else name]


def test_a_store_says_all_about_itself(path):
    saved = layertap.open(path)
    shown = Display(saved._repr_html_())
    assert shown.of("lt-heading") == [f"layertap.Saved {path}"]
    facts = {name: fact.text for name, fact in shown.facts.items()}
    files = [f for name in saved.reader.paths for f in (path / name).iterdir()]
    size = sum(file.stat().st_size for file in files)
    assert facts.pop("on disk") == f"{size / 1000:.1f} kB"
    assert facts == {
        "rows": "11",
        "complete": "yes",
        "labels": "digit: (rows) int64\nmore/0: (rows, 2) float32\n"
        "more/1/0: (rows) bool",
        "ids": "text: row-00, row-01, row-02, …",
        "overflowed": "fusion/in/1: 22 numbers became infinite",
        "missing": "cell/in/0: it is computed inside a loop",
    }
    # Not twice.
    assert shown.page.text.count("computed inside a loop") == 1


def test_every_number_is_that_of_the_store(path):
    saved = layertap.open(path)
    shown = Display(saved._repr_html_())
    columns = {heading: shown.column(heading) for heading in shown.headers}
    assert list(columns["dtype"]) == [
        *("fusion", "fusion/in/0", "fusion/in/1", "outer", "outer/in/0", "outer/in/1"),
        "words/out",
    ]
    for name in saved:
        array = expected(name)
        cells = {heading: column[name] for heading, column in columns.items()}
        finite = array[np.isfinite(array)].astype("float64")
        assert cells["mean"].text == f"{finite.mean():.4g}"
        assert cells["deviation"].text == f"{finite.std():.4g}"
        assert cells["NaN"].text == f"{np.isnan(array).sum()}"
        assert cells["infinite"].text == f"{np.isinf(array).sum()}"
        assert cells["shape"].text == f"(rows, {', '.join(map(str, array.shape[1:]))})"
        assert cells["dtype"].text == str(array.dtype)
        (picture,) = cells["histogram"].all("svg")
        broken = array.size - finite.size
        assert picture.attributes["aria-label"] == (
            f"{array.size} numbers{f', {broken} not finite' * bool(broken)}, "
            f"from {finite.min():.4g} to {finite.max():.4g}"
        )
    assert columns["dead units"]["fusion/in/1"].text == "1 of 2"
    assert columns["bytes/row"]["words/out"].text == "24"
    assert columns["bytes/row"]["outer/in/0"].text == "0"


def test_statistics_are_a_table(path):
    saved = layertap.open(path)
    shown = Display(saved.statistics._repr_html_())
    assert [row[0] for row in shown.rows] == list(saved)
    maxima = shown.column("maximum")
    for name in saved:
        array = expected(name)
        largest = array[np.isfinite(array)].max()
        assert maxima[name].text == f"{float(largest):.4g}"
        line = next(n for n in str(saved.statistics).splitlines() if name in n)
        assert maxima[name].text in line.split()


def test_a_store_that_is_not_complete(tmp_path):
    make(tmp_path / "v", complete=False)
    shown = Display(layertap.open(tmp_path / "v")._repr_html_())
    assert shown.facts["complete"].text == "no: repeat the save"
    assert "mean" not in shown.headers
    assert len(shown.page.all("svg")) == 5


def test_a_store_without_anything_else(tmp_path):
    saved, _ = store(tmp_path / "v")
    shown = Display(saved._repr_html_())
    assert list(shown.facts) == ["rows", "complete", "on disk"]


def test_a_store_without_rows(tmp_path):
    saved, _ = store(tmp_path / "v", rows=0, ids=IDS[:0] or None)
    shown = Display(saved._repr_html_())
    assert shown.facts["rows"].text == "0"
    assert shown.pictures == []
    assert len(shown.rows) == 2 + len(saved.plan.known)


def test_300_values_are_folded(tmp_path):
    outputs = [Output(f"d{n}/out", f"d{n}", (None, 2), "float32") for n in range(300)]
    saved, _ = store(tmp_path / "v", Plan("many", (), tuple(outputs)), rows=5)
    shown = Display(saved._repr_html_())
    assert [row[0] for row in shown.rows] == list(saved)
    assert [node.text for node in shown.page.all("summary")] == ["280 more rows"]
    assert len(shown.pictures) == 50


@pytest.mark.parametrize("damage", ["flipped", "deleted", "cut"])
def test_what_is_damaged_has_no_picture(path, damage):
    shards = [*(path / "fusion/in/0").glob("c.*")]
    assert len(shards) == -(-11 // BLOCK_ROWS)
    for shard in shards:
        content = bytearray(shard.read_bytes())
        if damage == "deleted":
            shard.unlink()
        elif damage == "cut":
            shard.write_bytes(content[:3])
        else:
            shard.write_bytes(bytes(byte ^ 255 for byte in content))
    (path / "ids" / shards[0].name).unlink()
    saved = layertap.open(path)
    shown = Display(saved._repr_html_())
    pictures = shown.column("histogram")
    drawn = [name for name in saved if pictures[name].all("svg")]
    assert drawn == ["fusion/in/1", "words/out"]
    assert shown.facts["ids"].text == "text"
    assert shown.column("mean")["fusion/in/0"].text not in ("", "nan")
    array = Display(saved["fusion/in/0"]._repr_html_())
    assert "histogram" not in array.facts
    assert array.facts["dtype"].text == "float16"


def test_damaged_statistics_are_left_out(path):
    stored = Store(path)
    ours = stored.ours()
    ours["statistics"] = {"words/out": "?"}
    stored.put_root(ours)
    shown = Display(layertap.open(path)._repr_html_())
    assert "mean" not in shown.headers
    assert len(shown.rows) == 7


def test_complex_numbers_and_nan_alone(tmp_path):
    outputs = (
        Output("c/out", "c", (None, 2), "complex64"),
        Output("n/out", "n", (None, 2), "float32"),
    )
    values = {
        "c/out": np.full((5, 2), 3 + 4j, "complex64"),
        "n/out": np.full((5, 2), np.nan, "float32"),
    }
    saved, _ = store(tmp_path / "v", Plan("m", (), outputs), rows=5, values=values)
    labels = ["10 absolute values, all 5", "10 numbers, 10 not finite"]
    assert Display(saved._repr_html_()).pictures == labels
    assert Display(Values(saved.plan, values)._repr_html_()).pictures == labels
    assert Display(saved["c/out"]._repr_html_()).pictures == labels[:1]


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_store_says_is_shown_as_text(path, text):
    stored = Store(path)
    ours = stored.ours()
    plan = ours["plan"]
    plan["model"] = plan["reduce"] = text
    plan["joins"][0]["branches"][0]["made_by"] = text
    plan["joins"][1]["branches"][0]["alias_of"] = text
    plan["refused"] = [{"address": text, "reason": text}]
    ours["identity"]["labels"] = {text: "labels/digit"}
    ours["identity"]["sample_weight"] = {text: ["labels/more/0"]}
    ours["notes"] = {
        "class_names": [text, text],
        "skipped": {text: text},
        "not_used": [text],
    }
    stored.put_root(ours)
    saved = layertap.open(path)
    shown = Display(saved._repr_html_())
    safe = "".join(c if c.isprintable() else "\ufffd" for c in text)
    facts = {name: fact.text for name, fact in shown.facts.items()}
    assert facts["classes"] == f"2: {safe}, {safe}"
    assert facts["labels"] == f"{safe}: (rows) int64"
    assert facts["sample weights"] == f"{safe}/0: (rows, 2) float32"
    assert facts["skipped"] == facts["missing"] == f"{safe}: {safe}"
    assert facts["not used"] == safe
    assert shown.column("made by")["fusion/in/0"].text == safe
    for shows in (saved.statistics, saved.plan, next(saved.batches(5))):
        assert safe in Display(shows._repr_html_()).page.text


def test_hostile_ids_are_text(tmp_path):
    saved, _ = store(tmp_path / "v", ids=[f"{n}{HOSTILE[0]}" for n in range(ROWS)])
    first = ", ".join(f"{n}{HOSTILE[0]}" for n in range(3))
    assert Display(saved._repr_html_()).facts["ids"].text == f"text: {first}, …"


def test_values_in_memory(path):
    values = next(layertap.open(path).batches(5))
    shown = Display(values._repr_html_())
    assert shown.facts["rows"].text == "5"
    assert shown.facts["labels"].text.startswith("digit: (rows) int64\n")
    assert shown.facts["missing"].text == "cell/in/0: it is computed inside a loop"
    pictures = shown.column("histogram")
    for name in values:
        (picture,) = pictures[name].all("svg")
        label = picture.attributes["aria-label"]
        finite = values[name][np.isfinite(values[name])].astype(float)
        assert label.startswith(f"{values[name].size} numbers")
        assert label.endswith(f"from {finite.min():.4g} to {finite.max():.4g}")


def test_few_rows_of_values_in_memory_are_joined(monkeypatch):
    plan = replace(plan_of(()), padded={}, derived=(), outputs=())
    wide = {
        v.address: RANDOM.normal(size=(3000, *v.shape[1:])).astype("float32")
        for v in plan.stored
    }
    joined = []
    concatenate = np.concatenate

    def count(parts, axis=0):
        joined.append(len(parts[0]))
        return concatenate(parts, axis)

    monkeypatch.setattr("layertap.core.values.np.concatenate", count)
    shown = Display(Values(plan, wide, labels=[1, 2])._repr_html_())
    assert max(joined) == 64
    both = shown.column("histogram")["again/in/1"].all("svg")[0]
    label = both.attributes["aria-label"]
    assert label.startswith(f"2,000 of {3000 * 6 * 9:,} numbers, from ")
    assert shown.facts["labels"].text == "0: (rows) int\n1: (rows) int"


def test_an_array_on_disk(tmp_path):
    saved, arrays = store(tmp_path / "v")
    shown = Display(saved["fusion/in/0"]._repr_html_())
    array = arrays["fusion/in/0"]
    facts = {name: fact.text for name, fact in shown.facts.items()}
    assert shown.of("lt-heading") == ["layertap.LazyArray fusion/in/0"]
    assert facts["rows"] == f"{ROWS}"
    assert facts["shape"] == "(rows, 3, 2, 4)"
    assert facts["dtype"] == "float32"
    assert facts["in memory"] == "4.8 kB"
    assert facts["in one file"] == f"up to {saved.reader.block_rows} rows"
    assert facts["compression"] == "none"
    svg, *maps = shown.pictures
    finite = array[np.isfinite(array)].astype("float64")
    assert svg.endswith(f"from {finite.min():.4g} to {finite.max():.4g}")
    assert len(maps) == 4
    # In the table of the store, there is no picture of maps.
    assert not Display(saved._repr_html_()).page.all("img")


def test_an_array_that_is_joined(tmp_path):
    saved, arrays = store(tmp_path / "v")
    shown = Display(saved["again/in/1"]._repr_html_())
    assert shown.of("lt-heading") == ["layertap.JoinedArray"]
    parts = "fusion/in/0, fusion/in/1; along axis 3"
    assert shown.facts["joined of"].text == parts
    both = np.concatenate([arrays["fusion/in/0"], arrays["fusion/in/1"]], 3)
    assert f"of {both.size:,} numbers" in shown.pictures[0]
    array = saved["again/in/1"]
    parts = [saved["fusion/in/0"], saved["fusion/in/1"]]
    assert array.chunk_bytes == sum(p.chunk_rows * p[0].nbytes for p in parts)
    assert array.chunk_rows == min(p.chunk_rows for p in parts)
    assert len(shown.pictures) == 5


def test_of_a_bucket_nothing_is_read(object_store):
    place = Bucket.new(object_store)
    make(place.path, values=VALUES)
    saved = layertap.open(place.path)
    shown = Display(saved._repr_html_())
    assert shown.pictures == []
    assert shown.facts["ids"].text == "text"
    assert shown.column("mean")["words/out"].text == "32.5"
    assert Display(saved["words/out"]._repr_html_()).pictures == []
    assert Display(saved["outer/in/0"]._repr_html_()).pictures == []


def test_a_notebook_holds_them_as_outputs(path):
    """What a kernel sends: a text and HTML, both of which JSON can hold."""
    saved = layertap.open(path)
    values = next(saved.batches(5))
    branches = (Branch("f/in/0", "a", (None, 2), "float32"),)
    plan = replace(
        plan_of(), joins=(Join("f", "add", None, (None, 2), "int8", branches),)
    )
    report = layertap.verify(path)
    for shown in (saved, values, saved.plan, plan, report, saved.statistics):
        data = {"text/plain": repr(shown), "text/html": shown._repr_html_()}
        assert Display(json.loads(json.dumps(data))["text/html"]).rows
