"""Digests of rows tell rows apart, whatever batches they come in."""

import numpy as np
import pytest

from layertap.pipeline.fingerprint import inputs_digests

pytestmark = pytest.mark.one_backend

X = np.random.default_rng(0).integers(0, 3, (50, 2, 3)).astype("float32")
TEXTS = np.array([[b"a", b"bc"], [b"ab", b"c"], [b"", b"abc"]] * 10, object)


@pytest.mark.parametrize(
    "inputs",
    [X, X.swapaxes(1, 2), [X, X[:, 0] > 1], {"a": X, "b": None}, TEXTS, TEXTS[:, 0]],
    ids=["array", "not contiguous", "list", "None in it", "texts", "a text each"],
)
def test_a_digest_is_that_of_its_row(inputs):
    def rows(part):
        if isinstance(inputs, np.ndarray):
            return inputs[part]
        if isinstance(inputs, list):
            return [array[part] for array in inputs]
        return inputs | {"a": inputs["a"][part]}

    digests = inputs_digests(rows(slice(None)))
    assert digests.dtype == np.uint64
    parts = [slice(0, 7), slice(7, 8), slice(8, None)]
    cut = np.concatenate([inputs_digests(rows(part)) for part in parts])
    np.testing.assert_array_equal(digests, cut)
    first = inputs[0] if isinstance(inputs, list) else inputs
    first = first["a"] if isinstance(first, dict) else first
    different = {repr(row) for row in first}
    assert len(set(digests.tolist())) >= len(different) > 2


def test_the_same_bytes_in_another_form_have_another_digest():
    x = np.random.default_rng(1).normal(size=(50, 2, 3)).astype("float32")
    forms = [
        x,
        x.reshape(50, 6),
        x.view("int32"),
        [x],
        {"x": x},
        [x, None],
        [x[:, :1], x[:, 1:]],
        [x[:, 1:], x[:, :1]],
    ]
    digests = np.stack([inputs_digests(form) for form in forms])
    for row in digests.T:
        assert len(set(row.tolist())) == len(forms)


def test_rows_without_numbers_have_digests():
    digests = inputs_digests(np.zeros((4, 0), "float32"))
    assert len(digests) == 4
    assert len(set(digests.tolist())) == 1
