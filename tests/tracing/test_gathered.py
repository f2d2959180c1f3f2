"""Values that leave a device in one buffer are those that went in."""

import importlib

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops

pytestmark = pytest.mark.every_backend

RANDOM = np.random.default_rng(3)
ARRAYS = {
    "flags": RANDOM.random((5, 3)) > 0.5,
    "bytes": RANDOM.integers(0, 255, (5, 7)).astype("uint8"),
    "narrow": RANDOM.normal(size=(5, 3, 3)).astype(ml_dtypes.bfloat16),
    "floats": RANDOM.normal(size=(5, 4)).astype("float32"),
    "numbers": RANDOM.integers(-9, 9, (5,)).astype("int32"),
    "half": RANDOM.normal(size=(5, 1)).astype("float16"),
    "none": np.zeros((5, 0), "float32"),
    "complex": (RANDOM.normal(size=(5, 2)) + 1j).astype("complex64"),
}


def test_gathered_values_are_the_same():
    name = keras.backend.backend()
    module = importlib.import_module(f"layertap.tracing.backends.{name}")
    tensors = {n: ops.convert_to_tensor(array) for n, array in ARRAYS.items()}
    # Of another layout in memory.
    tensors["turned"] = ops.transpose(tensors["narrow"], (0, 2, 1))
    found = module.copied(tensors)()
    expected = ARRAYS | {"turned": ARRAYS["narrow"].transpose(0, 2, 1)}
    assert found.keys() == expected.keys()
    for n, array in expected.items():
        assert found[n].dtype == array.dtype, n
        assert found[n].flags.aligned
        np.testing.assert_array_equal(found[n], array)
