"""Training a head on saved values is training the whole model with its stem frozen."""

import keras
import numpy as np
import pytest

import layertap
from layertap.cli.demo import digits, network
from tests.support.campaign import WHOLE

pytestmark = pytest.mark.every_backend


def photographs(rows: int, size: int) -> np.ndarray:
    """Returns crops of two photographs, as numbers from 0 to 1."""
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    images = load_sample_images().images
    crops = np.empty((rows, size, size, 3), "float32")
    for crop in crops:
        top, left = random.integers(300, size=2)
        image = images[random.integers(2)]
        crop[...] = image[top : top + size, left : left + size] / 255
    return crops


def small() -> tuple[keras.Model, np.ndarray, np.ndarray]:
    x, y = digits()
    return network(), x[:500], y[:500]


def large() -> tuple[keras.Model, np.ndarray, np.ndarray]:
    model = keras.applications.InceptionV3(
        weights=None, input_shape=(75, 75, 3), classes=4
    )
    return model, photographs(24, 75), np.arange(24) % 4


@pytest.mark.parametrize(
    ("build", "before", "epochs", "batch_size", "rate"),
    # The outputs of an untrained network hardly differ: training needs large steps.
    [
        pytest.param(
            *(small, "fusion", 4, 64, 0.001),
            id="digits",
            marks=[*([] if WHOLE else [pytest.mark.one_backend]), pytest.mark.campaign],
        ),
        pytest.param(
            *(large, "mixed10", 3, 8, 1.0),
            id="InceptionV3",
            marks=[pytest.mark.one_backend, pytest.mark.campaign(alone=True)],
        ),
    ],
)
def test_the_loss_curve_is_that_of_the_frozen_model(
    build, before, epochs, batch_size, rate, tmp_path
):
    keras.utils.set_random_seed(0)
    model, x, y = build()
    options = {"epochs": epochs, "shuffle": False, "verbose": 0}
    saved = layertap.save(
        *(model, (x, y), tmp_path / "values.zarr"),
        before=before,
        for_head=True,
        batch_size=batch_size,
    )
    stem, head = layertap.split(model, before, copy=True)
    head.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    from_store = head.fit(saved.dataset(batch_size=batch_size), **options)

    # The stem shares its layers with the model.
    stem.trainable = False
    trained = {weight.path for weight in model.trainable_weights}
    assert len(trained) == len(head.trainable_weights) > 0
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    full = model.fit(x, y, batch_size=batch_size, **options)

    losses = full.history["loss"]
    np.testing.assert_allclose(from_store.history["loss"], losses, rtol=2e-4)
    assert losses[-1] < 0.95 * losses[0]
    for mine, theirs in zip(
        head.trainable_weights, model.trainable_weights, strict=True
    ):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(mine),
            keras.ops.convert_to_numpy(theirs),
            rtol=1e-3,
            atol=2e-4,
        )
