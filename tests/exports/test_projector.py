"""The files for the embedding projector, read as it reads them."""

import numpy as np
import pytest

import layertap
from tests.support.export_stores import (
    CLASSES,
    IDS,
    REAL,
    ROWS,
    bits,
    expected_of,
    plan_of,
    store,
    widened,
)

INTEGERS = (np.arange(ROWS) % 4).astype("int32")


def read(path):
    return [line.split("\t") for line in path.read_text("utf-8").split("\n")[:-1]]


def test_numbers_are_read_back_to_the_bit_in_the_order_of_the_plan(tmp_path):
    saved, stored = store(tmp_path / "v")
    layertap.export(saved, tmp_path / "x.tsv")
    lines = read(tmp_path / "x.tsv")
    assert len(lines) == ROWS
    expected = expected_of(saved.plan, stored)
    start = 0
    for name in saved.plan.known:
        array = widened(expected[name]).reshape(ROWS, -1)
        end = start + array.shape[1]
        texts = [line[start:end] for line in lines]
        number = int if array.dtype.kind in "iub" else array.dtype.type
        found = np.array([[number(text) for text in row] for row in texts], array.dtype)
        # The text of NaN is `nan`, whatever its bits are.
        same = array.view(f"u{array.itemsize}") == found.view(f"u{array.itemsize}")
        nan = np.isnan(array) & np.isnan(found) if array.dtype.kind == "f" else False
        assert (same | nan).all(), name
        start = end
    assert all(len(line) == start for line in lines)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_texts_are_the_shortest(tmp_path, dtype):
    plan = plan_of([dtype])
    numbers = np.array([[0.1, 1 / 3, 1e-7]] * ROWS).astype(dtype)
    values = {v.address: bits((ROWS, *v.shape[1:]), v.dtype) for v in plan.stored}
    values[f"of_{dtype}/out"] = numbers
    saved, _ = store(tmp_path / "v", plan, values=values)
    layertap.export(saved, tmp_path / "x.tsv", addresses=f"of_{dtype}/out")
    assert (
        read(tmp_path / "x.tsv")[0]
        == {
            "float16": ["0.1", "0.3333", "1e-07"],
            "float32": ["0.1", "0.33333334", "1e-07"],
            "float64": ["0.1", "0.3333333333333333", "1e-07"],
        }[dtype]
    )


def test_booleans_are_0_and_1(tmp_path):
    saved, stored = store(tmp_path / "v")
    layertap.export(saved, tmp_path / "x.tsv", addresses="of_bool/out")
    expected = stored["of_bool/out"].astype(int).astype(str).tolist()
    assert read(tmp_path / "x.tsv") == expected


def metadata_of(tmp_path, **along):
    saved, _ = store(tmp_path / "v", plan_of(REAL[:1]), **along)
    layertap.export(saved, tmp_path / "x.tsv", addresses="number/out")
    path = tmp_path / "x.metadata.tsv"
    return read(path) if path.exists() else None


def test_one_column_has_no_header(tmp_path):
    assert metadata_of(tmp_path, ids=IDS) == [[text] for text in IDS]


def test_several_columns_have_a_header_and_classes_their_names(tmp_path):
    lines = metadata_of(tmp_path, ids=IDS, labels=INTEGERS, class_names=CLASSES)
    assert lines[0] == ["ids", "labels"]
    names = ["cat", "dog", "a bird", "3"]
    assert lines[1:] == [[IDS[i], names[i % 4]] for i in range(ROWS)]


def test_labels_are_numbers_where_classes_have_no_names(tmp_path):
    lines = metadata_of(tmp_path, labels=INTEGERS)
    assert lines == [[str(i % 4)] for i in range(ROWS)]


def test_labels_in_a_structure_and_weights_are_columns(tmp_path):
    labels = {"kind": INTEGERS, "box": np.ones((ROWS, 2), "float32") / 3}
    weights = np.arange(ROWS) / 8
    lines = metadata_of(tmp_path, labels=labels, sample_weight=weights)
    assert lines[0] == ["labels/kind", "labels/box", "sample_weight"]
    assert lines[3] == ["2", "0.33333334 0.33333334", "0.25"]


def test_what_would_break_a_line_becomes_a_space(tmp_path):
    ids = ["a\tb", "c\nd", "e\r\nf", *IDS[3:]]
    lines = metadata_of(tmp_path, ids=ids)
    assert lines[:3] == [["a b"], ["c d"], ["e f"]]
    assert len(lines) == ROWS


def test_without_ids_and_labels_there_are_vectors_only(tmp_path):
    assert metadata_of(tmp_path) is None
