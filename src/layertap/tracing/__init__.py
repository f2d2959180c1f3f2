"""Traces the forward pass of a Keras model. Importing it imports Keras."""

from layertap.core.optional import require_keras

require_keras()
