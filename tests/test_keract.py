"""`layertap.keract`: activations, their keys, and files of them."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap import keract

pytestmark = pytest.mark.one_backend

X = np.random.default_rng(0).normal(size=(4, 3))


def shared():
    """Two calls of one nested model, and a layer that keract drops for its name."""
    # Operations without a name are numbered from here.
    keras.utils.clear_session()
    i1 = keras.Input((3,), name="i1")
    encoder = keras.Sequential(
        [keras.Input((3,)), layers.Dense(3, name="d"), layers.ReLU(name="r")],
        name="encoder",
    )
    x = layers.Rescaling(2.0, name="my_input_scale")(encoder(i1))
    x = encoder(x) + 1.0
    return keras.Model(i1, layers.Dense(2, name="head")(x), name="shared")


def by_hand(model):
    kernel, bias, last, offset = model.get_weights()
    first = np.maximum(X @ kernel + bias, 0)
    second = np.maximum(2 * first @ kernel + bias, 0)
    return {
        "i1": X,
        "encoder/d": X @ kernel + bias,
        "encoder": first,
        "my_input_scale": 2 * first,
        "encoder@2/d": 2 * first @ kernel + bias,
        "encoder@2": second,
        "add": second + 1,
        "head": (second + 1) @ last + offset,
    }


def close(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


def test_every_layer_and_every_call_has_its_activation():
    model = shared()
    hand = by_hand(model)
    top = {name: array for name, array in hand.items() if "/" not in name}
    close(keract.get_activations(model, X), top)
    nested = {
        "i1": X,
        "encoder/d": hand["encoder/d"],
        "encoder/r": hand["encoder"],
        "my_input_scale": hand["my_input_scale"],
        "encoder@2/d": hand["encoder@2/d"],
        "encoder@2/r": hand["encoder@2"],
        "add": hand["add"],
        "head": hand["head"],
    }
    close(keract.get_activations(model, X, nested=True), nested)
    full = {f"{name}:0": array for name, array in top.items()}
    close(keract.get_activations(model, X, output_format="full"), full)
    numbered = dict(enumerate(top.values()))
    close(keract.get_activations(model, X, output_format="numbered"), numbered)


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        ("encoder", ["encoder", "encoder@2"]),
        ("encoder@2", ["encoder@2"]),
        (["head", "i1"], ["i1", "head"]),
        (["encoder/d"], ["encoder/d", "encoder@2/d"]),
    ],
)
def test_a_name_selects_all_calls_of_a_layer(names, keys):
    model = shared()
    hand = by_hand(model)
    found = keract.get_activations(model, X, layer_names=names)
    close(found, {key: hand[key] for key in keys})


def test_names_are_those_of_keras():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="my dense [0]")])
    expected = X @ model.get_weights()[0]
    for names in (None, "my dense [0]"):
        found = keract.get_activations(model, X, layer_names=names)
        np.testing.assert_allclose(found["my dense [0]"], expected, rtol=1e-5)


def test_an_unknown_name_is_an_error_with_the_nearest_ones():
    with pytest.raises(layertap.AddressError, match="Did you mean 'head'"):
        keract.get_activations(shared(), X, layer_names=["encoder", "heads"])
    with pytest.raises(KeyError, match="'i1'"):
        # The inputs have no gradients.
        keract.get_gradients_of_activations(shared(), X, X, layer_names="i1")


class Folding(layers.Layer):
    """Adds up all rows."""

    def call(self, x):
        return ops.sum(x, axis=0)


def test_what_cannot_be_captured_is_named_or_refused():
    i1 = keras.Input((3,), name="i1")
    total = Folding(name="total")(i1)
    both = layers.Lambda(lambda x: x[0] + x[1], name="sum")
    model = keras.Model(i1, both([i1, total]))
    with pytest.warns(layertap.PartialWarning, match="total: ") as seen:
        found = keract.get_activations(model, X)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    close(found, {"i1": X, "sum": X + X.sum(axis=0)})
    with pytest.raises(layertap.RefusedError, match="total: "):
        keract.get_activations(model, X, layer_names=["sum", "total"])


def test_nodes_are_those_of_the_graph():
    model = shared()
    hand = by_hand(model)
    encoder, scale = model.get_layer("encoder"), model.get_layer("my_input_scale")
    second = model.get_layer("head").input
    nodes = [model.inputs[0], scale.output, second, scale.input, encoder.variables[0]]
    found = keract.get_activations(model, X, nodes_to_evaluate=nodes)
    close(
        found,
        {
            "i1:0": X,
            "my_input_scale:0": hand["my_input_scale"],
            "add:0": hand["add"],
            "encoder:0": hand["encoder"],
            f"{encoder.variables[0].path}:0": model.get_weights()[0],
        },
    )
    again = keract.get_activations(
        model, X, nodes_to_evaluate=[model.layers[-1].input, encoder.outputs[0]][:1]
    )
    close(again, {"add:0": hand["add"]})


def test_a_node_of_several_outputs_and_of_a_second_call():
    i1 = keras.Input((2, 3), name="i1")
    lstm = layers.LSTM(2, return_sequences=True, return_state=True, name="lstm")
    sequence, state, memory = lstm(i1)
    twice = layers.Rescaling(2.0, name="twice")
    last = twice(twice(state))
    model = keras.Model(i1, [last, sequence, memory])
    x = np.random.default_rng(1).normal(size=(4, 2, 3))
    found = keract.get_activations(model, x, nodes_to_evaluate=[last, state])
    of_lstm = keract.get_activations(model, x)["lstm"]
    assert isinstance(of_lstm, list)
    assert [part.shape for part in of_lstm] == [(4, 2, 2), (4, 2), (4, 2)]
    np.testing.assert_array_equal(of_lstm[0][:, -1], of_lstm[1])
    close(found, {"twice@2:0": 4 * of_lstm[1], "lstm:1": of_lstm[1]})


@pytest.mark.parametrize("node", ["encoder", "other", "array"])
def test_a_node_that_is_not_of_the_graph_is_an_error(node):
    model = shared()
    nodes = {
        "encoder": model.get_layer("encoder").outputs[0],
        "other": keras.Input((3,)),
        "array": X,
    }
    with pytest.raises(layertap.OptionError, match="symbolic tensors of the graph"):
        keract.get_activations(model, X, nodes_to_evaluate=[nodes[node]])


def test_options_that_are_not_valid():
    model = shared()
    with pytest.raises(layertap.OptionError, match="'ful'"):
        keract.get_activations(model, X, output_format="ful")
    with pytest.raises(layertap.OptionError, match="Received both"):
        keract.get_activations(model, X, "head", nodes_to_evaluate=model.outputs)
    with pytest.raises(layertap.OptionError, match="auto_compile=False"):
        keract.get_activations(model, X, auto_compile=False)
    assert not model.compiled
    model.compile(loss="mse")
    assert "head" in keract.get_activations(model, X, auto_compile=False)
    with pytest.raises(layertap.ModelError, match="Keras 3"):
        keract.get_activations(layers.Dense(1), X)


def test_a_model_that_was_never_called_is_built():
    model = keras.Sequential([layers.Dense(2, name="d")])
    found = keract.get_activations(model, X)
    np.testing.assert_allclose(found["d"], X @ model.get_weights()[0], rtol=1e-5)


def same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype, name


def test_numbers_come_back_from_a_file_in_their_dtype(tmp_path):
    random = np.random.default_rng(2)
    arrays = {
        "float32": random.normal(size=(2, 3)).astype("float32"),
        "float64": random.normal(size=(2, 3)),
        "large": np.array([[1e300, -1.5]]),
        "integers": np.arange(6).reshape(2, 3),
        "booleans": np.array([[True, False]]),
        "not finite": np.array([[np.nan, np.inf, -np.inf]], "float32"),
        "texts": np.array([["a", "bc"]]),
    }
    path = tmp_path / "activations.json"
    keract.persist_to_json_file(arrays, path)
    same(keract.load_activations_from_json_file(path), arrays)


def test_lists_and_numbered_keys_come_back_from_a_file(tmp_path):
    sequence, state = np.ones((4, 2, 3), "float32"), np.zeros((4, 3), "float32")
    path = str(tmp_path / "activations.json")
    keract.persist_to_json_file({0: [sequence, state, None], 1: state}, path)
    found = keract.load_activations_from_json_file(path)
    assert list(found) == ["0", "1"]
    first, second, nothing = found["0"]
    same({"0": first, "1": second}, {"0": sequence, "1": state})
    assert nothing is None


def test_files_have_the_form_of_keract(tmp_path):
    # json.dump(lists, indent=2), as keract calls it.
    path = tmp_path / "activations.json"
    path.write_text('{\n  "fc1": [\n    [\n      0.5,\n      -0.1\n    ]\n  ]\n}')
    same(keract.load_activations_from_json_file(path), {"fc1": np.array([[0.5, -0.1]])})
    keract.persist_to_json_file({"fc1": np.array([[0.5, -0.1]])}, path)
    assert json.loads(path.read_text()) == {"fc1": [[0.5, -0.1]]}


def test_keract_has_the_signatures_of_keract():
    import inspect

    # As the release 4.5.2 has them.
    expected = {
        "get_activations": "(model, x, layer_names=None, nodes_to_evaluate=None, "
        "output_format='simple', nested=False, auto_compile=True)",
        "get_gradients_of_activations": "(model, x, y, layer_names=None, "
        "output_format='simple', nested=False)",
        "get_gradients_of_trainable_weights": "(model, x, y)",
        "persist_to_json_file": "(activations, filename)",
        "load_activations_from_json_file": "(filename)",
        "display_activations": "(activations, cmap=None, save=False, directory='.', "
        "data_format='channels_last', fig_size=(24, 24), reshape_1d_layers=False)",
        "display_heatmaps": "(activations, input_image, directory='.', save=False, "
        "fix=True, merge_filters=False)",
        "display_gradients_of_trainable_weights": "(gradients, directory='.', "
        "save=False)",
    }
    for name, signature in expected.items():
        found = inspect.signature(getattr(keract, name))
        plain = found.replace(
            parameters=[
                parameter.replace(annotation=inspect.Parameter.empty)
                for parameter in found.parameters.values()
            ],
            return_annotation=inspect.Signature.empty,
        )
        assert str(plain) == signature


def test_missing_labels_and_other_files_are_said(tmp_path):
    model = shared()
    model.compile("sgd", "mse")
    with pytest.raises(layertap.DataError, match="The loss of 'shared' has no labels"):
        keract.get_gradients_of_trainable_weights(model, X, None)
    with pytest.raises(layertap.OptionError, match="`layer_names` is empty"):
        keract.get_activations(model, X, [])
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(layertap.DataError, match="Expected nested lists by key"):
        keract.load_activations_from_json_file(tmp_path / "a.json")
