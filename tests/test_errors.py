"""Errors pass from one process to another."""

import pickle

import pytest

import layertap
from layertap import errors

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type)]


@pytest.mark.parametrize("kind", ALL)
def test_an_error_goes_from_process_to_process(kind):
    """Else a loader of PyTorch waits endlessly for the worker that raised it."""
    error = pickle.loads(pickle.dumps(kind("Expected x. Received y.")))
    assert type(error) is kind
    assert str(error) == "Expected x. Received y."
    assert getattr(layertap, kind.__name__) is kind
