"""Names of values: paths, addresses, globs, and the names a store reserves.

A path consists of Keras names from inside the root model: `encoder/mixed3`. The second
call at one path is `encoder@2/mixed3`. An address names one value: `fusion/in/0` is the
first branch of the join `fusion`, `dense/out` the output of `dense`. An address is also
an array's path in a store, and safe in a shell, in a URL and as a file name.
"""

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, unquote

from layertap.errors import AddressError, OptionError

# Arrays of a store that are not values of the model. Where the labels are a structure
# of arrays, their names begin with these.
LABELS = "labels"
IDS = "ids"
SAMPLE_WEIGHT = "sample_weight"
# Of the inputs of each batch.
DIGESTS = "digests"
# How many numbers of each row became infinite when they were narrowed: one column for
# each value in `Plan.narrowed`.
OVERFLOWED = "overflowed"
# The true sizes of padded values: one column for each axis in `Plan.padded`.
LENGTHS = "lengths"
# The share of the target that the attributions of each row miss: one column for each
# line in `Plan.lines`.
GAPS = "gaps"

# Names that no path may begin with.
RESERVED = frozenset(
    {LABELS, IDS, SAMPLE_WEIGHT, DIGESTS, OVERFLOWED, LENGTHS, GAPS, "zarr.json"}
)

Side = Literal["in", "out"]
# Stored with a value, at an address of its own.
Effect = Literal["gradient", "attribution"]

_NUMBER_OF_A_CALL = re.compile(r"@\d+(?=/|$)")
_LOOKS_LIKE_A_LATER_CALL = re.compile(r"@(?=\d+$)")

_ADDRESS = re.compile(
    r"(?P<path>.+)/(?P<side>in(?=[/_])|out)(?:_(?P<effect>gradient|attribution))?"
    r"(?P<index>/(?P<number>\d+))?(?<!/in)(?<!/in_gradient)(?<!/in_attribution)",
    re.ASCII,
)


class Address(NamedTuple):
    """The parts of an address.

    Attributes:
        path: The path of the operation.
        side: `"in"` for a branch, `"out"` for an output.
        number: Which branch or output, from 0 on.
    """

    path: str
    side: Side
    number: int


def component(name: str) -> str:
    """Encodes one Keras name as one part of a path.

    Characters outside ASCII letters, digits and `_ . @ -` are percent-encoded. So is
    whatever would make two names equal or leave the store: an `@2` at the end, names
    of dots only, a leading `__`, reserved names. `urllib.parse.unquote` decodes it.

    Example:
    >>> component("dense_1"), component("my dense"), component("..")
    ('dense_1', 'my%20dense', '%2E%2E')
    """
    safe = quote(name, safe="@").replace("~", "%7E")
    safe = _LOOKS_LIKE_A_LATER_CALL.sub("%40", safe)
    if safe.startswith("__"):
        safe = "%5F" + safe[1:]
    if safe in RESERVED or not safe.strip("."):
        safe = "".join(f"%{ord(character):02X}" for character in safe)
    return safe


def branch(path: str, index: int) -> str:
    """Returns the address of one branch of the join at `path`."""
    return f"{path}/in/{index}"


def output(path: str, index: int = 0, count: int = 1) -> str:
    """Returns the address of one of the `count` outputs of the operation at `path`."""
    return f"{path}/out" if count == 1 else f"{path}/out/{index}"


def parse(text: str) -> Address:
    """Splits an address into its parts: that of a gradient as that of its value."""
    parts = _ADDRESS.fullmatch(text)
    if parts is None:
        raise AddressError(
            f"{text!r} is not an address. Expected an end such as /in/0 (a join's "
            "first branch), /out or /out/1 (an operation's outputs)."
        )
    side: Side = "in" if parts["side"] == "in" else "out"
    return Address(parts["path"], side, int(parts["number"] or 0))


def effect(name: str, kind: Effect) -> str:
    """Returns the address of the gradient or the attribution of a value.

    Example:
    >>> effect("fusion/in/0", "gradient"), effect("dense/out", "attribution")
    ('fusion/in_gradient/0', 'dense/out_attribution')
    """
    parts = _parts(name)
    return f"{parts['path']}/{parts['side']}_{kind}{parts['index'] or ''}"


def value_of(name: str) -> str:
    """Returns the address of the value of a gradient or an attribution."""
    parts = _parts(name)
    return f"{parts['path']}/{parts['side']}{parts['index'] or ''}"


def _parts(name: str) -> re.Match[str]:
    parts = _ADDRESS.fullmatch(name)
    if parts is None:
        raise ValueError(f"{name[:100]!r} is not an address")
    return parts


def path_of(name: str) -> str:
    """Returns the path of the operation in an address; a path stays itself."""
    parts = _ADDRESS.fullmatch(name)
    return parts["path"] if parts else name


def of_all_calls(path: str) -> str:
    """Returns a path without the numbers of calls.

    Example:
    >>> of_all_calls("encoder@2/mixed3")
    'encoder/mixed3'
    """
    return _NUMBER_OF_A_CALL.sub("", path)


class LayerName(str):
    """The pattern of a layer: all paths that end in its name."""

    __slots__ = ()

    @classmethod
    def of(cls, layer: Any) -> "LayerName":
        """Returns the pattern of a layer, or raises OptionError for another object."""
        if isinstance(getattr(layer, "name", None), str):
            return cls(component(layer.name))
        raise OptionError(
            "A pattern has the wrong type. Expected a glob of names, or a layer. "
            f"Received {layer!r}."
        )


def names(pattern: str, path: str) -> bool:
    """Whether a pattern is the complete name of a path, or the layer there."""
    if isinstance(pattern, LayerName):
        return of_all_calls(path).rpartition("/")[2] == pattern
    return pattern in (path, unquote(path))


def match(patterns: Sequence[str], paths: Sequence[str], *, what: str) -> list[str]:
    """Selects the paths that match at least one pattern, in their order.

    Patterns are shell globs over complete paths: `*` crosses `/`. Names in them may be
    percent-encoded or as in Keras. A glob without `@` selects all calls of an
    operation; a complete path selects one. `what` names the paths in the error if a
    pattern matches nothing: `"join"`.
    """
    selected: set[str] = set()
    for pattern in patterns:
        every_call = "@" not in pattern and re.search(r"[*?[]", pattern)
        matching = set()
        for path in paths:
            forms = [path, of_all_calls(path) if every_call else path]
            forms += list(map(unquote, forms))
            globbed = any(fnmatch.fnmatchcase(form, pattern) for form in forms)
            if globbed or names(pattern, path):
                matching.add(path)
        if not matching:
            raise AddressError(
                f"No {what} of this model matches {pattern!r}. "
                + suggest(pattern, paths, what=what)
            )
        selected |= matching
    return [path for path in paths if path in selected]


def suggest(name: str, known: Iterable[str], *, what: str) -> str:
    """Suggests the known names nearest to an unknown one: `Did you mean 'fusion'?`."""
    names = list(dict.fromkeys(known))
    if not names:
        return f"There is no {what} at all."
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    near += [other for other in names if name.strip("*?") in other and name.strip("*?")]
    near = list(dict.fromkeys(near))[:3]
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    shown = ", ".join(map(repr, names[:8])) + (", …" if len(names) > 8 else "")
    return f"Known ({len(names)}): {shown}."


def patterns(globs: Any) -> list[str]:
    """Returns a glob or a layer, several of them, or None as a list of patterns."""
    if globs is None:
        return []
    if isinstance(globs, str) or not isinstance(globs, Iterable):
        globs = [globs]
    return [glob if isinstance(glob, str) else LayerName.of(glob) for glob in globs]
