"""A model that is trained in tests, and what is recorded of it."""

import itertools
import os
import signal
import sys

import keras
import numpy as np
from keras import layers

import layertap

ROWS, PROBED, BATCH, EPOCHS = 96, 21, 8, 3
# Updates of the weights in an epoch.
PER_EPOCH = ROWS // BATCH
X = np.random.default_rng(0).normal(size=(ROWS, 6)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, ROWS)
PROBE = X[:PROBED], Y[:PROBED]


def model(kind=keras.Model, dropped=0.3):
    """A model with two branches, random numbers and moving averages."""
    keras.utils.set_random_seed(5)
    x = keras.Input((6,), name="x")
    left = layers.Dense(5, activation="relu", name="left")(x)
    right = layers.BatchNormalization(name="right")(layers.Dense(4)(x))
    joined = layers.Concatenate(name="fusion")([left, right])
    if dropped:
        joined = layers.Dropout(dropped, seed=1)(joined)
    made = kind(x, layers.Dense(3, activation="softmax", name="head")(joined))
    made.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return made


def train(made, *callbacks, **options):
    """Trains a model on the same batches in the same order."""
    options = {"epochs": EPOCHS, "verbose": 0, "shuffle": False} | options
    return made.fit(X, Y, batch_size=BATCH, callbacks=[*callbacks], **options)


class Weights(keras.callbacks.Callback):
    """Keeps the weights by step."""

    def __init__(self, every=None):
        super().__init__()
        self.every, self.kept = every, {}

    def keep(self):
        step = int(self.model.optimizer.iterations)
        self.kept[step] = [np.array(w) for w in self.model.get_weights()]

    def on_train_batch_end(self, batch, logs=None):
        if self.every and (batch + 1) % self.every == 0:
            self.keep()

    def on_epoch_end(self, epoch, logs=None):
        if not self.every:
            self.keep()


# Counts calls; what a layer's code changes itself would count as a change of the layer.
CALLS = itertools.count()


class Doubling(layers.Layer):
    """Counts how often its code runs."""

    def call(self, x):
        next(CALLS)
        return 2 * x


def calls():
    """How often `Doubling` was called."""
    return int(repr(CALLS).strip("count()"))


class Probe(keras.utils.PyDataset):
    """Probe data; an action runs each time that its first batch is read."""

    def __init__(self, action=lambda reads: None):
        super().__init__()
        self.reads, self.action = 0, action

    def __len__(self):
        return 3

    def __getitem__(self, number):
        if number == 1:
            self.reads += 1
            self.action(self.reads)
        rows = slice(7 * number, 7 * number + 7)
        return X[:PROBED][rows], Y[:PROBED][rows]


class Kill(keras.callbacks.Callback):
    """Kills the process at the end of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_at(read):
    """Kills the process when the probe data are read for the so-manyeth time."""

    def action(reads):
        if reads == read:
            os.kill(os.getpid(), signal.SIGKILL)

    return action


def killed_training(folder, moment):
    """Trains and records until it is killed; at no moment, to the end."""
    # A backup has no state of random numbers.
    made = model(dropped=0)
    probe = Probe(kill_at({"in a save": 3}.get(moment, 0)))
    backup = keras.callbacks.BackupAndRestore(f"{folder}/backup")
    recorder = layertap.Recorder(probe, f"{folder}/run", before="fusion")
    callbacks = {
        "after the backup": [backup, Kill(1), recorder],
        "after the record": [recorder, Kill(1), backup],
    }.get(moment, [backup, recorder])
    train(made, *callbacks, epochs=4)


if __name__ == "__main__":
    killed_training(*sys.argv[1:])
