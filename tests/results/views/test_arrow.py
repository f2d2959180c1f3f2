"""Record batches of Arrow hold what a store holds, to the bit, in bounded batches."""

import json

import numpy as np
import pyarrow as pa
import pytest

from layertap.core.plan import Output, Plan
from layertap.errors import OptionError
from layertap.results.views import arrow
from tests.support.export_stores import (
    CLASSES,
    IDS,
    ROWS,
    assert_same,
    expected_of,
    plan_of,
    store,
    widened,
)


def test_a_table_has_all_columns(tmp_path):
    labels = {"kind": np.arange(ROWS) % 3, "box": np.ones((ROWS, 4), "float32")}
    weights = np.linspace(0, 1, ROWS)
    saved, stored = store(
        *(tmp_path / "values.zarr", plan_of()),
        ids=IDS,
        labels=labels,
        sample_weight=weights,
        class_names=CLASSES,
    )
    table = saved.to_arrow().read_all()
    expected = expected_of(saved.plan, stored)
    assert set(table.column_names) == set(expected)
    assert table.column_names[: len(saved.plan.known)] == saved.plan.known
    for name, array in expected.items():
        if name == "ids":
            assert table[name].to_pylist() == IDS
            continue
        found = table[name].combine_chunks()
        if pa.types.is_fixed_size_list(found.type):
            found = found.flatten()
        flat = np.asarray(found.to_numpy(zero_copy_only=False)).reshape(array.shape)
        assert_same(flat, widened(array), name)
    fields = {field.name: field for field in table.schema}
    facts = fields["fusion/in/1"].metadata
    assert json.loads(facts[b"shape"]) == [3, 2, 5]
    assert facts[b"made_by"] == b"my feel"
    assert table.schema.metadata == {b"model": b"zoo"}


def test_batches_are_bounded(tmp_path, monkeypatch):
    saved, _ = store(tmp_path / "values.zarr", plan_of(["float32"]), labels=None)
    # Each row of its values has 101 numbers of 4 bytes, and two true sizes each.
    monkeypatch.setattr(arrow, "_BATCH_BYTES", 10_000)
    sizes = [len(batch) for batch in saved.to_arrow()]
    assert sum(sizes) == ROWS
    assert max(sizes) * 400 <= 10_000
    assert len(sizes) > 2


def test_complex_numbers_are_refused_by_name(tmp_path):
    plan = Plan("zoo", (), (Output("wave/out", "wave", (None, 3), "complex64"),))
    saved, _ = store(tmp_path / "values.zarr", plan)
    with pytest.raises(OptionError, match="wave/out has complex numbers"):
        saved.to_arrow()
