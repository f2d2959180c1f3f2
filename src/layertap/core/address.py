"""Names of values: paths, addresses, globs, and what a user may have meant.

A path is made of Keras names from inside the root model, `encoder/mixed3`; the
second call at one path is `encoder@2/mixed3`. An address is the name of one value:
`fusion/in/0` is the first branch of the join `fusion`, `dense/out` what `dense`
returned. An address is an array's path in a store too, so it has to be safe in a
shell, in a URL and as a file name.
"""

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote, unquote

from layertap.errors import AddressError

# Names that a store keeps for itself, at its top.
RESERVED = frozenset(
    {
        *("labels", "ids", "sample_weight", "digests", "overflowed", "lengths"),
        "zarr.json",
    }
)

_LOOKS_LIKE_A_LATER_CALL = re.compile(r"@(?=\d+$)")

_ADDRESS = re.compile(
    r"(?P<path>.+)/(?:(?P<side>in|out)/(?P<index>\d+)|(?P<only>out))", re.ASCII
)


def component(name: str) -> str:
    """Encodes one Keras name as one part of a path.

    Characters outside ASCII letters, digits and `_ . @ -` are percent-encoded, and
    so is whatever would let two names meet or leave the store: an `@2` at the end
    of a name, names of dots only, a leading `__`, and names that a store reserves.

    Args:
        name: The name of a Keras operation.

    Returns:
        The part. `urllib.parse.unquote` gives the name back.

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


def parse(value: str) -> tuple[str, str, int]:
    """Splits an address into the path, `"in"` or `"out"`, and the index.

    Raises:
        AddressError: If it is no address.
    """
    found = _ADDRESS.fullmatch(value)
    if found is None:
        raise AddressError(
            f"{value!r} is no address: those end in /in/0 (a join's first branch), "
            "/out or /out/1 (an operation's outputs)."
        )
    return found["path"], found["side"] or "out", int(found["index"] or 0)


def match(patterns: Sequence[str], paths: Sequence[str], *, what: str) -> list[str]:
    """Selects the paths that match at least one pattern.

    Args:
        patterns: Globs as of the shell's, over whole paths: `*` crosses `/`. Names
            may be written as in Keras or percent-encoded.
        paths: The paths to choose from.
        what: What these are, for the error: `"join"`.

    Returns:
        The chosen paths, in the order of `paths`.

    Raises:
        AddressError: If a pattern matches nothing.
    """
    chosen = set()
    for pattern in patterns:
        found = {
            path
            for path in paths
            if fnmatch.fnmatchcase(path, pattern)
            or fnmatch.fnmatchcase(unquote(path), pattern)
        }
        if not found:
            raise AddressError(
                f"No {what} of this model matches {pattern!r}. "
                + suggest(pattern, paths, what=what)
            )
        chosen |= found
    return [path for path in paths if path in chosen]


def suggest(name: str, known: Iterable[str], *, what: str) -> str:
    """Says which known names are nearest to one that is not known.

    Args:
        name: The name that was asked for.
        known: All names there are.
        what: What these are, for the sentence: `"address"`.

    Returns:
        A sentence such as `Did you mean 'fusion' or 'fusion_1'?`.
    """
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


def patterns(given: str | Sequence[str] | None) -> list[str]:
    """Returns a glob, a list of them or None as a list."""
    if given is None:
        return []
    return [given] if isinstance(given, str) else list(given)
