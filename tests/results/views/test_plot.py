"""Figures of saved values: their numbers, read back, are those of the store."""

import pickle
import sys

import numpy as np
import pytest

from layertap.core.plan import Branch, Derived, Join, Output, Plan
from layertap.errors import AddressError, BackendMissingError, OptionError
from layertap.results import views
from tests.support import export_stores, figures
from tests.support.figures import (
    drawn,
    ends_of,
    images_of,
    lines_of,
    steps_of,
    words_of,
)

ROWS = 40
RANDOM = np.random.default_rng(0)
LABELS = np.arange(ROWS) % 3


def rectified(*shape):
    return np.maximum(RANDOM.normal(size=(ROWS, *shape)), 0).astype("float32")


VALUES = {
    "number/out": RANDOM.normal(size=ROWS).astype("float32"),
    "vector/out": rectified(6),
    "wide/out": rectified(70),
    "sequence/out": rectified(9, 4) - 0.5,
    "maps/out": rectified(5, 7, 12),
    "first/out": rectified(3, 5, 7),
    "volume/out": rectified(2, 3, 2, 4),
    "flags/out": RANDOM.random((ROWS, 3)) > 0.3,
    "counts/out": RANDOM.integers(-2, 3, (ROWS, 4)).astype("int32"),
    "tokens/out": RANDOM.integers(0, 9999, (ROWS, 8)),
    "waves/out": (rectified(6) - 1j * rectified(6)).astype("complex64"),
    "spectra/out": (rectified(4, 4, 2) - 1j * rectified(4, 4, 2)).astype("complex64"),
    "vector/out_gradient": rectified(6) - 1,
}
VALUES["vector/out"][:, 2] = 1.5
VALUES["vector/out_gradient"][:5] = 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("plots")


def store(path, values, *, plan=None, rows=ROWS, **options):
    outputs = [
        Output(name, name.split("/")[0], (None, *array.shape[1:]), array.dtype.name)
        for name, array in values.items()
        if "gradient" not in name
    ]
    derived = [
        Derived(name, "vector", (None, *array.shape[1:]), array.dtype.name)
        for name, array in values.items()
        if "gradient" in name
    ]
    plan = plan or Plan(
        "zoo",
        (),
        tuple(outputs),
        derived=tuple(derived),
        gradients_of="loss" if derived else None,
        channels_first=("first/out",),
    )
    return export_stores.store(path, plan, rows=rows, values=values, **options)[0]


@pytest.fixture(scope="module")
def saved(folder):
    return store(folder / "plain.zarr", VALUES, statistics=True)


@pytest.fixture(scope="module")
def labelled(folder):
    names = ["cat", "$dog_1", "_bird"]
    path = folder / "labelled.zarr"
    return store(path, VALUES, labels=LABELS, class_names=names)


@pytest.fixture(autouse=True)
def nothing_shared_changes():
    with figures.untouched():
        yield


def test_a_vector_is_a_histogram_and_the_moments_of_its_units(saved):
    figure = saved.plot("vector/out")
    left, right = drawn(figure)
    array = VALUES["vector/out"].astype("float64")
    [(heights, edges)] = steps_of(left).values()
    np.testing.assert_array_equal(heights, np.histogram(array[array != 0], edges)[0])
    assert heights.sum() == np.count_nonzero(array)
    assert left.get_title() == f"240 numbers: {(array == 0).mean():.1%} zeros"
    assert left.get_xlabel() == "value"
    assert left.get_ylabel() == "numbers (zeros left out)"
    lines = lines_of(right)
    np.testing.assert_allclose(lines["mean"], array.mean(0), rtol=1e-6)
    np.testing.assert_allclose(lines["dead: 1 of 6 units"], [1.5])
    low, high = array.mean(0) - array.std(0), array.mean(0) + array.std(0)
    expected = np.stack([low, high], 1)
    np.testing.assert_allclose(ends_of(right), expected, rtol=1e-5, atol=1e-12)
    assert (right.get_xlabel(), right.get_ylabel()) == ("unit", "value")
    assert right.get_title() == "by unit: all rows"
    title = "vector/out, made by vector\nmodel zoo, float32 (rows, 6), 40 rows"
    assert figure.get_suptitle() == title


def test_each_class_has_its_histogram(labelled):
    left, _ = drawn(labelled.plot("vector/out"))
    steps = steps_of(left)
    assert [name.split(":")[0] for name in steps] == [
        *("class cat", "class $dog_1", "class _bird")
    ]
    assert words_of(left) == [*steps]
    for label, (name, (heights, edges)) in enumerate(steps.items()):
        array = VALUES["vector/out"][label == LABELS].astype("float64")
        expected = np.histogram(array[array != 0], edges)[0] / array.size
        np.testing.assert_allclose(heights, expected)
        assert name.endswith(f": {(array == 0).mean():.1%} zeros")
    assert left.get_ylabel() == "share of its numbers (zeros left out)"


@pytest.mark.parametrize(
    "labels",
    [np.arange(ROWS) % 11, np.zeros(ROWS, int), np.ones(ROWS), np.ones((ROWS, 2), int)],
    ids=["eleven classes", "one class", "floats", "pairs"],
)
def test_other_labels_split_nothing(tmp_path, labels):
    values = {"vector/out": VALUES["vector/out"]}
    left, _ = drawn(store(tmp_path / "s", values, labels=labels).plot("vector/out"))
    assert len(left.patches) == 1


def test_a_number_is_a_histogram_and_points_by_row(saved):
    left, right = drawn(saved.plot("number/out"))
    [(heights, _)] = steps_of(left).values()
    assert heights.sum() == ROWS
    [points] = right.get_lines()
    np.testing.assert_array_equal(points.get_xdata(), np.arange(ROWS))
    np.testing.assert_array_equal(points.get_ydata(), VALUES["number/out"])
    assert right.get_xlabel() == "row"


def test_few_rows_are_curves(saved):
    [ax] = drawn(saved.plot("vector/out", rows=[3, 30, 4]))
    expected = {f"row {row}": VALUES["vector/out"][row] for row in (3, 30, 4)}
    lines = lines_of(ax)
    assert list(lines) == words_of(ax) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(lines[name], array)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("unit", "value")
    [alone] = drawn(saved.plot("vector/out", rows=np.int64(7)))
    np.testing.assert_array_equal(lines_of(alone)["row 7"], VALUES["vector/out"][7])


def test_more_rows_are_a_heat_map(saved):
    figure = saved.plot("vector/out", rows=slice(1, None, 3))
    [image] = images_of(figure)
    np.testing.assert_array_equal(image, VALUES["vector/out"][1::3])
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("unit", "row")
    [ax] = drawn(figure)
    assert [text.get_text() for text in ax.get_yticklabels()][:3] == ["1", "7", "13"]


def test_sequences_are_heat_maps(saved):
    array = VALUES["sequence/out"]
    figure = saved.plot("sequence/out")
    [image] = images_of(figure)
    np.testing.assert_allclose(image, array.astype("float64").mean(0).T)
    labels = figure.get_supxlabel(), figure.get_supylabel()
    assert labels == ("time step", "unit")
    assert "mean of 40 rows" in figure.get_suptitle()
    figure = saved.plot("sequence/out", rows=LABELS == 0)
    panels = drawn(figure)
    # Both signs: white is zero.
    norm, highest = panels[0].images[0].norm, max(map(np.max, images_of(figure)))
    assert (norm.vmin, norm.vmax) == (-highest, highest)
    chosen = [0, 3, 9, 15, 21, 27, 33, 39]
    assert [ax.get_title() for ax in panels] == [f"row {row}" for row in chosen]
    for row, image in zip(chosen, images_of(figure), strict=True):
        np.testing.assert_array_equal(image, array[row].T)
    assert "8 of 14 rows" in figure.get_suptitle()


def test_maps_are_pictures_of_channels(saved):
    array = VALUES["maps/out"].astype("float64")
    figure = saved.plot("maps/out")
    images = images_of(figure)
    assert len(images) == 12
    for channel, image in enumerate(images):
        np.testing.assert_allclose(image, array.mean(0)[..., channel])
    assert drawn(figure)[5].get_title() == "channel 5"
    figure = saved.plot("maps/out", rows=[7, 2])
    varying = np.sort(np.argsort(-array[[7, 2]].var((0, 1, 2)))[:8])
    panels, images = drawn(figure), images_of(figure)
    assert [ax.get_title() for ax in panels[:8]] == [f"channel {c}" for c in varying]
    assert [panels[0].get_ylabel(), panels[8].get_ylabel()] == ["row 7", "row 2"]
    np.testing.assert_array_equal(images[11], array[2, ..., varying[3]])
    assert "the 8 of 12 channels that vary most" in figure.get_suptitle()
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("width", "height")


def test_channels_can_be_first(saved):
    images = images_of(saved.plot("first/out", rows=1))
    np.testing.assert_array_equal(images, VALUES["first/out"][1])


def test_more_axes_are_a_histogram(saved):
    array = VALUES["volume/out"].astype("float64")
    left, right = drawn(saved.plot("volume/out"))
    np.testing.assert_allclose(
        lines_of(right)["mean"], array.mean((0, 1, 2, 3)), rtol=1e-6
    )
    assert right.get_xlabel() == "unit (along axis 4)"
    left, right = drawn(saved.plot("volume/out", rows=[1, 5]))
    [(heights, _)] = steps_of(left).values()
    assert heights.sum() == np.count_nonzero(array[[1, 5]])
    assert right.get_title() == "by unit: 2 rows"


@pytest.mark.parametrize("name", ["flags/out", "counts/out"])
def test_a_few_integers_are_bars(saved, name):
    left, _ = drawn(saved.plot(name))
    distinct, counts = np.unique(VALUES[name], return_counts=True)
    [(heights, _)] = steps_of(left).values()
    np.testing.assert_array_equal(heights, counts)
    ticks = [text.get_text() for text in left.get_xticklabels()]
    assert ticks == [f"{int(number)}" for number in distinct]


def test_many_integers_are_a_histogram_with_zeros(saved):
    left, _ = drawn(saved.plot("tokens/out"))
    [(heights, _)] = steps_of(left).values()
    assert heights.sum() == ROWS * 8
    assert left.get_ylabel() == "numbers"


def test_complex_numbers_have_two_parts(saved):
    array = VALUES["waves/out"].astype("complex128")
    left, right = drawn(saved.plot("waves/out"))
    names = [name.split(":")[0] for name in steps_of(left)]
    assert names == ["real part", "imaginary part"]
    lines = lines_of(right)
    expected = array.real.mean(0)
    np.testing.assert_allclose(lines["mean of the real part"], expected, rtol=1e-6)
    [ax] = drawn(saved.plot("waves/out", rows=2))
    np.testing.assert_array_equal(lines_of(ax)["row 2, imaginary part"], array[2].imag)
    one, other = images_of(saved.plot("waves/out", rows=range(20)))
    np.testing.assert_array_equal(one + 1j * other, array[:20])
    images = images_of(saved.plot("spectra/out", rows=[0]))
    spectra = VALUES["spectra/out"][0]
    np.testing.assert_array_equal(images[1], spectra[..., 1].real)
    np.testing.assert_array_equal(images[2], spectra[..., 0].imag)


def test_a_gradient_says_what_it_is_of(saved):
    figure = saved.plot("vector/out_gradient")
    title = "vector/out_gradient (gradient of the loss), made by vector\n"
    assert figure.get_suptitle().startswith(title)
    left, right = drawn(figure)
    array = VALUES["vector/out_gradient"].astype("float64")
    np.testing.assert_allclose(lines_of(right)["mean"], array.mean(0), rtol=1e-5)
    # Zeros are left out between the others, too.
    [(heights, _)] = steps_of(left).values()
    assert heights.sum() == np.count_nonzero(array) == array.size - 30


def test_a_large_value_is_drawn_by_some_rows(tmp_path, monkeypatch):
    from layertap.results.views import plot

    monkeypatch.setattr(plot, "_MOST_NUMBERS", 7 * 70)
    array = VALUES["wide/out"].astype("float64")
    saved = store(tmp_path / "s", {"wide/out": VALUES["wide/out"]}, statistics=True)
    figure = saved.plot("wide/out")
    rows = np.linspace(0, ROWS - 1, 7).astype(int)
    left, right = drawn(figure)
    [(heights, _)] = steps_of(left).values()
    assert heights.sum() == np.count_nonzero(array[rows])
    assert "7 of 40 rows" in figure.get_suptitle()
    # The units are known from the save, in all rows.
    np.testing.assert_allclose(lines_of(right)["mean"], array.mean(0), rtol=1e-6)


@pytest.mark.slow
def test_any_bits_of_any_dtype_are_drawn(tmp_path):
    plan = export_stores.plan_of(export_stores.REAL + export_stores.COMPLEX)
    saved, arrays = export_stores.store(tmp_path / "s", plan, labels=np.arange(50) % 4)
    for name in saved.plan.known:
        for rows in (None, range(30) if saved[name].ndim < 3 else [1]):
            assert drawn(saved.plot(name, rows=rows))
    wide = export_stores.widened(arrays["of_bfloat16/out"])
    [ax] = drawn(saved.plot("of_bfloat16/out", rows=9))
    np.testing.assert_array_equal(lines_of(ax)["row 9"], wide[9])
    assert "padded with zeros" in saved.plot("again/in/1").get_suptitle()


HARD = {
    "NaN": np.full(ROWS, np.nan),
    "infinite": np.full(ROWS, -np.inf),
    "signalling": np.full(ROWS, 0x7FF0000000000001).view("float64"),
    "zero": np.zeros(ROWS),
    "constant": np.full(ROWS, 1e20),
    "huge": 1.7e308 * np.linspace(-1, 1, ROWS),
    "subnormal": 5e-324 * np.sign(np.arange(ROWS) - 20.5),
    "narrow": 1 + np.arange(ROWS) * 1e-15,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HARD)
def test_hard_numbers_are_drawn(tmp_path, kind):
    values = {
        f"rank{rank}/out": np.broadcast_to(
            HARD[kind].reshape(-1, *[1] * rank), (ROWS, *[2] * rank)
        )
        for rank in range(5)
    }
    saved = store(
        tmp_path / "s", {name: array.copy() for name, array in values.items()}
    )
    for name in values:
        for rows in (None, [1, 2]):
            panels = drawn(saved.plot(name, rows=rows))
            for _, edges in steps_of(panels[0]).values():
                assert (np.diff(edges) > 0).all()
    if kind == "NaN":
        assert "100.0% NaN" in drawn(saved.plot("rank1/out"))[0].get_title()
        assert np.isnan(images_of(saved.plot("rank3/out"))).all()


@pytest.mark.slow
@pytest.mark.parametrize("rows", [0, 1])
def test_no_rows_or_one_row(tmp_path, rows):
    values = {name: array[:rows] for name, array in VALUES.items()}
    labels = LABELS[:rows]
    saved = store(tmp_path / "s", values, rows=rows, labels=labels, finish=False)
    for name in values:
        panels = drawn(saved.plot(name))
        assert panels
        if not rows:
            assert panels[0].texts[0].get_text() == "no rows"


def test_names_are_text(tmp_path):
    name = "$\\frac$\n\x1b[31m" + "木" * 50
    address = f"{'a' * 100}/in/0"
    branch = Branch(address, name, (None, 2), "float32")
    join = Join("a" * 100, "add", None, (None, 2), "float32", (branch,))
    plan = Plan(f"$x_{{{'y' * 5000} end", (join,))
    values = {address: VALUES["vector/out"][:, :2].copy()}
    names = [name, "$^$", "_"]
    saved = store(tmp_path / "s", values, plan=plan, labels=LABELS, class_names=names)
    figure = saved.plot(address)
    with pytest.warns(UserWarning, match="missing from font"):
        drawn(figure)
    title = figure.get_suptitle()
    assert len(title) < 220
    assert max(map(len, title.splitlines())) <= 120
    assert "\x1b" not in title
    assert "$x_{yyyyyy" in title
    assert "yyy end, float32" in title
    assert "aaa/in/0, made by" in title


def test_a_figure_is_a_picture_in_a_notebook_and_can_be_pickled(saved):
    figure = saved.plot("vector/out")
    assert figure._repr_png_().startswith(b"\x89PNG")
    copy = pickle.loads(pickle.dumps(figure))
    assert copy.get_suptitle() == figure.get_suptitle()
    assert tuple(figure.get_size_inches() * figure.dpi) == (1000, 500)


def test_refusals(saved, monkeypatch):
    with pytest.raises(AddressError, match="Did you mean 'vector/out'"):
        saved.plot("vecto/out", rows=99)
    for rows in (ROWS, -1, [0, ROWS], [], True, "all", 1.5, [[1]]):
        with pytest.raises(OptionError, match="`rows="):
            saved.plot("vector/out", rows=rows)
    for name in ("plot", "charts"):
        monkeypatch.delattr(views, name)
        monkeypatch.delitem(sys.modules, f"layertap.results.views.{name}")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendMissingError, match=r'pip install "layertap\[plot\]"'):
        saved.plot("vector/out")
