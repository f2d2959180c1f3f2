"""Traces the forward pass of a Keras model. It imports Keras, or names the problem."""

from layertap.core.optional import require_keras

require_keras()
