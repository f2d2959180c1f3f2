"""Code in place of a third-party package."""

import keras
import numpy as np


class Towers(keras.Model):
    """A model with a dense tower of four units and one of three. Abstract."""

    def __init__(self):
        super().__init__(name="towers")
        self.left = keras.layers.Dense(4, name="left")
        self.right = keras.layers.Dense(3, name="right")

    def truth(self, x):
        """Returns the outputs of the towers, computed in NumPy."""
        return [
            x @ np.asarray(keras.ops.convert_to_numpy(tower.kernel))
            + np.asarray(keras.ops.convert_to_numpy(tower.bias))
            for tower in (self.left, self.right)
        ]


def fuse(function, *tensors):
    """Calls a function of the backend from this module."""
    return function(list(tensors), 1)
