"""Encoded names are unique and safe; nearly right names are suggested."""

import re
import string
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from layertap.core import address
from layertap.errors import AddressError

SAFE = re.compile(r"[A-Za-z0-9_.@%-]+")

# Any text that a Keras name can be: it has no slash, and is not empty.
names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1
)
tricky = st.text("@23.%_~ä/-", min_size=1)


@settings(derandomize=True)
@given(st.lists(st.one_of(names, tricky), min_size=2, max_size=8, unique=True))
@example(["dense@2", "dense%402", "dense"])
@example(["__x", "%5F_x", "_x"])
@example(["labels", "%6C%61%62%65%6C%73"])
@example(["..", "%2E%2E", "."])
def test_two_names_stay_different(raw_names):
    assert len(set(map(address.component, raw_names))) == len(raw_names)


@settings(derandomize=True)
@given(st.one_of(names, tricky))
@example("..")
@example("zarr.json")
@example("dense@2")
@example("__group")
@example("encoder/dense")
@example("~")
@example("ä@٢")
def test_a_component_is_safe_and_gives_the_name_back(name):
    part = address.component(name)
    assert SAFE.fullmatch(part)
    assert part.strip(".")
    assert not part.startswith("__")
    assert not re.search(r"@\d+$", part)
    assert part not in {
        "labels",
        "ids",
        "sample_weight",
        "overflowed",
        "lengths",
        "zarr.json",
    }
    assert unquote(part) == name


@settings(derandomize=True)
@given(st.text(string.ascii_letters + string.digits + "_.-", min_size=1))
def test_usual_names_stay_as_they_are(name):
    kept = name not in address.RESERVED and name.strip(".")
    if kept and not name.startswith("__"):
        assert address.component(name) == name


def test_components_by_hand():
    assert {
        name: address.component(name)
        for name in ("my dense", "a/b", "dense@2", "dense@x", "..", "labels", "ä")
    } == {
        "my dense": "my%20dense",
        "a/b": "a%2Fb",
        "dense@2": "dense%402",
        "dense@x": "dense@x",
        "..": "%2E%2E",
        "labels": "%6C%61%62%65%6C%73",
        "ä": "%C3%A4",
    }


paths = st.lists(st.one_of(names, tricky), min_size=1, max_size=4).map(
    lambda raw_names: "/".join(map(address.component, raw_names))
)


@settings(derandomize=True)
@given(paths, st.integers(0, 200))
@example("in", 0)
@example("out", 1)
@example("fusion/in/0", 1)
@example("out/in", 3)
def test_parse_inverts_branch(path, index):
    made = address.branch(path, index)
    assert address.parse(made) == (path, "in", index)


@settings(derandomize=True)
@given(paths, st.integers(2, 200), st.data())
@example("in", 2, None)
@example("out", 2, None)
def test_parse_inverts_output(path, count, data):
    index = data.draw(st.integers(0, count - 1)) if data else count - 1
    only, one = address.output(path), address.output(path, index, count)
    assert address.parse(only) == (path, "out", 0)
    assert address.parse(one) == (path, "out", index)


def test_an_address_has_named_parts():
    made = address.branch("encoder/fusion", 2)
    assert made == "encoder/fusion/in/2"
    parts = address.parse(made)
    assert (parts.path, parts.side, parts.number) == ("encoder/fusion", "in", 2)


@pytest.mark.parametrize(
    "value", ["", "fusion", "fusion/in", "fusion/in/-1", "fusion/in/x", "/in/0", "out"]
)
def test_other_texts_are_refused(value):
    with pytest.raises(AddressError, match="is not an address"):
        address.parse(value)


PATHS = ["fusion", "encoder/fusion", "encoder@2/fusion", "my%20join", "a%2Ab", "head"]


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (["*"], PATHS),
        (["fusion"], ["fusion"]),
        (["*fusion"], PATHS[:3]),
        (["encoder*"], PATHS[1:3]),
        (["encoder/*"], PATHS[1:3]),
        (["*coder/fusion"], PATHS[1:3]),
        (["encoder/fusion"], PATHS[1:2]),
        (["encoder@*"], PATHS[2:3]),
        (["my join"], ["my%20join"]),
        (["my%20join"], ["my%20join"]),
        (["my?join"], ["my%20join"]),
        (["a[*]b"], ["a%2Ab"]),
        (["head", "fusion"], ["fusion", "head"]),
        (["h*", "*d"], ["head"]),
        ([], []),
    ],
)
def test_globs_are_over_whole_paths_and_names_as_written_in_keras(patterns, chosen):
    assert address.match(patterns, PATHS, what="join") == chosen


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("fusoin", "'fusoin'.* Did you mean 'fusion'"),
        ("my joint", "Did you mean 'my%20join'"),
        ("Fusion", "Did you mean 'fusion'"),
        ("*coder", "Did you mean .*'encoder/fusion'"),
        ("zzz", r"Known \(6\): 'fusion', 'encoder/fusion'"),
    ],
)
def test_a_glob_without_matches_suggests_near_names(pattern, words):
    with pytest.raises(AddressError, match=f"No join.*{words}"):
        address.match(["head", pattern], PATHS, what="join")


def test_suggestions_from_no_names_and_from_many():
    assert address.suggest("x", [], what="join") == "There is no join at all."
    known = [f"dense_{i}" for i in range(30)]
    assert address.suggest("zzz", known, what="join").endswith("'dense_7', ….")
    assert address.suggest("dense", known, what="join").count("dense_") == 3


def test_one_glob_several_or_none():
    assert address.patterns(None) == []
    assert address.patterns("a*") == ["a*"]
    assert address.patterns(("a", "b")) == ["a", "b"]
