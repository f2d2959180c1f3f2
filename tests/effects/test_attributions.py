"""Attributions: the parts of branches in a target, which add up to its change.

Those of the zoo's models are in `tests/zoo/test_effects.py`.
"""

from functools import partial

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.errors import AddressError, OptionError, OtherRunError

pytestmark = pytest.mark.every_backend

ROWS = 20
X = np.random.default_rng(0).normal(size=(ROWS, 6)).astype("float32")


def build(head):
    keras.utils.set_random_seed(3)
    x = keras.Input((6,), name="x")
    left = layers.Dense(4, activation="tanh", name="left")(x)
    right = layers.Dense(3, name="right")(x)
    joined = layers.Concatenate(name="fusion")([left, right])
    return keras.Model(x, head(joined))


def squares(joined):
    """The parts of a sum of squares are the squares: f(b) = w b^2, f' = 2 w b."""
    return layers.Dense(2, use_bias=False, name="head")(joined**2)


def bends(joined, units=40):
    inner = layers.Dense(
        units, activation="relu", bias_initializer="random_normal", name="inner"
    )(joined * 0.2)
    return layers.Dense(2, name="head")(inner)


class Opaque(keras.Model):
    """The same model as a class, which can't be cut."""

    def __init__(self, whole):
        super().__init__()
        self.whole = whole

    def call(self, x):
        left = self.whole.get_layer("left")(x)
        right = self.whole.get_layer("right")(x)
        joined = self.whole.get_layer("fusion")([left, right])
        inner = self.whole.get_layer("inner")(joined * 0.2)
        return self.whole.get_layer("head")(inner)


def close(actual, expected, share=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=share, atol=share)


def sums(values):
    return {
        name: np.asarray(part[:], "float64").reshape(ROWS, -1).sum(axis=1)
        for name, part in values.attributions.items()
    }


def test_those_of_squares_are_the_squares():
    model = build(squares)
    kernel = ops.convert_to_numpy(model.get_layer("head").kernel)
    values = layertap.capture(model, X, attributions=1, steps=1)
    close(
        values.attributions["fusion/in/0"], values["fusion/in/0"] ** 2 * kernel[:4, 1]
    )
    close(
        values.attributions["fusion/in/1"], values["fusion/in/1"] ** 2 * kernel[4:, 1]
    )
    assert values.gaps["fusion"].shape == (ROWS,)
    assert values.gaps["fusion"].max() < 1e-6


def test_a_baseline_by_address_and_the_mean_of_the_data():
    model = build(squares)
    kernel = ops.convert_to_numpy(model.get_layer("head").kernel)
    plain = layertap.capture(model, X)
    means = {name: plain[name].mean(axis=0) for name in plain}
    expected = {
        name: (plain[name] ** 2 - means[name] ** 2) * kernel[rows, 0]
        for name, rows in (("fusion/in/0", slice(4)), ("fusion/in/1", slice(4, None)))
    }
    # (b - m) * the mean of 2 w (m + t (b - m)) is w (b^2 - m^2).
    for baseline in ("mean", means):
        values = layertap.capture(model, X, attributions=0, baseline=baseline)
        for name, part in expected.items():
            close(values.attributions[name], part)
    numbers = {"fusion/in/0": 1.0, "fusion/in/1": np.ones(3)}
    values = layertap.capture(model, X, attributions=0, baseline=numbers)
    close(
        values.attributions["fusion/in/1"],
        (plain["fusion/in/1"] ** 2 - 1) * kernel[4:, 0],
    )


def test_bends_are_found_and_fewer_steps_report_their_gap():
    model = build(bends)
    few = layertap.capture(model, X, attributions=0, steps=4)
    values = layertap.capture(model, X, attributions=0)
    assert few.gaps["fusion"].max() > 1e-3
    assert values.gaps["fusion"].max() < 1e-5
    tap = layertap.tap(model)
    change = tap.predict(X) - tap.predict(X, dict.fromkeys(values, "zero"))
    added = sum(sums(values).values())
    close(added, change[:, 0].astype("float64"), 2e-5)
    # A fine Riemann sum gives the same parts.
    points = (np.arange(4000) + 0.5) / 4000
    inner = model.get_layer("inner")
    kernel, bias = map(ops.convert_to_numpy, inner.weights)
    out, _ = map(ops.convert_to_numpy, model.get_layer("head").weights)
    joined = np.concatenate([values["fusion/in/0"], values["fusion/in/1"]], axis=1)
    joined *= 0.2
    for row in range(3):
        before = points[:, None] * (joined[row] @ kernel) + bias
        slopes = ((before > 0) * out[:, 0]) @ kernel.T
        parts = slopes.mean(axis=0) * joined[row]
        close(values.attributions["fusion/in/0"][row], parts[:4], 2e-3)


def test_a_model_that_can_not_be_cut_gives_the_same():
    model = build(bends)
    opaque = Opaque(model)
    opaque(X)
    one = layertap.capture(model, X, attributions=1)
    other = layertap.capture(opaque, X, attributions=1)
    assert other.gaps["fusion"].max() < 1e-5
    for name in one:
        close(other.attributions[name], one.attributions[name], 1e-4)


def test_each_batch_and_each_row_stand_alone():
    model = build(bends)
    whole = layertap.capture(model, X, attributions=1)
    parts = layertap.capture(model, X, attributions=1, batch_size=3)
    for name in whole:
        close(parts.attributions[name], whole.attributions[name], 1e-4)


def test_a_model_of_a_fixed_number_of_rows_is_divided_too():
    keras.utils.set_random_seed(3)
    x = keras.Input((6,), batch_size=2, name="x")
    parts = [layers.Dense(n, name=f"d{n}")(x) for n in (3, 4)]
    joined = layers.Concatenate(name="fusion")(parts)
    model = keras.Model(x, bends(joined, units=8))
    values = layertap.capture(model, X[:4], attributions=0)
    assert values.gaps["fusion"].max() < 1e-5
    few = layertap.capture(model, X[:4], attributions=0, steps=1)
    assert few.gaps["fusion"].max() > 1e-4


def test_they_are_saved_and_verified(tmp_path):
    model = build(bends)
    model.compile(loss="mse")
    data = X, np.ones((ROWS, 2), "float32")
    chosen = {"attributions": "loss", "outputs": "inner", "before": "fusion"}
    from_mean = chosen | {"gradients": 0, "baseline": "mean"}
    saved = layertap.save(model, data, tmp_path / "v", **from_mean)
    captured = layertap.capture(model, data, baseline="mean", **chosen)
    assert list(saved.attributions) == ["fusion/in/0", "fusion/in/1", "inner/out"]
    assert list(saved.gaps) == ["fusion", "inner/out"]
    for name, part in captured.attributions.items():
        close(saved.attributions[name][:], part)
    assert saved.plan.baseline.startswith("mean (")
    report = layertap.verify(saved, model, data)
    assert report, report
    added = {c.address for c in report.checks if "added" in c.what}
    assert added == {"fusion", "inner/out"}
    again = layertap.save(model, data, tmp_path / "v", **from_mean)
    assert again.reader.store == saved.reader.store
    with pytest.raises(OtherRunError, match="baseline: the store has mean"):
        layertap.save(model, data, tmp_path / "v", gradients=0, **chosen)
    other = {"fusion/in/0": 0, "fusion/in/1": 0, "inner/out": 0}
    zero = layertap.save(
        model, data, tmp_path / "w", baseline=other, dtype="bfloat16", **chosen
    )
    with pytest.raises(OtherRunError, match="another `baseline`"):
        layertap.verify(zero, model, data)
    assert layertap.verify(zero, model, data, baseline=other)


def test_a_save_that_stopped_resumes_with_other_batches(tmp_path):
    model = build(partial(bends, units=8))

    def broken():
        for start in (0, 5):
            yield X[start : start + 5]
        raise KeyboardInterrupt

    options = {"attributions": 0, "gradients": 1}
    with pytest.raises(KeyboardInterrupt):
        layertap.save(model, broken(), tmp_path / "v", **options)
    saved = layertap.save(model, X, tmp_path / "v", batch_size=15, **options)
    assert saved.complete
    assert saved.gaps["fusion"].max() < 1e-5
    assert layertap.verify(saved, model, X, batch_size=12, rows=None)
    whole = layertap.save(model, X, tmp_path / "w", **options)
    assert layertap.diff(saved, whole)


def test_sums_that_are_wrong_are_found(tmp_path):
    model = build(bends)
    saved = layertap.save(model, X, tmp_path / "v", attributions=0, steps=2)
    assert layertap.verify(saved, model, X)
    head = model.get_layer("head")
    head.kernel.assign(1.01 * head.kernel)
    wrong = [check for check in layertap.verify(saved, model, X).checks if not check.ok]
    assert "attributions added, change of the target" in {c.what for c in wrong}


def test_a_baseline_at_another_address_is_refused():
    baseline = {"fusion/in/0": 0, "fusion/in/1": 0, "fusion/in/2": 0}
    with pytest.raises(AddressError, match="No value 'fusion/in/2'"):
        layertap.capture(build(squares), X, attributions=0, baseline=baseline)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "middle"}, "`baseline` is invalid. Expected 'zero', 'mean'"),
        ({"baseline": {"fusion/in/0": 0}}, "`baseline` has nothing for fusion/in/1"),
        (
            {"baseline": {"fusion/in/0": np.ones(5), "fusion/in/1": 0}},
            r"another shape for fusion/in/0. Expected \(4\)",
        ),
        ({"baseline": np.zeros(4)}, "`baseline` is invalid. Expected 'zero', 'mean'"),
        (
            {"baseline": {"fusion/in/0": "x", "fusion/in/1": 0}},
            "invalid for fusion/in/0. Expected numbers. Received 'x'",
        ),
        ({"steps": 0}, "`steps` is invalid. Expected a whole number, at least 1"),
    ],
)
def test_other_baselines_and_steps_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        layertap.capture(build(squares), X, attributions=0, **options)


@pytest.mark.parametrize("argument", ["gradients", "attributions"])
def test_a_target_of_another_kind_is_refused_by_the_name_of_its_argument(argument):
    with pytest.raises(OptionError, match=f"`{argument}` is invalid. Expected 'loss'"):
        layertap.plan(build(squares), **{argument: True})


def test_the_mean_needs_data_that_can_be_read_twice():
    with pytest.raises(OptionError, match="can be read only once"):
        layertap.capture(build(squares), iter([X]), attributions=0, baseline="mean")
