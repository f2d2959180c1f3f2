"""The tests of keract 4.5.2 for models of other forms: see `test_keract_suite.py`.

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
# ruff: noqa: N812, PT009, RET504, RUF059
import unittest

import keras
import keras.backend as K
import numpy as np
import pytest
from keras import Input, Model
from keras.layers import LSTM, Add, Dense, Embedding, TimeDistributed, concatenate

from layertap import keract
from layertap.keract import get_activations

pytestmark = pytest.mark.every_backend


def create_network_with_one_subnet():
    # FROM https://stackoverflow.com/questions/54648296/how-to-flatten-a-nested-model-keras-functional-api/54648506
    # define subnetwork
    subnet = keras.models.Sequential(name="subnet")
    subnet.add(keras.layers.Conv2D(6, (3, 3), padding="same"))
    subnet.add(keras.layers.MaxPool2D())
    subnet.add(keras.layers.Conv2D(12, (3, 3), padding="same"))
    subnet.add(keras.layers.MaxPool2D())
    # subnet.summary()

    # define complete network
    input_shape = (32, 32, 1)
    net_in = keras.layers.Input(shape=input_shape)
    net_out = subnet(net_in)
    net_out = keras.layers.Flatten()(net_out)
    net_out = keras.layers.Dense(1)(net_out)
    net_complete = keras.Model(inputs=net_in, outputs=net_out)
    net_complete.compile(
        loss="binary_crossentropy",
        optimizer=keras.optimizers.Adam(learning_rate=0.001),
        metrics=["acc"],
    )
    net_complete.summary()
    # plot_model(net_complete)
    return net_complete


def get_multi_outputs_model():
    a = Input(shape=(10,), name="i1")
    b = Input(shape=(10,), name="i2")
    c = Add(name="add")([a, b])
    d = Dense(1, activation="sigmoid", name="o1")(c)
    e = Dense(2, activation="sigmoid", name="o2")(c)
    m_multi = Model(inputs=[a, b], outputs=[d, e])
    # plot_model(m_multi)
    return m_multi


class GetActivationsOfModelsTest(unittest.TestCase):
    def setUp(self) -> None:
        K.clear_session()

    def tearDown(self) -> None:
        K.clear_session()

    def test_inputs_order(self):
        i10 = Input(shape=(10,), name="i1")
        i40 = Input(shape=(40,), name="i4")
        i30 = Input(shape=(30,), name="i3")
        i20 = Input(shape=(20,), name="i2")

        a = Dense(1, name="fc1")(concatenate([i10, i40, i30, i20], name="concat"))
        model = Model(inputs=[i40, i30, i20, i10], outputs=[a])
        x = [
            np.random.uniform(size=(1, 40)),
            np.random.uniform(size=(1, 30)),
            np.random.uniform(size=(1, 20)),
            np.random.uniform(size=(1, 10)),
        ]

        acts = get_activations(model, x)
        self.assertListEqual(list(acts["i1"].shape), [1, 10])
        self.assertListEqual(list(acts["i2"].shape), [1, 20])
        self.assertListEqual(list(acts["i3"].shape), [1, 30])
        self.assertListEqual(list(acts["i4"].shape), [1, 40])

    def test_multi_inputs_multi_outputs(self):
        inp_a = np.random.uniform(size=(5, 10))
        inp_b = np.random.uniform(size=(5, 10))
        # out_d = np.random.uniform(size=(5, 1))
        # out_e = np.random.uniform(size=(5, 1))

        m1 = get_multi_outputs_model()
        m1.compile(optimizer="adam", loss="mse")
        # m1.fit(x=[inp_a, inp_b], y=[out_d, out_e])
        acts = keract.get_activations(m1, [inp_a, inp_b])
        self.assertListEqual(list(acts["i1"].shape), [5, 10])
        self.assertListEqual(list(acts["i2"].shape), [5, 10])
        self.assertListEqual(list(acts["add"].shape), [5, 10])
        self.assertListEqual(list(acts["o1"].shape), [5, 1])
        self.assertListEqual(list(acts["o2"].shape), [5, 2])

    def test_model_in_model(self):
        np.random.seed(123)
        inputs = np.random.uniform(size=(8, 32, 32, 1))
        nested_model = create_network_with_one_subnet()

        # will get the activations of every layer, EXCLUDING subnet layers.
        acts_not_nested = keract.get_activations(nested_model, inputs)
        self.assertTrue("subnet" in acts_not_nested)
        self.assertTrue("subnet/conv2d" not in acts_not_nested)

        # will get the activations of every layer, including subnet.
        acts_nested = keract.get_activations(nested_model, inputs, nested=True)
        self.assertTrue("subnet" not in acts_nested)
        self.assertTrue("subnet/conv2d" in acts_nested)
        self.assertTrue("subnet/max_pooling2d" in acts_nested)
        self.assertTrue("subnet/conv2d_1" in acts_nested)
        self.assertTrue("subnet/max_pooling2d_1" in acts_nested)

    def test_get_activations_from_multi_outputs(self):
        # define model
        inputs = keras.Input(shape=(None,), name="input")
        emb = keras.layers.Embedding(100, 4, name="embeddding")(inputs)
        lstm = keras.layers.LSTM(
            4, return_sequences=True, return_state=True, name="lstm"
        )
        lstm_outputs, state_h, state_c = lstm(emb)
        outputs = keras.layers.Dense(1, name="final_dense")(state_h)

        model = keras.Model(inputs, outputs)
        model.summary()

        # create example
        x = np.ones(shape=(16, 10))

        # get activations
        act = keract.get_activations(model, x, layer_names="lstm")["lstm"]
        self.assertEqual(len(act), 3)
        self.assertListEqual(list(act[0].shape), [16, 10, 4])
        self.assertListEqual(list(act[1].shape), [16, 4])
        self.assertListEqual(list(act[2].shape), [16, 4])

    def test_time_distributed(self):
        input_time = Input(shape=(None,), name="input_time")
        emb = Embedding(10, 4, name="embedding")(input_time)
        lstm = LSTM(4, name="lstm")(emb)
        output_time = Dense(1, name="output_time")(lstm)

        model_time = Model(input_time, output_time)
        print(model_time.summary())

        # define full model
        input = Input(shape=(None, None), name="input")
        timesteps = TimeDistributed(model_time, name="timedistributed")(input)
        output = Dense(1)(timesteps)

        model = Model(input, output)

        # create example
        x = np.array([[[1, 2, 1]], [[3, 4, 5]]])

        # get activations
        acts = keract.get_activations(
            model, x, layer_names=["timedistributed"], nested=True
        )
        self.assertTrue("timedistributed" in acts)
