"""A file of an older Keras is named as such, with the cause and with what to do."""

import json
import zipfile

import h5py
import keras
import pytest

from layertap.errors import ModelFileError
from layertap.inputs.model_file import load_model

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]


def h5(path, layer, version="2.1.3"):
    """Writes the configuration of a model of one layer, as Keras 2 did."""
    layer = {"config": {"name": "only"}, "inbound_nodes": [[["x", 0, 0, {}]]]} | layer
    x = {"batch_input_shape": [None, 4, 3], "dtype": "float32", "name": "x"}
    layers = [
        {"class_name": "InputLayer", "config": x, "name": "x", "inbound_nodes": []},
        layer | {"name": "only"},
    ]
    ends = {"input_layers": [["x", 0, 0]], "output_layers": [["only", 0, 0]]}
    config = {"name": "old", "layers": layers} | ends
    model = {"class_name": "Model", "config": config}
    with h5py.File(path, "w") as file:
        if version is not None:
            file.attrs["keras_version"] = version
        file.attrs["model_config"] = json.dumps(model)
        file.create_group("model_weights").attrs["layer_names"] = ["x", "only"]


# An argument that is gone. Keras writes the configuration of the layer first.
GONE = {"time_major": False, "units": 2, "name": "only" * 100}
OLD = {"class_name": "Dense", "config": GONE}


@pytest.mark.parametrize("version", ["2.1.3", b"1.2.2", "2.15.0"])
def test_the_version_and_the_cause_of_an_old_h5(tmp_path, version):
    path = str(tmp_path / "old.h5")
    h5(path, OLD, version)
    with pytest.raises(ModelFileError) as raised:
        load_model(path)
    message = str(raised.value)
    name = version if isinstance(version, str) else version.decode()
    assert f"old.h5 was saved by Keras {name}, and Keras {keras.__version__}" in message
    assert "time_major" in message
    assert "cut off" not in message
    assert "tf_keras" in message
    assert "load_weights" in message
    assert len(message) < 700


def test_a_class_of_the_user_in_an_old_h5_still_needs_import(tmp_path):
    h5(tmp_path / "old.h5", {"class_name": "Fork"})
    with pytest.raises(ModelFileError, match=r"needs Fork.*--import"):
        load_model(str(tmp_path / "old.h5"))


def test_an_old_keras_file_does_not_need_import(tmp_path):
    config = {
        "module": "keras.src.engine.functional",
        "class_name": "Functional",
        "config": {"name": "old", "layers": []},
        "registered_name": "Functional",
    }
    with zipfile.ZipFile(tmp_path / "old.keras", "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(ModelFileError) as raised:
        load_model(str(tmp_path / "old.keras"))
    message = str(raised.value)
    assert "saved by Keras 2.15.0" in message
    assert "keras.src.engine.functional cannot be imported)" in message
    assert "--import" not in message


def test_the_cause_of_a_newer_file_is_at_the_end_of_what_keras_says(tmp_path):
    h5(tmp_path / "new.h5", OLD, "3.99.0")
    with pytest.raises(ModelFileError) as raised:
        load_model(str(tmp_path / "new.h5"))
    assert "new.h5, saved by Keras 3.99.0, can't be loaded" in str(raised.value)
    assert "time_major" in str(raised.value)


@pytest.mark.parametrize("version", [None, "", "x" * 99, "\x1b[31m2", 2.5])
def test_a_file_without_a_version_may_be_damaged(tmp_path, version):
    h5(tmp_path / "strange.h5", OLD, version)
    if version == 2.5:
        words = "saved by Keras 2.5"
    else:
        words = "cut off, damaged, or not a Keras model"
    with pytest.raises(ModelFileError, match=words):
        load_model(str(tmp_path / "strange.h5"))


def test_the_weights_of_an_old_file_load_into_the_same_model(tmp_path):
    """The advice of the message works."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    model.save(tmp_path / "old.h5")
    with h5py.File(tmp_path / "old.h5", "a") as file:
        file.attrs["keras_version"] = "2.1.3"
        file.attrs["model_config"] = '{"class_name": "Sequential", "config": []}'
    with pytest.raises(ModelFileError, match="load_weights"):
        load_model(str(tmp_path / "old.h5"))
    again = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    again.load_weights(tmp_path / "old.h5")
    assert (again.get_weights()[0] == model.get_weights()[0]).all()
