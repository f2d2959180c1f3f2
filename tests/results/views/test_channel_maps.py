"""Figures of maps, as `layertap.keract` draws them: read back from Matplotlib."""

import numpy as np
import pytest

import layertap
from layertap.results.views import channel_maps

pytestmark = pytest.mark.one_backend


@pytest.fixture
def drawn(monkeypatch):
    """Collects what each figure shows: its title, and its axes with their images."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figures = []

    def record(figure):
        titles.append(figure.get_suptitle())
        grid = [ax for ax in figure.axes if ax.get_subplotspec() is not None]
        shape = grid[0].get_subplotspec().get_gridspec().get_geometry()
        images = [ax.get_images() for ax in grid if ax.get_images()]
        figures.append((shape, images, tuple(figure.get_size_inches())))

    titles = []
    close = plt.close
    monkeypatch.setattr(plt, "show", lambda: shown.append(len(figures)))
    monkeypatch.setattr(plt, "close", lambda figure: (record(figure), close(figure)))
    shown = []
    yield figures, titles, shown
    assert plt.get_fignums() == []


def arrays_of(images):
    return [np.asarray(one[-1].get_array()) for one in images]


def row(*shape):
    return np.random.default_rng(0).normal(size=(1, *shape)).astype("float32")


def test_each_channel_of_a_layer_is_a_map(drawn):
    from layertap import keract

    figures, titles, shown = drawn
    maps, lines, vector = row(4, 5, 3), row(6, 2), row(12)
    keract.display_activations(
        {"maps": maps, "block/lines": lines, 3: vector}, cmap="gray", fig_size=(6, 4)
    )
    assert titles == ["maps", "block/lines", "3"]
    assert shown == [0, 1, 2]
    (shape, images, size), (_, of_lines, _), (_, of_vector, _) = figures
    assert shape == (2, 2)
    assert size == (6, 4)
    assert len(images) == 3
    for channel, array in enumerate(arrays_of(images)):
        np.testing.assert_array_equal(array, maps[0, :, :, channel])
    for (image,) in images:
        # One scale, since there is one bar.
        assert image.get_clim() == (maps.min(), maps.max())
        assert image.get_cmap().name == "gray"
    for channel, array in enumerate(arrays_of(of_lines)):
        np.testing.assert_array_equal(array, lines[0, :, channel][None])
    np.testing.assert_array_equal(arrays_of(of_vector)[0], vector)


def test_channels_first_and_rectangles(drawn):
    from layertap import keract

    figures, _, _ = drawn
    maps, vector = row(3, 4, 5), row(12)
    keract.display_activations(
        {"maps": maps, "vector": vector},
        data_format="channels_first",
        reshape_1d_layers=True,
    )
    for channel, array in enumerate(arrays_of(figures[0][1])):
        np.testing.assert_array_equal(array, maps[0, channel])
    np.testing.assert_array_equal(arrays_of(figures[1][1])[0], vector.reshape(4, 3))


def test_what_is_not_drawn_is_named(drawn):
    from layertap import keract

    _, titles, _ = drawn
    parts = [row(3), row(2, 2, 2, 2, 2), np.zeros((2, 3))]
    with pytest.warns(layertap.PartialWarning) as seen:
        keract.display_activations({"lstm": parts})
    assert titles == ["lstm:0"]
    assert "lstm:1 (1, 2, 2, 2, 2, 2), lstm:2 (2, 3)" in str(seen[0].message)
    assert seen[0].filename == __file__
    with pytest.raises(layertap.OptionError, match="'last'"):
        keract.display_activations({"fc1": row(3)}, data_format="last")


def test_files_are_numbered_and_named_for_the_first_part(drawn, tmp_path):
    from layertap import keract

    folder = tmp_path / "new" / "folder"
    keract.display_activations(
        {"block/fc1": row(3), "fc1": row(2)}, save=True, directory=folder
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "0_block.png",
        "1_fc1.png",
    ]
    assert (folder / "1_fc1.png").read_bytes().startswith(b"\x89PNG")
    assert drawn[2] == []


def test_names_are_texts_and_empty_arrays_are_named(drawn, tmp_path):
    from layertap import keract

    arrays = {"a$b_$c": row(3), "$x^$": row(2, 2, 1), "none": row(0)}
    with pytest.warns(layertap.PartialWarning, match=r"none \(1, 0\)"):
        keract.display_activations(arrays, save=True, directory=tmp_path)
    assert drawn[1] == ["a$b_$c", "$x^$"]


def test_heatmaps_lie_over_the_complete_image(drawn):
    from layertap import keract

    figures, titles, _ = drawn
    image = np.random.default_rng(1).integers(0, 256, size=(1, 8, 6, 1))
    before, maps = image.copy(), row(4, 3, 2)
    with pytest.warns(layertap.PartialWarning, match="dense"):
        keract.display_heatmaps({"conv": maps, "dense": row(3)}, image)
    np.testing.assert_array_equal(image, before)
    assert titles == ["conv"]
    shape, images, _ = figures[0]
    assert shape == (2, 1)
    for channel, (below, above) in enumerate(images):
        np.testing.assert_array_equal(below.get_array(), image[0, :, :, 0] / 255)
        np.testing.assert_array_equal(above.get_array(), maps[0, :, :, channel])
        assert list(above.get_extent()) == list(below.get_extent())
        assert above.get_alpha() == 0.3


def test_merged_heatmaps_scale_each_channel(drawn):
    from layertap import keract

    figures, _, _ = drawn
    maps = np.stack([[[0, 10], [5, 10]], [[-1, 0], [0, 1]], [[7, 7], [7, 7]]], axis=-1)
    maps = maps[None].astype("float32")
    before = maps.copy()
    image = np.full((2, 2), 0.5)
    keract.display_heatmaps({"conv": maps}, image, merge_filters=True, fix=False)
    ((below, above),) = figures[0][1]
    np.testing.assert_array_equal(below.get_array(), image)
    np.testing.assert_allclose(above.get_array(), [[0, 1.5], [1, 2]])
    np.testing.assert_array_equal(maps, before)


def test_images_that_need_no_change_stay():
    image = np.random.default_rng(1).normal(size=(4, 4, 3))
    np.testing.assert_array_equal(channel_maps.as_image(image), image)
    dark = np.abs(image) / 10
    np.testing.assert_array_equal(channel_maps.as_image(dark[None]), dark)


def test_kernels_have_a_row_for_each_filter(drawn):
    from layertap import keract

    figures, titles, _ = drawn
    kernel = row(3, 2, 4)[0].reshape(3, 2, 4, 1)
    with pytest.warns(layertap.PartialWarning, match=r"conv/bias:0 \(4,\)"):
        keract.display_gradients_of_trainable_weights(
            {"conv/kernel:0": kernel, "conv/bias:0": np.zeros(4)}
        )
    assert titles == ["conv/kernel:0"]
    shape, images, _ = figures[0]
    assert shape == (1, 4)
    for channel, array in enumerate(arrays_of(images)):
        np.testing.assert_array_equal(array, kernel[:, :, channel, 0])
    kernel = row(2, 2, 2, 3)[0]
    keract.display_gradients_of_trainable_weights({"conv/kernel:0": kernel})
    shape, images, _ = figures[1]
    assert shape == (3, 2)
    np.testing.assert_array_equal(arrays_of(images)[3], kernel[:, :, 1, 1])


@pytest.mark.parametrize(
    ("count", "grid"), [(1, (1, 1)), (2, (2, 1)), (4, (2, 2)), (5, (3, 2)), (9, (3, 3))]
)
def test_grids_are_nearly_square(count, grid):
    assert channel_maps.square(count) == grid


def test_a_rectangle_of_a_prime_is_a_line():
    assert channel_maps.rectangle(7) == (7, 1)
    assert channel_maps.rectangle(1) == (1, 1)
