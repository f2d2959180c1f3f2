"""Every error that layertap raises, in one tree; and its warning.

Each is also a subclass of the built-in class in parentheses:

    LayertapError
    ├── AddressError (KeyError)            no value, join or operation has the name
    ├── ModelError (ValueError)            the model can't be traced as requested
    │   ├── NoJoinsError                   nothing in the model is joined
    │   ├── RefusedError                   a value requested by name can't be captured
    │   └── ListeningError                 Keras or the model did something unknown
    ├── ModelFileError (ValueError)        no model can be loaded from the file
    ├── DataError (ValueError)             the model does not accept the data
    │   └── DataTypeError (TypeError)      ... because of their type
    ├── OptionError (ValueError)           an argument is unusable
    ├── StoreError (OSError)               a store can't be read or written
    │   ├── NotAStoreError                 the path has something else
    │   ├── StoreFormatError               a newer layertap wrote the store
    │   ├── StoreCorruptError              the bytes differ from the written ones
    │   └── OtherRunError                  another run made the store
    └── BackendMissingError (ImportError)  a package is missing, such as the backend

A `PartialWarning` (UserWarning) names values that a glob selected and that can't be
captured, or a step of a training that can't be recorded.

A message reports the expected and the received value, the place, and what to do.
"""

import numbers


class LayertapError(Exception):
    """Any error raised by layertap."""


class AddressError(LayertapError, KeyError):
    """No value, join or operation has the name."""

    def __str__(self) -> str:
        # KeyError would show the message as a quoted repr.
        return str(self.args[0]) if self.args else ""


class ModelError(LayertapError, ValueError):
    """The model can't be traced, or not as requested."""

    # Others come out of a `tf.function` as TensorFlow's own errors.
    __init__ = Exception.__init__


class NoJoinsError(ModelError):
    """Nothing in the model is joined, and no output was requested."""


class RefusedError(ModelError):
    """A value that was requested by name can't be captured."""


class PartialWarning(UserWarning):
    """Some values that a glob selected, or a step of a training, are missing."""


class ListeningError(ModelError):
    """Keras or the model did something that tracing does not support."""


class ModelFileError(LayertapError, ValueError):
    """The file has no model, or none that may be loaded."""


class DataError(LayertapError, ValueError):
    """The model does not accept these data."""


class DataTypeError(DataError, TypeError):
    """The model does not accept data of this type."""


class OptionError(LayertapError, ValueError):
    """An argument is unusable, alone or with the others."""


class StoreError(LayertapError, OSError):
    """A store can't be read or written."""


class NotAStoreError(StoreError):
    """The path has something that is not a store of layertap."""


class StoreFormatError(StoreError):
    """The store was written by a newer layertap."""


class StoreCorruptError(StoreError):
    """The store's bytes differ from the written ones."""


class OtherRunError(StoreError):
    """The store belongs to another run: other weights, plan, data or versions."""


class BackendMissingError(LayertapError, ImportError):
    """A package is not installed: the backend of Keras, or one of an extra."""


# The names in tracebacks and pickles.
for _class in tuple(vars().values()):
    if isinstance(_class, type) and issubclass(_class, LayertapError | Warning):
        _class.__module__ = "layertap"
del _class


def check_number(name: str, number: int | None, least: int) -> int | None:
    """Returns an argument: None, or a whole number of at least so much, or raises."""
    if number is not None and (
        isinstance(number, bool)
        or not isinstance(number, numbers.Integral)
        or int(number) < least
    ):
        raise OptionError(
            f"{name} is invalid. Expected a whole number, at least {least}. Received "
            f"{number!r}."
        )
    return None if number is None else int(number)
