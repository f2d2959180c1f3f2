"""Errors go to other processes as they are."""

import pickle
import subprocess
import sys

import pytest

from layertap import errors

ERRORS = [
    one
    for one in vars(errors).values()
    if isinstance(one, type) and issubclass(one, Exception)
]
LOAD = "import pickle, sys; error = pickle.load(sys.stdin.buffer); raise error"


@pytest.mark.parametrize("kind", ERRORS)
def test_they_can_be_pickled_with_their_notes(kind):
    error = kind("what was found")
    error.add_note("where")
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is kind
    assert found.args == ("what was found",)
    assert found.__notes__ == ["where"]


def test_another_process_raises_the_same():
    pickled = pickle.dumps(errors.DataTypeError("what was found"))
    done = subprocess.run(
        [sys.executable, "-c", LOAD], input=pickled, capture_output=True
    )
    assert done.stderr.decode().endswith("layertap.DataTypeError: what was found\n")


def test_one_that_is_derived_from_them():
    error = pickle.loads(pickle.dumps(MineError("mine")))
    assert type(error) is MineError
    assert error.args == ("mine",)


class MineError(errors.DataError):
    """A user's."""

    __module__ = __name__
