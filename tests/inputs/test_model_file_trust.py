"""A model file runs no code, unless it is trusted."""

import keras
import pytest

from layertap.errors import ModelFileError
from layertap.inputs.model_file import load_model

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]


def with_code(path):
    x = keras.Input((8,), name="x")
    # Building this model runs this code, which leaves a file.
    code = eval(f"lambda t: open({str(path) + '.ran'!r}, 'w').close() or t * 2")
    twice = keras.layers.Lambda(code, name="twice")(x)
    joined = keras.layers.Concatenate(name="fusion")([twice, x])
    keras.Model(x, joined, name="with_code").save(path)
    ran = path.with_name(path.name + ".ran")
    ran.unlink()
    return ran


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.hdf5"])
def test_code_runs_only_if_the_file_is_trusted(tmp_path, name):
    ran = with_code(tmp_path / name)
    with pytest.raises(ModelFileError, match="--trust-model"):
        load_model(str(tmp_path / name))
    assert not ran.exists()
    assert load_model(str(tmp_path / name), trust=True).name == "with_code"
    assert ran.exists()


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_once_trusted_is_not_always_trusted(tmp_path, name):
    ran = with_code(tmp_path / name)
    load_model(str(tmp_path / name), trust=True)
    ran.unlink()
    with pytest.raises(ModelFileError, match="--trust-model"):
        load_model(str(tmp_path / name))
    assert not ran.exists()
