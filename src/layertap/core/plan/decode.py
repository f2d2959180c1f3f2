"""Decodes records from the JSON of a store, which may be anyone's."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache, partial
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from layertap.core import text

_LONGEST_TEXT = 10_000

_hints_of = cache(partial(get_type_hints, include_extras=True))


def decode(kind: Any, data: Any) -> Any:
    """Returns data as its annotated type, or raises KeyError, TypeError or ValueError.

    A type is a dataclass, a text, a number, a truth value, or one of these with None,
    in a tuple or in a mapping. `Annotated` adds a function that refuses values.
    """
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints_of(kind)
        return kind(**{name: decode(hints[name], data[name]) for name in hints})
    form, parts = get_origin(kind), get_args(kind)
    if form is Annotated:
        inner, check = parts
        decoded = decode(inner, data)
        check(decoded)
        return decoded
    if form in (Union, UnionType):
        return None if data is None else decode(parts[0], data)
    if form is tuple and isinstance(data, list | tuple):
        return tuple(decode(parts[0], entry) for entry in data)
    if form is Mapping and isinstance(data, Mapping):
        name, value = parts
        return {decode(name, key): decode(value, data[key]) for key in data}
    if type(data) is not kind:
        raise TypeError(f"{data!r} should be of type {kind}")
    if kind is str:
        # In tables, a text is one line.
        return text.printable(data[:_LONGEST_TEXT]).replace("\n", " ")
    return data
