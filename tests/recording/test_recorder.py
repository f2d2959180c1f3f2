"""Recordings of trainings: a step is what a save has, and nothing else changes."""

import keras
import numpy as np
import pytest
from keras import layers

import layertap
from tests.support.training import (
    BATCH,
    EPOCHS,
    PER_EPOCH,
    PROBE,
    PROBED,
    Doubling,
    Probe,
    Weights,
    X,
    Y,
    calls,
    model,
    train,
)

pytestmark = pytest.mark.every_backend
ENDS = [PER_EPOCH * epoch for epoch in range(1, EPOCHS + 1)]


def assert_equal_to_saves(recording, weights, made, folder, **options):
    """Each step has the bytes of a save with the weights of that step."""
    assert list(recording) == list(weights.kept)
    for step, kept in weights.kept.items():
        made.set_weights(kept)
        expected = layertap.save(made, PROBE, folder / f"{step}.zarr", **options)
        saved = recording[step]
        assert saved.complete
        assert saved.identity == expected.identity
        assert list(saved) == list(expected)
        for name, array in expected.items():
            assert saved[name][:].tobytes() == array[:].tobytes(), (step, name)
        assert saved.labels[:].tolist() == Y[:PROBED].tolist()


class Own(keras.Model):
    """Trains with a step of its own."""

    def train_step(self, *arguments):
        return super().train_step(*arguments)


@pytest.mark.parametrize(
    ("every", "fitting", "compiling"),
    [
        (None, {}, {}),
        (None, {"validation_data": (X, Y)}, {"jit_compile": False}),
        (5, {"validation_data": (X, Y)}, {}),
        (None, {"epochs": 2}, {"run_eagerly": True}),
    ],
    ids=["epochs", "validation", "batches", "eager"],
)
def test_each_step_equals_a_save_with_its_weights(tmp_path, every, fitting, compiling):
    made, weights = model(Own), Weights(every)
    made.compile("adam", "sparse_categorical_crossentropy", **compiling)
    options = {"before": "fusion", "gradients": "loss", "batch_size": 8}
    recorder = layertap.Recorder(
        PROBE, tmp_path / "run", save_freq=every or "epoch", **options
    )
    train(made, recorder, weights, **fitting)
    recording = recorder.recording
    if every:
        # Those of an epoch of 12 batches, and then 5 batches each.
        assert list(recording) == [5, 10, 15, 20, 25, 30, 35]
        weights.kept = {step: weights.kept.get(step) for step in recording}
        weights.kept = {s: kept for s, kept in weights.kept.items() if kept}
        recording = {step: recording[step] for step in weights.kept}
        assert len(recording) == 2
    else:
        assert recording.epochs == dict(zip(recording, range(1, 9), strict=False))
        assert all("loss" in logs for logs in recording.logs.values())
    assert_equal_to_saves(recording, weights, made, tmp_path, **options)


def test_training_goes_as_without_a_recorder(tmp_path):
    alone, recorded = model(), model()
    before = train(alone, validation_data=(X, Y))
    recorder = layertap.Recorder(PROBE, tmp_path / "run", save_freq=4)
    after = train(recorded, recorder, validation_data=(X, Y))
    assert len(recorder.recording) == EPOCHS * PER_EPOCH // 4
    assert before.history == after.history
    ours, theirs = (m.get_weights() + m.optimizer.variables for m in (recorded, alone))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(np.array(one), np.array(other))


def test_the_model_is_traced_once(tmp_path):
    x = keras.Input((6,))
    parts = [Doubling()(layers.Dense(2)(x)), layers.Dense(3)(x)]
    joined = layers.Concatenate(name="fusion")(parts)
    made = keras.Model(x, layers.Dense(3, activation="softmax")(joined))
    made.compile("sgd", "sparse_categorical_crossentropy")
    counts = []
    count = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: counts.append(calls())
    )
    recorder = layertap.Recorder(X[:PROBED], tmp_path / "run", batch_size=7)
    train(made, recorder, count, epochs=5)
    assert len(recorder.recording) == 5
    # PyTorch runs the code for each batch.
    eager = keras.backend.backend() == "torch"
    expected = PER_EPOCH + PROBED // 7 if eager else 0
    assert np.diff(counts[1:]).tolist() == [expected] * 3


def test_mixed_precision_and_several_batches_at_once(tmp_path):
    x = keras.Input((6,))
    mixed = {"dtype": "mixed_float16"}
    parts = [layers.Dense(n, name=f"d{n}", **mixed)(x) for n in (2, 3)]
    joined = layers.Concatenate(name="fusion", **mixed)(parts)
    made = keras.Model(x, layers.Dense(3, activation="softmax")(joined))
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    # PyTorch has no such steps.
    several = 1 if keras.backend.backend() == "torch" else 5
    made.compile(
        optimizer, "sparse_categorical_crossentropy", steps_per_execution=several
    )
    recorder = layertap.Recorder(PROBE, tmp_path / "run", save_freq=4)
    train(made, recorder, epochs=2)
    recording = recorder.recording
    # At the ends of 5, 5 and 2 batches.
    ends = [4, 8, 12, 16, 20, 24] if several == 1 else [5, 10, 12, 17, 22, 24]
    assert list(recording) == ends
    assert recording[24]["fusion/in/0"].dtype == "float16"
    expected = layertap.capture(made, PROBE[0])
    np.testing.assert_array_equal(
        recording[24]["fusion/in/1"][:], expected["fusion/in/1"]
    )


def test_later_fits_go_on_and_early_stopping_finishes(tmp_path):
    made, weights = model(), Weights()
    recorder = layertap.Recorder(PROBE, tmp_path / "run", before="fusion")
    train(made, recorder, weights, epochs=1)
    assert recorder.recording.finished
    other = layertap.Recorder(PROBE, tmp_path / "run", before="fusion")
    stop = keras.callbacks.EarlyStopping("loss", patience=0, min_delta=1e9)
    train(made, stop, other, weights, epochs=9)
    recording = layertap.Recording(tmp_path / "run")
    assert list(recording) == [PER_EPOCH, 2 * PER_EPOCH, 3 * PER_EPOCH]
    assert recording.epochs == dict(zip(recording, [1, 1, 2], strict=True))
    assert recording.finished
    assert_equal_to_saves(recording, weights, made, tmp_path, before="fusion")


def test_a_train_step_without_the_optimizer_is_counted_by_batches(tmp_path):
    class Still(keras.Model):
        def train_step(self, *arguments):
            logs = {"loss": keras.ops.ones(())}
            if keras.backend.backend() == "jax":
                return logs, arguments[0]
            return logs

    trained = model()
    # Its metrics are never built.
    made = Still(trained.inputs, trained.outputs)
    made.compile("sgd", "sparse_categorical_crossentropy")
    recorder = layertap.Recorder(PROBE, tmp_path / "run")
    train(made, recorder)
    assert list(recorder.recording) == ENDS
    # Nothing shows where the model is: another recorder goes on.
    train(made, layertap.Recorder(PROBE, tmp_path / "run"), epochs=1)
    assert list(recorder.recording) == [*ENDS, ENDS[-1] + PER_EPOCH]


@pytest.mark.one_backend
def test_counted_batches_continue_after_a_kill(tmp_path):
    class Still(keras.Model):
        def train_step(self, *arguments):
            return {"loss": keras.ops.ones(())}

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.params["epochs"] == 4 and int(batch) == 7 and self.seen:
                raise KeyboardInterrupt

        def on_epoch_end(self, epoch, logs=None):
            self.seen = epoch == 1

        seen = False

    def fit(epochs, *callbacks):
        trained = model()
        made = Still(trained.inputs, trained.outputs)
        made.compile("sgd", "sparse_categorical_crossentropy")
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        recorder = layertap.Recorder(PROBE, tmp_path / "run", save_freq=4)
        train(made, recorder, backup, *callbacks, epochs=epochs)
        return recorder.recording

    with pytest.raises(KeyboardInterrupt):
        fit(4, Stop())
    assert list(layertap.Recording(tmp_path / "run"))[-1] == 32
    # It goes on after the second epoch.
    recording = fit(3)
    assert list(recording) == [4, 8, 12, 16, 20, 24, 28, 32, 36]
    assert recording.epochs[28] == 3


def test_a_loss_scale_that_overflows_is_no_step(tmp_path):
    x = keras.Input((6,))
    mixed = {"dtype": "mixed_float16"}
    parts = [layers.Dense(n, **mixed)(x) for n in (2, 3)]
    joined = layers.Concatenate(name="fusion", **mixed)(parts)
    made = keras.Model(x, layers.Dense(3, activation="softmax")(joined))
    inner = keras.optimizers.SGD()
    # The first batches overflow, and update nothing.
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**25)
    made.compile(optimizer, "sparse_categorical_crossentropy")
    recorder = layertap.Recorder(PROBE, tmp_path / "run", save_freq=1)
    train(made, recorder, epochs=1)
    updates = int(inner.iterations)
    assert 0 < updates < PER_EPOCH
    assert list(recorder.recording) == [*range(updates + 1)]


def test_several_batches_an_update_are_one_step(tmp_path):
    made = model()
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=5)
    made.compile(optimizer, "sparse_categorical_crossentropy")
    recorder = layertap.Recorder(PROBE, tmp_path / "run", save_freq=1)
    train(made, recorder, epochs=2)
    assert list(recorder.recording) == [0, 1, 2, 3, 4]


def test_data_that_draw_random_numbers_leave_those_of_the_training(tmp_path):
    import torch

    def weights(*callbacks):
        made = model()
        torch.manual_seed(9)
        rows = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
        data = torch.utils.data.DataLoader(rows, batch_size=8, shuffle=True)
        made.fit(data, epochs=2, verbose=0, shuffle=False, callbacks=[*callbacks])
        return made.get_weights()

    rows = torch.utils.data.TensorDataset(torch.tensor(X[:16]))
    probe = torch.utils.data.DataLoader(rows, batch_size=8)
    recorder = layertap.Recorder(probe, tmp_path / "run", save_freq=3)
    for one, other in zip(weights(), weights(recorder), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_error_of_the_data_is_missed_with_one_warning(tmp_path):
    def fail(reads):
        if reads in (2, 3):
            raise OSError("the probe is gone")

    recorder = layertap.Recorder(Probe(fail), tmp_path / "run", before="fusion")
    with pytest.warns(layertap.PartialWarning, match="Step 24 .* gone") as warned:
        history = train(model(), recorder, epochs=5)
    assert [w.category for w in warned].count(layertap.PartialWarning) == 1
    assert len(history.history["loss"]) == 5
    recording = recorder.recording
    assert list(recording) == [12, 48, 60]
    assert recording.missed == dict.fromkeys((24, 36), "OSError: the probe is gone")
    assert "3 steps from 12 to 60, finished, 2 steps missed" in repr(recording)
    with pytest.raises(KeyError, match="It could not be recorded: OSError"):
        recording[24]


def test_batches_of_a_last_smaller_size(tmp_path):
    made = model()
    recorder = layertap.Recorder((X[:13], Y[:13]), tmp_path / "run", batch_size=BATCH)
    train(made, recorder, epochs=1)
    expected = layertap.capture(made, X[:13], batch_size=BATCH)
    saved = recorder.recording[PER_EPOCH]
    np.testing.assert_array_equal(saved["fusion/in/0"][:], expected["fusion/in/0"])
