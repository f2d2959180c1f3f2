"""Hears a forward pass of a Keras model. All of Keras' private parts are in here.

`survey` runs the model with symbolic tensors and says what it joins; `tapped` makes
the compiled step that returns chosen values and does nothing after the last of them.
"""

try:
    import keras  # noqa: F401
except (ImportError, ValueError) as error:
    from layertap.errors import BackendMissingError

    raise BackendMissingError(
        f"Keras can't be imported: {error}. Install the backend that it is set to, "
        'for instance `pip install "layertap[tensorflow]"` (or [jax], [torch]), or '
        "set KERAS_BACKEND to one that is installed."
    ) from error
