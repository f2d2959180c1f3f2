"""Inputs find their places in a model's structure, by name or by order."""

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
import torch
from jax.experimental.sparse import BCOO

from layertap.errors import DataError, DataTypeError
from layertap.inputs.feed import Feed
from layertap.tracing.model_structure import input_specs

# Keras warns if a dictionary's keys are not the names of its inputs.
pytestmark = [
    pytest.mark.every_backend,
    pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict"),
]

A, B, C = (np.full((4, 2), value, "float32") for value in (1, 2, 3))


def inputs(*names: str) -> list[keras.KerasTensor]:
    return [keras.Input((2,), name=name) for name in names]


def model(structure) -> keras.Model:
    leaves = keras.tree.flatten(structure)
    return keras.Model(structure, keras.layers.Concatenate()(leaves))


def fed(structure, data):
    return Feed(data, input_specs(model(structure))).first().inputs


def test_nested_structures():
    a, b, c = inputs("a", "b", "c")
    structure = {"left": [a, b], "right": c}
    for data in (
        {"right": C, "left": [A, B], "0": A[:1]},
        [[A, B], C],
        [A, B, C],
    ):
        arrays = fed(structure, data)
        np.testing.assert_array_equal(arrays["left"][0], A)
        np.testing.assert_array_equal(arrays["left"][1], B)
        np.testing.assert_array_equal(arrays["right"], C)
        expected = model(structure).predict(arrays, verbose=0)
        np.testing.assert_array_equal(expected, np.concatenate([A, B, C], axis=1))
    first, second = fed([a, {"more": b}], [A, {"more": B}])
    np.testing.assert_array_equal(first, A)
    np.testing.assert_array_equal(second["more"], B)


def test_a_list_has_no_order_in_an_unsorted_dictionary():
    a, b = inputs("z", "b")
    arrays = fed({"z": a, "b": b}, {"b": B, "z": A})
    np.testing.assert_array_equal(arrays["z"], A)
    np.testing.assert_array_equal(arrays["b"], B)
    with pytest.raises(DataError, match=r"no names.*a dictionary of 'z', 'b'"):
        fed({"z": a, "b": b}, [A, B])
    with pytest.raises(ValueError, match="doesn't match the expected structure"):
        model({"z": a, "b": b}).predict([A, B], verbose=0)


def test_a_missing_name_in_a_nested_structure():
    a, b, c = inputs("a", "b", "c")
    with pytest.raises(DataError, match=r"'right' is not in .* mean 'rihgt'"):
        fed({"left": [a, b], "right": c}, {"left": [A, B], "rihgt": C})


@pytest.mark.parametrize(
    "make",
    [
        lambda: tf.sparse.from_dense(A),
        lambda: tf.ragged.constant([[1.0], [2.0, 3.0]]),
        lambda: torch.from_numpy(A).to_sparse(),
        lambda: torch.from_numpy(A).to_sparse_csr(),
        lambda: BCOO.fromdense(A),
        lambda: scipy.sparse.csr_matrix(A),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_tensors_that_are_not_dense_are_refused(make):
    for data in (make(), iter([make()])):
        with pytest.raises(DataTypeError, match="Expected dense arrays"):
            fed(inputs("a")[0], data)
