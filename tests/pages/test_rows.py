"""Rows as pictures: the inputs of the store, and Grad-CAM, pixel by pixel."""

import base64
import io
import re

import keras
import numpy as np
import pytest
from PIL import Image

import layertap
from layertap.core.address import component
from layertap.errors import DataError, OptionError
from layertap.pages.facts import page_facts
from layertap.pages.rows.pictures import shown_rows
from layertap.pages.rows.row_facts import row_facts, shown_places
from tests.pages.test_facts import arrays
from tests.pages.test_report import HOSTILE, Page, page_of
from tests.support.export_stores import store
from tests.support.map_stores import maps_alone

pytestmark = pytest.mark.one_backend

ROWS = 40
RANDOM = np.random.default_rng(3)
COLOURED = RANDOM.uniform(size=(ROWS, 6, 4, 3))


def network(shape, name="image"):
    """A model with a convolution of pictures of a shape."""
    keras.utils.set_random_seed(4)
    x = keras.Input(shape, name=name)
    maps = keras.layers.Reshape((*shape, 1)[:3])(x)
    maps = keras.layers.Conv2D(5, 3, activation="relu", name="conv")(maps)
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    return x, keras.layers.Dense(2, name="head")(pooled)


def save(folder, inputs=COLOURED, model=None, **options):
    if model is None:
        model = keras.Model(*network(inputs.shape[1:]))
    options = {"outputs": "conv", "gradients": 1} | options
    return layertap.save(model, inputs, folder / "v.zarr", **options)


def pixels(picture):
    with Image.open(io.BytesIO(base64.b64decode(picture.png))) as decoded:
        return np.asarray(decoded).astype(float)


@pytest.mark.parametrize("first", [False, True])
def test_maps_are_those_of_grad_cam(tmp_path, first):
    saved = maps_alone(tmp_path, channels_first=first, labels=np.arange(50) % 3)
    facts = row_facts(page_facts(saved))
    numbers = [row.number for row in facts.rows]
    expected = layertap.grad_cam(saved, "conv0/out")[numbers]
    assert expected.max() > 0
    np.testing.assert_array_equal(facts.maps["conv0/out"], expected)
    assert facts.inputs == {}


def test_colour_is_the_share_of_the_largest_number(tmp_path):
    saved = maps_alone(tmp_path)
    page = page_facts(saved)
    (line,) = shown_rows(page, None)["lines"]
    numbers = [row.number for row in row_facts(page).rows]
    maps = layertap.grad_cam(saved, "conv0/out")[numbers]
    for picture, numbers in zip(line["pictures"], maps, strict=True):
        # Each number is a square of 96 // 5 pixels.
        expected = np.kron(numbers / (numbers.max() or 1), np.ones((19, 19)))[..., None]
        expected = 255 + 0.85 * expected * (np.array([213, 94, 0]) - 255)
        found = pixels(picture)
        np.testing.assert_allclose(found[..., :3], expected, atol=1)
        assert (found[..., 3] == 255).all()
        assert (picture.width, picture.height) == (58, 96)
        largest = f"largest {numbers.max():.4g}"
        assert picture.label.endswith(largest if numbers.any() else "above zero")


def test_the_input_is_in_its_colours_and_below_the_maps(tmp_path):
    saved = save(tmp_path)
    page = page_facts(saved)
    above, below = shown_rows(page, COLOURED)["lines"]
    numbers = [row.number for row in row_facts(page).rows]
    assert numbers == np.linspace(0, ROWS - 1, 8).astype(int).tolist()
    shown = COLOURED[numbers]
    low, high = shown.min(), shown.max()
    assert above["scale"] == f"black is {low:.4g}, white is {high:.4g}"
    expected = np.kron((shown - low) / (high - low) * 255, np.ones((1, 16, 16, 1)))
    found = np.stack([pixels(picture) for picture in above["pictures"]])
    np.testing.assert_allclose(found[..., :3], expected, atol=1)
    # Maps of 4 and 2 numbers over pictures of 96 and 64 pixels.
    maps = layertap.grad_cam(saved, "conv/out")[numbers]
    share = maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-30)
    share = np.kron(share, np.ones((1, 24, 32)))[..., None] * 0.85
    grey = 255 - 0.7 * (255 - expected.mean(axis=3, keepdims=True))
    found = np.stack([pixels(picture) for picture in below["pictures"]])
    mixed = grey * (1 - share) + share * (213, 94, 0)
    np.testing.assert_allclose(found[..., :3], mixed, atol=1)


@pytest.mark.parametrize("side", [50, 96, 100, 333])
def test_large_pictures_are_means_and_small(tmp_path, side):
    inputs = RANDOM.uniform(size=(9, side, side)).astype("float32")
    inputs[0, 0, 0] = np.nan
    saved = save(tmp_path, inputs)
    lines = shown_rows(page_facts(saved), inputs)["lines"]
    sizes = [pixels(p).shape[:2] for line in lines for p in line["pictures"]]
    assert len({*sizes}) == 1
    assert max(sizes[0]) <= 96
    # The largest mean of a map has the strongest colour, however small it is drawn.
    strongest = [pixels(p)[..., 0] - pixels(p)[..., 2] for p in lines[1]["pictures"]]
    assert np.max(strongest, axis=(1, 2)).min() == round(0.85 * 213)
    total = sum(len(p.png) for line in lines for p in line["pictures"])
    assert total < 800_000
    grey = pixels(lines[0]["pictures"][1])[..., 0]
    assert grey.mean() == pytest.approx(inputs[1].mean() * 255, abs=3)
    if side > 96:
        size = len(grey)
        ends = np.arange(size + 1) * side / size
        exact = np.interp(ends, np.arange(side + 1), [0, *inputs[1].sum(0).cumsum()])
        exact = np.diff(exact) / np.diff(ends) / side * 255
        np.testing.assert_allclose(grey.mean(axis=0), exact, atol=1.5)


def forms():
    """Data of models, and the same data in another form that `save` accepts."""
    grey = RANDOM.uniform(size=(ROWS, 6, 5))
    levels = RANDOM.integers(0, 256, (ROWS, 6, 5))
    x, y = network((6, 5, 1))
    numbers = keras.Input((1,), name="age")
    both = keras.layers.Concatenate(name="fusion")([y, numbers])
    column = RANDOM.integers(0, 90, ROWS)
    yield "array", keras.Model(*network((6, 5, 1))), grey, grey
    flat = keras.Model(*network((6, 5)))
    yield "one more axis", flat, grey[..., None], grey
    yield "one axis less", flat, grey, grey[..., None]
    yield "integers", keras.Model(*network((6, 5, 1))), levels, levels.astype("uint8")
    yield "list", keras.Model([x], y), [grey], grey
    yield "dictionary", keras.Model({"image": x}, y), {"image": grey}, {"image": grey}
    yield "names", keras.Model(x, y), {"image": grey}, {"image": grey}
    data = {"age": column, "image": grey}
    yield "two", keras.Model([x, numbers], both), data, data
    yield "floats", keras.Model([x, numbers], both), data, [grey, column * 1.0]


FORMS = [
    "array",
    "one more axis",
    "one axis less",
    "integers",
    "list",
    "dictionary",
    "names",
]


@pytest.mark.parametrize("name", [*FORMS, "two", "floats"])
def test_inputs_are_found_in_the_form_of_any_model(tmp_path, name):
    model, inputs, passed = next(rest for form, *rest in forms() if form == name)
    saved = save(tmp_path, inputs, model)
    facts = row_facts(page_facts(saved), passed)
    (pictures,) = facts.inputs.values()
    numbers = [row.number for row in facts.rows]
    leaves = keras.tree.flatten(passed)
    (expected,) = (leaf for leaf in leaves if leaf.ndim > 2)
    np.testing.assert_array_equal(pictures.squeeze(), expected[numbers].squeeze())


def test_other_inputs_are_refused_with_the_first_row_that_differs(tmp_path):
    saved = save(tmp_path)
    other = COLOURED.copy()
    other[[11, 27]] += 1e-3
    with pytest.raises(OptionError, match=r"`inputs=` differs from .* in row 11\. "):
        layertap.report(saved, tmp_path / "page.html", inputs=other)
    other = COLOURED[::-1]
    with pytest.raises(OptionError, match=r"in row 0\. .*float64 of shape \(rows, 6"):
        layertap.report(saved, tmp_path / "page.html", inputs=other)
    with pytest.raises(OptionError, match="Received nothing"):
        layertap.report(saved, tmp_path / "page.html", inputs=[])
    with pytest.raises(DataError, match=r"its 40 rows.* Received shape \(5, 6, 4, 3\)"):
        layertap.report(saved, tmp_path / "page.html", inputs=COLOURED[:5])
    assert not (tmp_path / "page.html").exists()
    layertap.report(saved, tmp_path / "page.html", inputs=COLOURED)


def test_complex_inputs_are_refused_without_a_warning(tmp_path):
    saved = save(tmp_path)
    with pytest.raises(OptionError, match="Received complex128"):
        layertap.report(saved, tmp_path / "page.html", inputs=COLOURED * 1j)


def test_inputs_without_pictures_are_refused(tmp_path):
    x = keras.Input((3,), name="x")
    model = keras.Model(x, keras.layers.Dense(2, name="conv")(x))
    inputs = np.ones((5, 3), "float32")
    saved = save(tmp_path, inputs, model, gradients=None)
    with pytest.raises(OptionError, match=r"no pictures\..* Received \(rows, 3\)"):
        layertap.report(saved, tmp_path / "page.html", inputs=inputs)


@pytest.mark.parametrize("shape", [(5, 1, 9, 7), (5, 3, 9, 7), (5, 4, 9, 7)])
def test_channels_of_inputs_may_come_first(tmp_path, shape):
    inputs = RANDOM.uniform(size=shape).astype("float32")
    x = keras.Input(shape[1:], name="x")
    y = keras.layers.Flatten(name="conv")(x)
    saved = save(tmp_path, inputs, keras.Model(x, y), gradients=None)
    (pictures,) = row_facts(page_facts(saved), inputs).inputs.values()
    # Without opacity, the fourth channel.
    expected = np.moveaxis(inputs, 1, 3)[..., :3]
    np.testing.assert_array_equal(
        pictures, expected.squeeze(axis=3) if shape[1] == 1 else expected
    )


def test_rows_have_one_of_each_class_and_are_spread(tmp_path):
    labels = np.repeat([2, 0, 1, 2], [30, 15, 1, 4])
    page = page_facts(maps_alone(tmp_path, labels=labels))
    places = shown_places(page)
    assert len({*places}) == 8
    found = labels[places].tolist()
    assert found == sorted(found)
    assert {*found} == {0, 1, 2}
    assert max(places) - min(places) > 40
    assert 45 in places
    (tmp_path / "many").mkdir()
    page = page_facts(maps_alone(tmp_path / "many", labels=np.arange(50) % 12))
    found = [page.labels[place] for place in shown_places(page)]
    assert len({*found}) == 8
    assert (found[0], found[-1]) == ("0", "11")


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_stores_of_few_rows_that_are_not_complete(tmp_path, rows):
    page = page_facts(maps_alone(tmp_path, rows=rows, finish=False))
    assert shown_places(page) == [*range(rows)]
    shown = shown_rows(page, None)
    assert (shown is None) is (rows == 0)
    if rows == 0:
        assert shown_rows(page, np.ones((0, 6, 5))) is None


def test_the_page_says_whose_gradients_these_are_and_what_is_left_out(tmp_path):
    for number, (target, words) in enumerate(
        [("loss", "raise the loss"), ("3", "raise output 3"), (HOSTILE[0], HOSTILE[0])]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        page = page_of(maps_alone(folder, 6, target=target), folder)
        assert words in page.text
        assert "on white" in page.text
        assert "2 more values are not shown." in page.text
        pictures = [v for k, v in page.attributes if k == "alt" and "Grad-CAM" in v]
        assert len(pictures) == 4 * 8


def test_labels_and_names_of_inputs_are_shown_as_text(tmp_path):
    x, y = network((6, 5, 1))
    images, labels = RANDOM.uniform(size=(8, 6, 5)), np.arange(8) % 4
    ids = [f"{HOSTILE[row % 4]}{row}" for row in range(8)]
    names = [HOSTILE[label] for label in labels]
    path = tmp_path / "v.zarr"
    model = keras.Model(x, y)
    saved = layertap.save(
        model, (images, np.array(names)), path, outputs="conv", gradients=0, ids=ids
    )
    page = layertap.report(saved, tmp_path / "a.html", inputs={HOSTILE[1]: images})
    shown = Page(page.read_text("utf-8"))
    assert "script" not in shown.tags
    assert shown.tags.count("h1") == 1
    for name in HOSTILE[:4]:
        assert shown.text.count(name) >= 2
        assert any(name in v for k, v in shown.attributes if k == "alt")
    assert f"inputs/{component(HOSTILE[1])}" in shown.text


def test_numbers_that_are_not_finite_are_not_drawn(tmp_path):
    saved = maps_alone(tmp_path)
    known = arrays(saved.plan, 9)
    known["conv0/out"][0] = np.nan
    (tmp_path / "nan").mkdir()
    saved, _ = store(tmp_path / "nan" / "v.zarr", saved.plan, rows=9, values=known)
    (line,) = shown_rows(page_facts(saved), None)["lines"]
    assert re.search(
        r"row 0, nowhere above zero, not finite in", line["pictures"][0].label
    )
    assert (pixels(line["pictures"][0]) == 255).all()
