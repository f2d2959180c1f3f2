"""The page of a recording has its steps, which a slider shows in turn."""

import types

import numpy as np
import pytest

import layertap
from layertap.core.plan import Plan
from layertap.errors import OptionError
from layertap.pages import training
from layertap.pages.facts import page_facts
from layertap.pages.training import frames
from tests.pages.test_facts import made, vectors
from tests.pages.test_report import HOSTILE, page_of
from tests.support.export_stores import store


def steps_of(folder, steps, plan=None, **along):
    """Stores with other values at each step, as a recording has them."""
    found, numbers = {}, {}
    for step in steps:
        (folder / f"{step}").mkdir()
        found[step], numbers[step] = made(folder / f"{step}", plan, seed=step, **along)
    return found, numbers


def test_frames_have_the_numbers_of_their_steps(tmp_path):
    stores, numbers = steps_of(tmp_path, [3, 12, 40])
    found = frames(stores, page_facts(stores[40]))
    assert [frame.step for frame in found] == [3, 12, 40]
    for frame in found:
        arrays = [numbers[frame.step][f"fusion/in/{n}"] for n in (0, 1)]
        squares = [(array.astype("float64") ** 2).sum() for array in arrays]
        for value, array, square in zip(frame.values, arrays, squares, strict=True):
            assert value.norm == pytest.approx(square / sum(squares), rel=1e-6)
            counts, _ = np.histogram(array, value.histogram.edges)
            assert value.histogram.counts.tolist() == counts.tolist()
            mean = array.astype("float64").mean()
            assert value.statistics.total.mean == pytest.approx(mean, abs=1e-6)
    for value in range(2):
        edges = [frame.values[value].histogram.edges for frame in found]
        np.testing.assert_array_equal(edges[0], edges[2])


def test_rows_are_in_the_plane_of_the_last_step(tmp_path):
    stores, numbers = steps_of(tmp_path, [1, 2])
    first, last = frames(stores, page_facts(stores[2]))
    one, other = (numbers[s]["fusion/in/0"].astype("float64") for s in (1, 2))
    centre = other.mean(axis=0)
    _, _, components = np.linalg.svd(other - centre, full_matrices=False)
    for frame, rows in ((first, one), (last, other)):
        expected = (rows - centre) @ components[:2].T
        points = frame.values[0].points
        np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-8)


def test_of_many_steps_some_are_shown_with_the_first_and_the_last(tmp_path):
    stores, _ = steps_of(tmp_path, range(2, 62, 2))
    found = [frame.step for frame in frames(stores, page_facts(stores[60]))]
    assert len(found) == 24
    assert (found[0], found[-1]) == (2, 60)
    assert set(np.diff(found)) == {2, 4}


def test_of_many_values_few_are_shown(tmp_path):
    stores, _ = steps_of(tmp_path, range(30), vectors([2] * 60))
    found = frames(stores, page_facts(stores[29]))
    assert len(found) == 10
    assert all(len(frame.values) == 24 for frame in found)
    assert all(value.points is None for value in found[0].values)
    assert "36 values without frames." in page_of(stores, tmp_path).text


def test_a_value_that_a_step_lacks_is_left_out_there(tmp_path):
    (tmp_path / "old").mkdir()
    old, _ = made(tmp_path / "old", vectors((4,)))
    new, _ = made(tmp_path)
    first, last = frames({1: old, 2: new}, page_facts(new))
    assert [value.address for value in first.values] == ["fusion/in/0"]
    # Another width: no plane has both, and a join with one branch less no share.
    assert first.values[0].points is None
    assert first.values[0].norm is None
    assert len(last.values) == 2


def test_steps_with_nan(tmp_path):
    plan = vectors((3, 3))
    sick = {v.address: np.full((9, 3), np.nan, "float32") for v in plan.stored}
    bad, _ = store(tmp_path / "nan.zarr", plan, rows=9, values=sick)
    good, _ = made(tmp_path, plan, rows=9)
    first, last = frames({1: bad, 2: good}, page_facts(good))
    assert [value.histogram for value in first.values] == [None, None]
    assert first.values[0].points is None
    assert last.values[0].histogram.counts.sum() == 27
    page_of({1: good, 2: bad}, tmp_path)


def test_the_page_names_steps_epochs_and_logs(tmp_path):
    stores, _ = steps_of(tmp_path, [5, 1200], labels=np.arange(50) % 3)

    class Named(dict):
        path, epochs = f"here/{HOSTILE[0]}", {5: 1, 1200: 2}
        logs = types.MappingProxyType(
            {5: {"loss": 1.23456, "auc": [0.1, 0.2]}, 1200: {HOSTILE[1]: 0.5}}
        )

    page = page_of(Named(stores), tmp_path)
    assert "two: script>" in page.text
    assert "step 5, epoch 1: loss 1.235" in page.text
    assert f"step 1,200, epoch 2: {HOSTILE[1]} 0.5" in page.text
    assert page.tags.count("input") == 2
    assert [name for name, _ in page.attributes].count("checked") == 1


def test_a_recording_without_steps(tmp_path):
    with pytest.raises(OptionError, match="The recording is empty"):
        layertap.report({}, tmp_path / "page.html")
    with pytest.raises(OptionError, match="The path of the store is invalid"):
        layertap.report(3, tmp_path / "page.html")


def test_rows_that_only_some_steps_have(tmp_path, monkeypatch):
    (tmp_path / "short").mkdir()
    short, _ = made(tmp_path / "short", rows=10)
    long, _ = made(tmp_path)
    first, last = frames({1: short, 2: long}, page_facts(long))
    assert last.places.tolist() == [*range(10)]
    assert first.values[0].points.shape == (10, 2)
    monkeypatch.setattr(training, "_ALL_POINTS", 8)
    first, _ = frames({1: short, 2: long}, page_facts(long))
    assert first.values[0].points is None


def test_a_value_without_statistics(tmp_path):
    stores = {n: made(tmp_path, finish=False)[0] for n in (1,)}
    (frame,) = frames(stores, page_facts(stores[1]))
    assert frame.values == []
    assert isinstance(stores[1].plan, Plan)


def test_long_names_leave_room_for_fewer_points(tmp_path):
    ids = ['"' * 57 + f"{row:03d}" for row in range(300)]
    names = ["🐈" * 60, '"' * 59 + "b"]
    stores, _ = steps_of(
        *(tmp_path, range(24), vectors([4] * 5)),
        **{"rows": 300, "ids": ids, "labels": np.arange(300) % 2, "class_names": names},
    )
    # It is less than 2 MB.
    page = page_of(stores, tmp_path)
    assert page.tags.count("circle") > 24 * 20


@pytest.mark.parametrize("scale", [1, 1e200])
def test_shares_of_numbers_of_any_size(tmp_path, scale):
    plan, stores = vectors((2, 2), "float64"), {}
    numbers = {"fusion/in/0": [[3.0, 4.0]] * 9, "fusion/in/1": [[0.0, 5.0]] * 9}
    for step in (1, 2):
        values = {name: np.array(known) * scale for name, known in numbers.items()}
        path = tmp_path / f"{step}.zarr"
        stores[step], _ = store(path, plan, rows=9, values=values)
    known = [value.norm for value in frames(stores, page_facts(stores[2]))[0].values]
    assert known == ([None, None] if scale > 1 else pytest.approx([0.5, 0.5]))
    words = "? of the norm" if scale > 1 else "50% of the norm"
    assert words in page_of(stores, tmp_path).text


def test_the_page_says_which_steps_have_no_frame(tmp_path):
    class Killed(dict):
        path, missed, finished = "run", {7: "OSError"}, False

    stores, _ = steps_of(tmp_path, range(1, 31))
    page = page_of(Killed(stores), tmp_path)
    assert "Training 24 of 30 steps;" in page.text
    assert "1 step could not be recorded. The training had not finished." in page.text
    page = page_of({1: stores[1]}, tmp_path)
    assert "Training 1 step;" in page.text
    assert "recorded" not in page.text


@pytest.mark.slow
def test_the_page_says_that_frames_are_not_of_umap(tmp_path):
    stores, _ = steps_of(tmp_path, [1, 2])
    words = "Frames have principal components, not UMAP."
    assert words not in page_of(stores, tmp_path).text
    path = layertap.report(stores, tmp_path / "umap.html", projection="umap")
    assert words in path.read_text("utf-8")


def test_steps_are_stores_or_their_paths(tmp_path):
    stores, _ = steps_of(tmp_path, [1, 2])
    paths = {np.int64(step): saved.path for step, saved in stores.items()}
    assert "Training 2 steps;" in page_of(paths, tmp_path).text
    with pytest.raises(OptionError, match="Received 'one'"):
        layertap.report({"one": stores[1]}, tmp_path / "other.html")
    # Of an earlier step, too.
    inside = tmp_path / "1" / "values.zarr" / "page.html"
    with pytest.raises(OptionError, match="is inside the store"):
        layertap.report(stores, inside)
