"""None for an optional input, and for one that is not."""

import keras
import numpy as np
import pytest
from keras import layers

import layertap
from layertap.errors import (
    AddressError,
    DataError,
    DataTypeError,
    ModelError,
    OtherRunError,
)

pytestmark = pytest.mark.every_backend

A = np.arange(15, dtype="float32").reshape(5, 3)


class Extended(layers.Layer):
    """Adds its second input to the first, if there is one."""

    def call(self, inputs):
        a, b = inputs
        return a if b is None else a + b

    def compute_output_shape(self, shapes):
        return shapes[0]


def inputs(*, named: bool, first: bool) -> tuple[keras.Model, keras.KerasTensor]:
    """A model in which `b`, the first or the second input, is optional."""
    keras.utils.set_random_seed(0)
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b", optional=True)
    added = layers.Dense(2, name="dense")(Extended(name="extended")([a, b]))
    joined = layers.Concatenate(name="fusion")([added, a])
    ordered = [b, a] if first else [a, b]
    return keras.Model(
        {"a": a, "b": b} if named else ordered, layers.Dense(1, name="head")(joined)
    )


def dense(model: keras.Model, x: np.ndarray) -> np.ndarray:
    kernel, bias = model.get_layer("dense").get_weights()
    return x @ kernel + bias


@pytest.mark.parametrize(
    ("named", "first"), [(True, False), (False, False), (False, True)]
)
def test_none_for_an_optional_input(tmp_path, named, first):
    model = inputs(named=named, first=first)

    def data(b):
        if named:
            return {"a": A, "b": b}
        return [b, A] if first else [A, b]

    for number, (b, total) in enumerate([(None, A), (A * 2, A * 3)]):
        path = tmp_path / f"{number}.zarr"
        assert len(layertap.plan(model, like=data(b)).addresses) == 2
        saved = layertap.save(model, data(b), path, batch_size=2)
        np.testing.assert_allclose(
            saved["fusion/in/0"][:], dense(model, total), rtol=1e-5, atol=1e-5
        )
        assert layertap.save(model, data(b), path, batch_size=2).complete
        assert layertap.verify(saved, model, data(b))
        other = data(A * 2 if b is None else None)
        with pytest.raises(OtherRunError, match="the inputs of row 0 are"):
            layertap.save(model, other, path, batch_size=2)
    assert layertap.save(model, data(None), tmp_path / "p.zarr", pad=True).complete


@pytest.mark.one_backend
def test_the_stem_of_a_split_takes_none():
    model = inputs(named=True, first=False)
    data = {"a": A, "b": None}
    stem, head = layertap.split(model, like=data)
    expected = model.predict(data, verbose=0)
    actual = head.predict(stem.predict(data, verbose=0), verbose=0)
    np.testing.assert_array_equal(actual, expected)
    values = layertap.capture(stem, data, outputs="dense")
    np.testing.assert_allclose(values["dense/out"], dense(model, A), rtol=1e-5)


@pytest.mark.one_backend
def test_none_in_a_subclassed_model():
    class Adds(keras.Model):
        def __init__(self):
            super().__init__(name="adds")
            self.extended = Extended(name="extended")
            self.fusion = layers.Concatenate(name="fusion")

        def call(self, inputs):
            return self.fusion([self.extended([inputs["a"], inputs["b"]]), inputs["a"]])

    model, data = Adds(), {"a": A, "b": None}
    values = layertap.capture(model, data)
    np.testing.assert_array_equal(values["fusion/in/0"], A)
    with pytest.raises(ModelError, match=r"Its input 'b' is None.*save the branches"):
        layertap.split(model, like=data)


@pytest.mark.one_backend
def test_errors_name_the_input_that_is_none():
    model = inputs(named=True, first=False)
    with pytest.raises(DataTypeError, match=r"Input 'a' is None.*is not optional"):
        layertap.capture(model, {"a": None, "b": A})
    batches = iter([{"a": A, "b": None}, {"a": A, "b": A}])
    with pytest.raises(DataError, match=r"row 5 on .* inputs\['b'\].*Expected nothing"):
        layertap.capture(model, batches)
    with pytest.raises(AddressError, match="matches 'b'"):
        layertap.capture(model, {"a": A, "b": None}, outputs="b")
