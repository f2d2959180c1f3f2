"""Models that were saved and loaded have the same values as before."""

import keras
import numpy as np
import pytest

import layertap
from tests.zoo import CASES, one_in

pytestmark = pytest.mark.every_backend

# One of each kind of model.
NAMES = (
    "article_convolutions",
    "op_in_graph",
    "shared_layer",
    "nested_twice",
    "sequential_root",
    "subclassed_by_layer",
    "subclassed_holds_functional",
    "custom_layer",
    "bidirectional_sequences",
    "mixed_float16",
    "dropout_and_batch_normalization",
    "masks_end_to_end",
)
# Keras itself can't load a subclassed root from .h5, nor the operations of masks.
LEGACY = ("article_convolutions", "shared_layer", "nested_twice", "custom_layer")
FILES = [
    (case, suffix)
    for case in CASES
    for suffix, names in ((".keras", NAMES), (".h5", LEGACY))
    if case.name in names
]


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize(
    "file", one_in(4, FILES), ids=[f"{case.name}{suffix}" for case, suffix in FILES]
)
def test_a_loaded_model_has_the_same_values(file, tmp_path):
    case, suffix = file
    model, inputs = case.build(), case.inputs(3)
    expected = layertap.capture(model, inputs)
    model.save(tmp_path / f"model{suffix}")
    loaded = keras.models.load_model(tmp_path / f"model{suffix}", compile=False)
    values = layertap.capture(loaded, inputs)
    # In order, not by name: a class need not keep its name.
    for one, other in zip(values.values(), expected.values(), strict=True):
        np.testing.assert_array_equal(one, other)
