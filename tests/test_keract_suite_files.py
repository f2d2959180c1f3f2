"""The tests of keract 4.5.2 for pictures and files: see `test_keract_suite.py`.

MIT License

Copyright (c) 2019 Philippe Rémy

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""

# The text is theirs, and so is its style.
# ruff: noqa: B905, N812, PT009, PTH107, PTH207
import os
import unittest
from glob import glob

import keras.backend as K
import numpy as np
import pytest
from keras import Input, Model, Sequential
from keras.layers import Dense, Dropout

from layertap.keract import (
    display_activations,
    get_activations,
    load_activations_from_json_file,
    persist_to_json_file,
)
from layertap.results.views.channel_maps import rectangle as _convert_1d_to_2d

pytestmark = [
    pytest.mark.one_backend,
    # As written for Keras 2: Dense(16, input_shape=(10,)).
    pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`:UserWarning"),
]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    """Lets tests write into the working directory, and delete from it."""
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)


def dummy_model_and_inputs():
    i1 = Input(shape=(10,), name="i1")
    a = Dense(1, name="fc1")(i1)
    model = Model(inputs=[i1], outputs=[a])
    x = np.random.uniform(size=(1, 10))
    return model, x


class DisplayActivationsTest(unittest.TestCase):
    def setUp(self) -> None:
        K.clear_session()

    def tearDown(self) -> None:
        K.clear_session()
        for image in glob("*.png"):
            os.remove(image)

    def test_display_1(self):
        model, x = dummy_model_and_inputs()
        acts = get_activations(model, x)
        display_activations(acts, save=True)

    def test_display_2(self):
        acts = {"1_channel": np.random.uniform(size=(1, 32, 32, 1))}
        display_activations(acts, save=True)

    def test_convert_1d_to_2d(self):
        self.assertEqual(_convert_1d_to_2d(64), (8, 8))
        self.assertEqual(_convert_1d_to_2d(32), (8, 4))
        self.assertEqual(_convert_1d_to_2d(32 * 33), (33, 32))


class PersistLoadTest(unittest.TestCase):
    def setUp(self) -> None:
        K.clear_session()

    def tearDown(self) -> None:
        K.clear_session()
        os.remove("activations.json")

    def test_load_persist(self):
        # define the model.
        model = Sequential()
        model.add(Dense(16, input_shape=(10,)))
        model.add(Dropout(0.5))
        model.add(Dense(10, activation="softmax"))
        model.compile(optimizer="adam", loss="categorical_crossentropy")

        # fetch activations.
        x = np.ones((2, 10))
        activations = get_activations(model, x)

        # persist the activations to the disk.
        output = "activations.json"
        persist_to_json_file(activations, output)

        # read them from the disk.
        activations2 = load_activations_from_json_file(output)

        for a1, a2 in zip(list(activations.values()), list(activations2.values())):
            np.testing.assert_almost_equal(a1, a2)
