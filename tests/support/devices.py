"""Programs for a process with four devices, run by `test_tap_distribution.py`."""

import json
import random
from contextlib import suppress

import keras
import numpy as np
from keras import layers, ops

import layertap

ROWS, BATCH = 70, 32

# For each batch, in the order of compilation: its shape, and that of one device's part.
seen: list[list[tuple[int, ...]]] = []


class Looking(layers.Layer):
    """Returns its input, and records how it lies on the devices."""

    def call(self, x):
        import jax

        def look(sharding):
            seen.append([x.shape, sharding.shard_shape(x.shape)])

        jax.debug.inspect_array_sharding(x, callback=look)
        return x


class Centred(layers.Layer):
    """Mixes the rows, so that one more row would change all values."""

    def call(self, x):
        import jax.numpy as jnp

        return jnp.concatenate([x - ops.mean(x, axis=0, keepdims=True), x], axis=-1)


def two_inputs():
    # Not `keras.utils.set_random_seed`: it imports TensorFlow, which takes seconds.
    random.seed(5)
    x = keras.Input((8,), name="x")
    word = keras.Input((3,), dtype="int32", name="word")
    left = Looking(name="looking")(x)
    left = layers.Dense(16, activation="relu", name="left")(left)
    right = layers.Embedding(9, 4, name="embedding")(word)
    right = Centred(name="centred")(layers.Flatten(name="flat")(right))
    joined = layers.Concatenate(name="fusion")([left, right])
    head = layers.Dense(2, name="head")(joined)
    return keras.Model([x, word], head, name="two_inputs")


def rows():
    numbers = np.random.default_rng(7)
    x = numbers.normal(size=(ROWS, 8)).astype("float32")
    return {"x": x, "word": numbers.integers(0, 9, (ROWS, 3)).astype("int32")}


def batches(end=ROWS):
    """Yields batches; at row `end`, if there are more, an error."""
    for row in range(0, ROWS, BATCH):
        if row >= end:
            raise RuntimeError("the data stopped")
        yield ({name: array[row : row + BATCH] for name, array in rows().items()},)


def data_parallel():
    """Returns a model: each device has its weights, and a part of the rows."""
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    return two_inputs()


def model_parallel():
    """Returns a model with two parts of the rows, by two of a layer's units."""
    mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"])
    layouts = keras.distribution.LayoutMap(mesh)
    layouts["left/kernel"] = (None, "model")
    layouts["left/bias"] = ("model",)
    layouts["left/output"] = ("batch", "model")
    distribution = keras.distribution.ModelParallel(layout_map=layouts)
    keras.distribution.set_distribution(distribution)
    return two_inputs()


def made_before():
    """Returns a model that is older than the distribution."""
    keras.distribution.set_distribution(None)
    model = two_inputs()
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    return model


def out_of_scope():
    """Returns a model whose distribution is not set any more."""
    keras.distribution.set_distribution(None)
    with keras.distribution.DataParallel().scope():
        return two_inputs()


def observed(call, *arguments):
    """Returns the result of a call, and how its batches lay on the devices."""
    seen.clear()
    return call(*arguments), list(seen)


def save(folder, names):
    """Saves, verifies and captures under some distributions; prints the layouts."""
    seen_in = {}
    for make in map(globals().get, names):
        # Each is compiled for itself.
        model, again, other = make(), make(), make()
        distribution = keras.distribution.distribution()
        layouts = [variable.value.sharding for variable in model.variables]
        path = folder / make.__name__
        saved, of_save = observed(layertap.save, model, rows(), path)
        report, of_verify = observed(layertap.verify, saved, again, rows())
        _, of_capture = observed(layertap.capture, other, rows())
        assert report, report
        assert of_save == of_verify == of_capture
        assert keras.distribution.distribution() is distribution
        assert layouts == [variable.value.sharding for variable in model.variables]
        seen_in[make.__name__] = of_save
    print(json.dumps(seen_in))


def stop(path):
    """Saves until the data stop."""
    model = data_parallel()
    with suppress(RuntimeError):
        layertap.save(model, batches(2 * BATCH), path)


def resume(path):
    """Saves the missing rows."""
    layertap.save(data_parallel(), batches(), path)
