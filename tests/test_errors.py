"""Errors reach whoever has others work for him, in other processes too."""

import pickle

import pytest

import layertap
from layertap import errors

ALL = [each for each in vars(errors).values() if isinstance(each, type)]


@pytest.mark.parametrize("kind", ALL)
def test_an_error_goes_from_process_to_process(kind):
    """Where it can't, PyTorch's loaders wait for ever for the worker that raised it."""
    error = pickle.loads(pickle.dumps(kind("what was found, and what to do")))
    assert type(error) is kind
    assert str(error) == "what was found, and what to do"
    assert getattr(layertap, kind.__name__) is kind
