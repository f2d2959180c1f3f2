"""Hears a forward pass of a Keras model. All of Keras' private parts are in here.

`survey` runs the model with symbolic tensors and says what it joins; `tapped` makes
the compiled step that returns chosen values and does nothing after the last of them.
"""

from layertap.core.optional import require_keras

require_keras()
