"""The English of docstrings, comments, messages and pages: no word of the old dialect.

CONTRIBUTING.md has the rules. A banned word has a plain one in its place.
"""

import re

import pytest

from tests.support.source import (
    MODULES,
    PACKAGE,
    ROOT,
    name_of,
    texts_of_module,
    texts_of_page,
)

PAGES = [
    *(
        ROOT / f"{name}.md"
        for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")
    ),
    *sorted((ROOT / "docs").glob("*.md")),
]
FILES = [*MODULES, *PAGES]

# Each as a regular expression, with what to write in its place.
BANNED = {
    r"as of\b": "see, same as in",
    r"t(?:old|ells?|elling)": "reports, detects, distinguishes",
    r"anew": "again",
    r"as ever": "as before",
    r"for ever": "without an end",
    r"meanwhile": "at the same time",
    r"beside": "next to, in addition to",
    r"mend(?:s|ed|ing)?": "fix",
    r"(?<!there\s)(?:is|are|was|were) no(?! longer| more| less)": "is not a",
    r"(?:can't be|be|is|are) had": "captured, available",
    r"(?<!each\s)of which": "a sentence of its own",
    # As a question, "What is in the store?" is plain.
    r"what (?:is|are)(?! in| inside)": "a noun: the saved values",
    r"what (?:was|were|comes|came|goes|has)": "a noun: the saved values",
    r"of what": "a noun",
    r"hear(?:s|d|ing)?": "traced",
    r"seals?": "checksum",
    r"(?<!w4\s)(?<!branches,\s)whole(?! number|:)": "complete",
    r"at it": "a noun",
    r"likewise": "also",
    r"for to": "to",
    r"go(?:es|ing)? on with": "resumes",
    r"save for": "except",
    r"lest": "so that … not",
    r"nought|naught": "nothing",
    r"thereby|thereof|therein|whereof|wherein|hence": "a sentence of its own",
    r"shall": "must",
}
PATTERN = re.compile(rf"\b(?:{'|'.join(BANNED)})\b".replace(" ", r"\s+"), re.IGNORECASE)

# Words on disk or of other programs, which stay.
ALLOWED = re.compile(r"^\W*[\w.-]+\W*$")


OLD = """What was saved is no data, as of `save`, and can't be had: once this is
mended, the whole of what is heard is told anew, beside the rows, of which none of them
goes on with the seal."""
OLD_WORDS = [
    *(
        "What was",
        "is no",
        "as of",
        "can't be had",
        "mended",
        "whole",
        "of what",
        "heard",
    ),
    *("told", "anew", "beside", "of which", "goes on with", "seal"),
]
PLAIN = """There is no such file, it is no longer needed, and the error says what to do.
Besides, a whale was seen, a headset worn."""


def texts_of(path):
    return texts_of_module(path) if path.suffix == ".py" else texts_of_page(path)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_banned_words(path):
    banned = [
        f"{name_of(path)}:{text.line + text.words[: match.start()].count(chr(10))}: "
        f"{match[0]}"
        for text in texts_of(path)
        if not ALLOWED.match(text.words)
        for match in PATTERN.finditer(text.words)
    ]
    assert banned == []


def test_the_patterns_find_the_old_dialect_and_let_plain_english_be():
    assert [match[0] for match in PATTERN.finditer(OLD)] == OLD_WORDS
    assert PATTERN.search(PLAIN) is None


def test_the_files_are_there():
    assert PACKAGE / "errors.py" in FILES
    assert len(FILES) > 100
