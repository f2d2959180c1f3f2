"""Each page's code runs from top to bottom, and prints what the page shows.

Python and shell blocks of a page run in one empty folder, in their order.
"""

import pytest

from tests.support import guides

pytestmark = [pytest.mark.one_backend, pytest.mark.campaign(alone=True)]

# The printed output of the pages is JAX's.
BACKEND = "jax"
PAGES = [guides.DOCS.parent / "README.md", *sorted(guides.DOCS.glob("*.md"))]
# That of the command line runs after the demo: see test_command_line.
PAGES = [p for p in PAGES if guides.blocks(p) and p.stem != "command-line"]
# Numbers of a training differ between machines, and so do rows of a killed save.
VARYING = (".fit(", "layertap demo", "os.kill(")


def case(page):
    marks = pytest.mark.ray if "layertap.distributed" in page.read_text("utf-8") else ()
    return pytest.param(page, id=page.stem, marks=marks)


@pytest.mark.parametrize("page", [case(page) for page in PAGES])
def test_a_page_runs_and_prints_what_it_shows(page, tmp_path):
    blocks = guides.blocks(page)
    printed = guides.run(page, tmp_path, BACKEND)
    assert len(printed) == len(blocks)
    varying = any(word in block.code for block in blocks for word in VARYING)
    for block, text in zip(blocks, printed, strict=True):
        if block.shown is not None:
            assert guides.same(block.shown, text, numbers=not varying), text


SHOWN = "fusion/in/0 │ 1,797 rows\n─────\nmean -0.500 (of 1e-05)\n"


@pytest.mark.parametrize(
    ("printed", "words", "numbers"),
    [
        ("fusion/in/0   1,797 rows ─── mean -0.503 (of 1e-05)", True, True),
        ("fusion/in/0 1,798 rows mean -0.500 (of 1e-05)", True, False),
        ("fusion/in/0 1,797 rows mean -0.510 (of 1e-05)", True, False),
        ("fusion/in/0 1,797 rows mean 0.500 (of 1e-05)", True, False),
        ("fusion/in/0 1,797 rows mean -0.500 (of 1e-05) or so", False, False),
        ("fusion/in/0 1,797 rows", False, False),
    ],
)
def test_outputs_are_compared_by_words_and_by_numbers(printed, words, numbers):
    assert guides.same(SHOWN, printed, numbers=False) == words
    assert guides.same(SHOWN, printed, numbers=True) == numbers


def test_digests_do_not_count():
    assert guides.same("A 92941a9d24deeb48", "A 8a4f6a32a377867a", numbers=True)


def test_an_ellipsis_stands_for_lines():
    assert guides.same("first 1\n…\nlast 3", "first 1\nsecond 2\nlast 3", numbers=True)
    assert not guides.same("first 1\n…\nlast 3", "first 1\nlast 4", numbers=True)
