"""Grad-CAM of saved and of captured values."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.errors import AddressError, OptionError

pytestmark = pytest.mark.every_backend

IMAGES = np.random.default_rng(1).normal(size=(7, 9, 8, 2)).astype("float32")


def build(data_format="channels_last"):
    keras.utils.set_random_seed(2)
    first = data_format == "channels_first"
    x = keras.Input((2, 9, 8) if first else (9, 8, 2), name="x")
    parts = [
        layers.Conv2D(
            n, 3, activation="relu", data_format=data_format, name=f"conv{n}"
        )(x)
        for n in (3, 4)
    ]
    joined = layers.Concatenate(axis=1 if first else 3, name="fusion")(parts)
    pooled = layers.GlobalAveragePooling2D(data_format=data_format)(ops.tanh(joined))
    model = keras.Model(x, layers.Dense(3, name="head")(pooled))
    kernel = model.get_layer("head").kernel
    kernel.assign(ops.abs(kernel))
    return model


def by_hand(value, gradient):
    maps = np.zeros(value.shape[:3])
    for channel in range(value.shape[3]):
        weight = gradient[..., channel].mean(axis=(1, 2))
        maps += weight[:, None, None] * value[..., channel]
    return np.where(maps > 0, maps, 0)


def test_maps_are_those_by_hand_from_memory_and_from_disk(tmp_path):
    model = build()
    values = layertap.capture(model, IMAGES, outputs="conv4", before="*", gradients=1)
    saved = layertap.save(
        model, IMAGES, tmp_path / "v", outputs="conv4", before="*", gradients=1
    )
    for name in ("conv4/out", "fusion/in/0"):
        expected = by_hand(values[name], values.gradients[name])
        assert expected.max() > 0
        for source in (values, saved, str(tmp_path / "v")):
            maps = layertap.grad_cam(source, name)
            assert maps.dtype == "float32"
            np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-7)


def test_channels_may_come_first():
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow convolves such images on a GPU only")
    model, x = build("channels_first"), np.moveaxis(IMAGES, 3, 1)
    values = layertap.capture(model, x, gradients=1)
    name = "fusion/in/1"
    value, gradient = (np.moveaxis(v[name], 1, 3) for v in (values, values.gradients))
    expected = by_hand(value, gradient)
    np.testing.assert_allclose(layertap.grad_cam(values, name), expected, 1e-4, 1e-7)
    other = layertap.grad_cam(values, name, data_format="channels_last")
    assert other.shape == (7, *values[name].shape[1:3])


def test_values_without_maps_or_gradients_are_refused(tmp_path):
    model = build()
    plain = layertap.capture(model, IMAGES)
    with pytest.raises(AddressError, match=r"has no gradient\. .* one of none"):
        layertap.grad_cam(plain, "fusion/in/0")
    with pytest.raises(AddressError, match="No value 'fusion/in/5'"):
        layertap.grad_cam(plain, "fusion/in/5")
    pooled = layertap.save(model, IMAGES, tmp_path / "v", gradients=1, reduce="avg")
    with pytest.raises(OptionError, match=r"no maps.* Received \(rows, 3\)"):
        layertap.grad_cam(pooled, "fusion/in/0")
