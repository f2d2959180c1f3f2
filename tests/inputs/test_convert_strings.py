"""Strings as inputs: in every form on TensorFlow, refused by name elsewhere."""

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import torch
from click.testing import CliRunner
from keras import layers

import layertap
from layertap.cli import main
from layertap.errors import DataTypeError, LayertapError, ModelError, OtherRunError

pytestmark = pytest.mark.every_backend
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="Keras has strings on TensorFlow alone, and runs on another backend",
)

TEXTS = ["good film", "Bad film!", "good, good", "what a bad day", "zoë"]
# By hand: the words of `vocabulary` after padding (0) and unknown words (1).
TOKENS = [[2, 4, 0, 0], [3, 4, 0, 0], [2, 2, 0, 0], [1, 1, 3, 1], [1, 0, 0, 0]]
WORDS = ["good", "bad", "film"]
X = np.arange(10, dtype="float32").reshape(5, 2)


def reads_texts() -> keras.Model:
    keras.utils.set_random_seed(0)
    text, x = keras.Input((), dtype="string", name="text"), keras.Input((2,), name="x")
    tokens = layers.TextVectorization(
        output_sequence_length=4, vocabulary=WORDS, name="tokens"
    )(text)
    flat = layers.Flatten(name="flat")(layers.Embedding(5, 3, name="word")(tokens))
    joined = layers.Concatenate(name="fusion")([flat, x])
    return keras.Model({"text": text, "x": x}, layers.Dense(1, name="head")(joined))


def embedded(model: keras.Model) -> np.ndarray:
    (table,) = model.get_layer("word").get_weights()
    return table[np.array(TOKENS)].reshape(5, 12)


FORMS = {
    "unicode": lambda: np.array(TEXTS),
    "objects": lambda: np.array(TEXTS, object),
    "bytes": lambda: np.array([text.encode() for text in TEXTS]),
    "a column": lambda: np.array(TEXTS)[:, None],
    "list": lambda: TEXTS,
    "list of bytes": lambda: [text.encode() for text in TEXTS],
    "tensor": lambda: tf.constant(TEXTS),
    "pandas": lambda: pd.Series(TEXTS),
}


@on_tensorflow
def test_strings_of_every_form_are_one_run(tmp_path):
    model, path = reads_texts(), tmp_path / "v.zarr"
    for form in FORMS.values():
        saved = layertap.save(model, {"text": form(), "x": X}, path)
        np.testing.assert_array_equal(saved["fusion/in/0"][:], embedded(model))
    assert layertap.verify(saved, model, {"text": TEXTS, "x": X})
    other = {"text": ["good films", *TEXTS[1:]], "x": X}
    with pytest.raises(OtherRunError, match="the inputs of row 0 are"):
        layertap.save(model, other, path)
    # The same letters, in other strings.
    moved = {"text": ["good fil", "mBad film!", *TEXTS[2:]], "x": X}
    with pytest.raises(OtherRunError, match="the inputs of row 0 are"):
        layertap.save(model, moved, path)
    assert not layertap.verify(saved, model, other)


@on_tensorflow
def test_strings_that_come_in_batches():
    model = reads_texts()
    rows = [({"text": text, "x": x}, 1) for text, x in zip(TEXTS, X, strict=True)]
    streams = (
        tf.data.Dataset.from_tensor_slices({"text": TEXTS, "x": X}).batch(2),
        ({"text": TEXTS[i : i + 2], "x": X[i : i + 2]} for i in (0, 2, 4)),
        torch.utils.data.DataLoader(rows, batch_size=2),
    )
    for stream in streams:
        values = layertap.capture(model, stream)
        np.testing.assert_array_equal(values["fusion/in/0"], embedded(model))


@on_tensorflow
def test_strings_of_files_on_the_command_line(tmp_path):
    model = reads_texts()
    model.save(tmp_path / "m.keras")
    pq.write_table(pa.table({"text": TEXTS, "x": X.tolist()}), tmp_path / "x.parquet")
    np.savez(tmp_path / "x.npz", text=np.array(TEXTS), x=X)
    for data in ("x.parquet", "x.npz"):
        words = ["save", tmp_path / "m.keras", tmp_path / data, "-o", tmp_path / "v"]
        # The second call finds the same run.
        ended = CliRunner().invoke(main, list(map(str, words)))
        assert ended.exit_code == 0, ended.output
    saved = layertap.open(tmp_path / "v")
    np.testing.assert_array_equal(saved["fusion/in/0"][:], embedded(model))


@on_tensorflow
def test_parts_of_a_model_of_strings():
    model = reads_texts()
    stem, head = layertap.split(model)
    data = {"text": tf.constant(TEXTS), "x": X}
    values = layertap.capture(stem, data, outputs="flat")
    np.testing.assert_array_equal(values["flat/out"], embedded(model))
    expected = model.predict(data, verbose=0)
    actual = head.predict(stem.predict(data, verbose=0), verbose=0)
    np.testing.assert_array_equal(actual, expected)


COUNTS = np.array([[TOKENS[row].count(n) for n in range(1, 5)] for row in range(5)])
WEIGHTS = [0.5, 0.25, 2.0]
# By hand; unknown words weigh as much as known ones on average.
MODES = {
    "multi_hot": COUNTS > 0,
    "count": COUNTS,
    "tf_idf": COUNTS * np.float32([np.mean(WEIGHTS), *WEIGHTS]),
}


@on_tensorflow
@pytest.mark.parametrize("mode", MODES)
def test_a_vector_of_words(mode):
    text, x = keras.Input((), dtype="string", name="text"), keras.Input((2,), name="x")
    weights = {"idf_weights": WEIGHTS} if mode == "tf_idf" else {}
    vector = layers.TextVectorization(output_mode=mode, vocabulary=WORDS, **weights)
    joined = layers.Concatenate(name="fusion")([vector(text), x])
    values = layertap.capture(keras.Model([text, x], joined), [TEXTS, X])
    np.testing.assert_allclose(values["fusion/in/0"], MODES[mode], rtol=1e-6)


@on_tensorflow
def test_a_subclassed_model_of_strings():
    class Reads(keras.Model):
        def __init__(self):
            super().__init__(name="reads")
            self.city = layers.StringLookup(
                vocabulary=["a", "b"], output_mode="one_hot", name="city"
            )
            self.fusion = layers.Concatenate(name="fusion")

        def call(self, inputs):
            return self.fusion([self.city(inputs["city"]), inputs["x"]])

    data = {"city": ["a", "b", "z", "b", "a"], "x": X}
    values = layertap.capture(Reads(), data)
    np.testing.assert_array_equal(values["fusion/in/0"], np.eye(3)[[1, 2, 0, 2, 1]])


@on_tensorflow
def test_what_is_not_a_string_is_refused_with_its_row():
    model = reads_texts()
    for texts, words in (
        ([*TEXTS[:3], None, "x"], "'text' holds None in row 3. Expected strings"),
        ([*TEXTS[:4], np.nan], "'text' holds nan in row 4"),
        (range(5), "'text' holds 0 in row 0. Expected strings"),
        (["a", "b", "\udc80", "c", "d"], r"'text' holds '\\udc80' in row 2"),
    ):
        array = np.array(texts, object)
        with pytest.raises(DataTypeError, match=words):
            layertap.capture(model, {"text": array, "x": X}, batch_size=2)
    with pytest.raises(LayertapError, match="text/out: it holds strings, not numbers"):
        layertap.plan(model, outputs="text")


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="Keras has strings on TensorFlow, on which it runs",
)
def test_without_tensorflow_strings_are_refused_in_one_line(tmp_path):
    model, data = reads_texts(), {"text": TEXTS, "x": X}
    for refused in (
        lambda: layertap.plan(model),
        lambda: layertap.capture(model, data),
        lambda: layertap.save(model, data, tmp_path / "v.zarr"),
        lambda: layertap.split(model),
    ):
        with pytest.raises(
            ModelError, match=r"Input 'text' of .* holds strings"
        ) as one:
            refused()
        assert "on TensorFlow only. Received the backend" in str(one.value)
        assert "\n" not in str(one.value)
