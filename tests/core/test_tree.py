"""Structures of labels keep their form, and have paths in a store."""

from layertap.core import tree

GIVEN = {"my class": 1, "box": [2, (3, None)], "labels": 4}


def test_each_leaf_is_replaced_and_all_else_stays():
    assert tree.mapped(lambda *both: both, GIVEN, GIVEN) == {
        "my class": (1, 1),
        "box": [(2, 2), ((3, 3), None)],
        "labels": (4, 4),
    }
    assert list(tree.leaves(GIVEN)) == [1, 2, 3, 4]


def test_paths_are_safe_in_a_store():
    assert tree.paths(GIVEN, "labels") == {
        "my class": "labels/my%20class",
        "box": ["labels/box/0", ["labels/box/1/0", None]],
        "labels": "labels/%6C%61%62%65%6C%73",
    }
    assert tree.paths(7, "labels") == "labels"
    assert tree.paths(None, "labels") is None
