"""Structures of labels keep their form, and map to paths in a store."""

from layertap.core import tree

STRUCTURE = {"my class": 1, "box": [2, (3, None)], "labels": 4}


def test_leaves_are_replaced_and_the_structure_stays():
    assert tree.mapped(lambda *both: both, STRUCTURE, STRUCTURE) == {
        "my class": (1, 1),
        "box": [(2, 2), ((3, 3), None)],
        "labels": (4, 4),
    }
    assert list(tree.leaves(STRUCTURE)) == [1, 2, 3, 4]


def test_paths_are_safe_in_a_store():
    assert tree.paths(STRUCTURE, "labels") == {
        "my class": "labels/my%20class",
        "box": ["labels/box/0", ["labels/box/1/0", None]],
        "labels": "labels/%6C%61%62%65%6C%73",
    }
    assert tree.paths(7, "labels") == "labels"
    assert tree.paths(None, "labels") is None
