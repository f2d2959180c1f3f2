"""Every error that layertap raises, in one tree.

Each is also the builtin that a user would catch anyway:

    LayertapError
    ├── AddressError (KeyError)            no value, join or operation of that name
    ├── ModelError (ValueError)            a model that can't be heard, or not as asked
    │   ├── NoJoinsError                   nothing in the model is joined
    │   └── ListeningError                 Keras or the model did something unknown
    ├── ModelFileError (ValueError)        a file that holds no model that can be loaded
    ├── DataError (ValueError)             data that the model can't take
    │   └── DataTypeError (TypeError)      ... because of its type
    ├── OptionError (ValueError)           an argument that makes no sense
    ├── StoreError (OSError)               a store that can't be read or written
    │   ├── NotAStoreError                 a path that holds something else
    │   ├── StoreFormatError               a store of a newer format
    │   ├── StoreCorruptError              bytes that are not those that were written
    │   └── OtherRunError                  a store that another run made
    └── BackendMissingError (ImportError)  Keras' backend is not installed

A message says what was found, what was expected, where, and what to do.
"""


class LayertapError(Exception):
    """Any error raised by layertap."""

    __module__ = "layertap"


class AddressError(LayertapError, KeyError):
    """No value, join or operation has that name."""

    __module__ = "layertap"

    def __str__(self) -> str:
        # KeyError would show the message as a quoted repr.
        return str(self.args[0]) if self.args else ""


class ModelError(LayertapError, ValueError):
    """The model can't be heard, or not in the way that was asked for."""

    __module__ = "layertap"


class NoJoinsError(ModelError):
    """Nothing in the model is joined, and no output was asked for."""

    __module__ = "layertap"


class ListeningError(ModelError):
    """Keras or the model did something that listening does not know."""

    __module__ = "layertap"


class ModelFileError(LayertapError, ValueError):
    """The file holds no model, or none that may be loaded."""

    __module__ = "layertap"


class DataError(LayertapError, ValueError):
    """The model can't take this data."""

    __module__ = "layertap"


class DataTypeError(DataError, TypeError):
    """The model can't take data of this type."""

    __module__ = "layertap"


class OptionError(LayertapError, ValueError):
    """An argument makes no sense, alone or beside the others."""

    __module__ = "layertap"


class StoreError(LayertapError, OSError):
    """A store can't be read or written."""

    __module__ = "layertap"


class NotAStoreError(StoreError):
    """The path holds something, but no store of layertap's."""

    __module__ = "layertap"


class StoreFormatError(StoreError):
    """The store was written by a newer layertap."""

    __module__ = "layertap"


class StoreCorruptError(StoreError):
    """The store's bytes are not those that were written."""

    __module__ = "layertap"


class OtherRunError(StoreError):
    """The store belongs to another run: other weights, plan, data or versions."""

    __module__ = "layertap"


class BackendMissingError(LayertapError, ImportError):
    """The backend that Keras is set to is not installed."""

    __module__ = "layertap"
