"""One model a branch: right values, the original's own variables, nothing added."""

import keras
import numpy as np
import pytest

import layertap
from layertap.errors import AddressError, ModelError, OptionError
from tests.zoo import CASES, one_in

pytestmark = pytest.mark.every_backend


# Half of them: test_split.py cuts all.
@pytest.mark.parametrize("case", one_in(4, CASES[::2]), ids=lambda case: case.name)
def test_submodels_predict_the_branches_of_the_join(case):
    model, inputs = case.build(), case.inputs(4)
    truth = case.truth(model, inputs)
    path = list(case.joins)[-1]
    models = layertap.submodels(model, before=path, like=inputs)
    captured = layertap.capture(model, inputs, before=path)
    assert list(models) == list(captured.before(path))
    owned = {id(variable) for variable in model.variables}
    for index, submodel in enumerate(models.values()):
        assert {id(variable) for variable in submodel.weights} <= owned
        actual = submodel.predict(inputs, verbose=0)
        expected = truth[f"{path}/in/{index}"]
        case.assert_close(np.asarray(actual).astype(expected.dtype), expected)
        case.assert_close(captured[f"{path}/in/{index}"], expected)


def article() -> keras.Model:
    x = keras.Input((10,), name="x")
    branches = [keras.layers.Dense(n, activation="relu")(x) for n in (64, 32)]
    joined = keras.layers.concatenate(branches)
    return keras.Model(x, keras.layers.Dense(1, activation="sigmoid")(joined))


def test_submodels_of_a_graph_can_be_saved_and_loaded(tmp_path):
    model, x = article(), np.random.default_rng(0).normal(size=(5, 10))
    for name, submodel in layertap.submodels(model).items():
        expected = submodel.predict(x, verbose=0)
        submodel.save(tmp_path / f"{name}.keras")
        loaded = keras.models.load_model(tmp_path / f"{name}.keras")
        np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)


def test_submodels_follow_the_training_of_the_original():
    model, x = article(), np.ones((8, 10), "float32")
    models = layertap.submodels(model)
    model.compile("sgd", "binary_crossentropy")
    model.fit(x, np.zeros((8, 1)), epochs=3, verbose=0)
    values = layertap.capture(model, x)
    for address, submodel in zip(values, models.values(), strict=True):
        np.testing.assert_allclose(
            submodel.predict(x, verbose=0), values[address], rtol=1e-5, atol=1e-6
        )


class Joins(keras.Model):
    """Joins in its `call`, which uses a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = keras.layers.Dense(3), keras.layers.Dense(4)
        self.scale = self.add_weight(shape=(1,), initializer="ones")

    def call(self, x):
        return keras.ops.concatenate([self.left(x) * self.scale, self.right(x)], -1)


def test_a_submodel_without_a_graph_cannot_be_saved(tmp_path):
    model = Joins()
    model(np.ones((1, 2), "float32"))
    models = layertap.submodels(model)
    with pytest.raises(ModelError, match="it runs"):
        next(iter(models.values())).save(tmp_path / "m.keras")


def test_before_has_to_name_one_of_several_joins():
    x = keras.Input((3,))
    first = keras.layers.Concatenate(name="first")([x, keras.layers.Dense(2)(x)])
    second = keras.layers.Concatenate(name="second")([first, x])
    model = keras.Model(x, second)
    with pytest.raises(OptionError, match="'first', 'second'"):
        layertap.submodels(model)
    with pytest.raises(AddressError, match="'second'"):
        layertap.submodels(model, before="secund")
