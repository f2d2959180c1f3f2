"""Rows that a model folds into one axis with heads or windows are found again."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.errors import LayertapError, ModelError, PartialWarning

pytestmark = pytest.mark.every_backend

X = np.random.default_rng(0).normal(size=(5, 4, 6)).astype("float32")


class Fold(layers.Layer):
    """Joins a folded value with two times itself, and unfolds the result."""

    def __init__(self, fold, restore, join=ops.concatenate):
        super().__init__(name="fold")
        self.fold, self.restore, self.join = fold, restore, join

    def call(self, x):
        folded = self.fold(x)
        return self.restore(self.join([folded, 2 * folded], axis=-1))


# Each as the model folds, as it unfolds a join of two, and the branch by hand.
FOLDS = {
    "windows": (
        lambda x: ops.reshape(x, (-1, 2, 6)),
        lambda y: ops.reshape(y, (-1, 2, 2, 12)),
        X.reshape(5, 2, 2, 6),
    ),
    "heads": (
        lambda x: ops.reshape(
            ops.transpose(ops.reshape(x, (-1, 4, 3, 2)), (2, 0, 1, 3)), (-1, 4, 2)
        ),
        lambda y: ops.transpose(ops.reshape(y, (3, -1, 4, 4)), (1, 0, 2, 3)),
        X.reshape(5, 4, 3, 2).transpose(0, 2, 1, 3),
    ),
    "heads and times": (
        lambda x: ops.reshape(
            ops.transpose(ops.reshape(x, (-1, 4, 3, 2)), (2, 0, 1, 3)), (-1, 2)
        ),
        lambda y: ops.transpose(ops.reshape(y, (3, -1, 4, 4)), (1, 0, 2, 3)),
        X.reshape(5, 4, 3, 2).transpose(0, 2, 1, 3).reshape(5, 12, 2),
    ),
    "a doubled batch": (
        lambda x: ops.concatenate([x, -x], 0),
        lambda y: ops.subtract(*ops.split(y, 2, axis=0)),
        np.stack([X, -X], axis=1),
    ),
}


def folding(name):
    x = keras.Input((4, 6), name="x")
    return keras.Model(x, Fold(*FOLDS[name][:2])(x))


def last_join(plan):
    return plan.joins[-1]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("name", FOLDS)
def test_folded_rows_are_captured_row_by_row(name, batch_size):
    values = layertap.capture(folding(name), X, batch_size=batch_size)
    expected = FOLDS[name][2]
    join = last_join(values.plan)
    one, two = (values[address] for address in join.addresses)
    np.testing.assert_array_equal(one, expected)
    np.testing.assert_array_equal(two, 2 * expected)
    joined = np.concatenate([one, two], join.axis)
    assert joined.shape[1:] == join.shape[1:]
    assert joined.shape[-1] == 2 * expected.shape[-1]


def test_a_saved_value_verifies_and_its_join_is_rebuilt(tmp_path):
    model = folding("heads")
    saved = layertap.save(model, X, tmp_path / "a", batch_size=2, progress=False)
    join = last_join(saved.plan)
    assert saved.plan.folded[join.addresses[0]] == (3, 1)
    assert layertap.open(saved.path).plan == saved.plan
    report = layertap.verify(saved, model, X)
    assert report, report
    assert any("join" in check.what for check in report.checks)


def test_without_data_a_plan_says_what_they_are():
    model = folding("windows")
    with pytest.raises(ModelError, match=r"2 times the rows.* Data show their order"):
        layertap.plan(model)
    plan = layertap.plan(model, like=X)
    assert [value.shape for value in plan.values] == [(None, 2, 2, 6)] * 2


def test_with_padding_they_are_left_out_with_the_reason():
    fold, restore, _ = FOLDS["windows"]
    x, y = keras.Input((4, 6), name="x"), keras.Input((None, 3), name="y")
    fusion = layers.Concatenate(name="fusion")([y, y])
    model = keras.Model([x, y], [Fold(fold, restore)(x), fusion])
    with pytest.warns(PartialWarning, match="without `pad` or `for_head`"):
        values = layertap.capture(model, [X, X[:, :, :3]], pad=True)
    assert [*values] == ["fusion/in/0", "fusion/in/1"]


def test_a_constant_has_the_order_of_the_value_that_it_is_joined_with():
    def with_zeros(parts, axis):
        return ops.concatenate([parts[0], ops.zeros_like(parts[0])], axis)

    fold, restore, expected = FOLDS["heads"]
    x = keras.Input((4, 6), name="x")
    model = keras.Model(x, Fold(fold, restore, with_zeros)(x))
    data, zeros = layertap.capture(model, X).before("fold/concatenate").values()
    np.testing.assert_array_equal(data, expected)
    np.testing.assert_array_equal(zeros, np.zeros_like(expected))


@pytest.mark.parametrize(
    ("fold", "reason"),
    [
        (lambda x: ops.concatenate([x, ops.flip(x, 0)], 0), "of the data alone"),
        (lambda x: ops.zeros_like(ops.concatenate([x, x], 0)), "in which order"),
    ],
)
def test_an_order_that_the_data_do_not_prove_is_refused(fold, reason):
    x = keras.Input((4, 6), name="x")
    model = keras.Model(x, Fold(fold, lambda y: ops.split(y, 2, axis=0)[0])(x))
    plan = layertap.plan(model, like=X)
    refused = {r.address: r.reason for r in plan.refused}
    path = last_join(plan).path
    assert reason in refused[f"{path}/in/0"]
    # A value of its own number of rows may be a multiple of them by chance.
    assert "as if they were folded" in refused[f"{path}/in/0"]


def test_a_head_and_a_model_of_a_branch_keep_what_the_model_computes():
    model = folding("windows")
    with pytest.raises(LayertapError, match="fold"):
        layertap.submodels(model, like=X)
