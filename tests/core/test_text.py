"""Strings that are stored as bytes are decoded unchanged."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from layertap.core import text
from layertap.errors import DataError

texts = st.text(st.characters(exclude_categories=["Cs"])).filter(
    lambda string: not string.endswith("\0")
)


@settings(derandomize=True)
@given(st.lists(texts, min_size=1))
@example([""])
@example(["", "a"])
@example(["\0a", "b"])
@example(["a\0b", "a"])
@example(["bild-ä.png", "絵.png", "🖼"])
def test_round_trip(strings):
    rows = text.encode(strings)
    assert rows.dtype == np.uint8
    assert rows.shape == (len(strings), max(1, *(len(s.encode()) for s in strings), 1))
    assert text.decode(rows).tolist() == strings


def test_bytes_by_hand():
    assert text.encode(["ä", "b"]).tolist() == [[0xC3, 0xA4], [ord("b"), 0]]


def test_nothing():
    assert text.encode([]).shape == (0, 1)
    assert text.decode(np.zeros((0, 7), np.uint8)).tolist() == []


def test_an_end_that_looks_like_padding_is_refused():
    with pytest.raises(DataError, match=r"'a\\x00' ends in a NUL"):
        text.encode(["a\0"])


def test_text_that_is_not_unicode_is_refused():
    with pytest.raises(DataError, match=r"'\\udcff'"):
        text.encode(["\udcff"])
