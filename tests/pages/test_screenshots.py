"""Pages look as they did: pictures of a browser are compared with kept ones.

The pictures of a run are in `build/screenshots`. Each is reduced to squares of 16 by 16
pixels, which forgives other edges of letters; then one square of 1,000 may differ from
the kept one by more than 24 of 255. The font is that of Matplotlib on every machine. A
page that looks different on purpose is kept anew by copying the files that end in
`.small.png` to `tests/pages/screenshots`.
"""

import base64
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import layertap
from tests.pages.test_facts import made
from tests.support.export_stores import ROWS

pytestmark = pytest.mark.slow

KEPT = Path(__file__).parent / "screenshots"
SQUARE, DIFFERENCE, SHARE = 16, 24, 0.001


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The page of a recording that says the same wherever and whenever it is made."""
    monkeypatch.chdir(tmp_path)
    stores = {}
    for step in (1, 2, 3):
        Path(f"{step}").mkdir()
        labels = np.arange(ROWS) % 3
        stores[step], _ = made(Path(f"{step}"), seed=step, labels=labels)
        os.utime(f"{step}/values.zarr/zarr.json", (2**30, 2**30))
    return layertap.report(stores, tmp_path / "page.html")


@pytest.fixture(scope="module")
def style():
    """A style sheet with a font that is the same on every machine."""
    import matplotlib as mpl

    file = Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    font = base64.b64encode(file.read_bytes()).decode()
    return f"""
        @font-face {{ font-family: Kept; src: url(data:font/ttf;base64,{font}); }}
        body, code {{ font-family: Kept !important; }}
    """


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_looks_as_it_did(browser, page, style, request, width, scheme):
    folder = request.config.rootpath / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    opened = browser.new_page(
        viewport={"width": width, "height": 2200}, color_scheme=scheme, bypass_csp=True
    )
    opened.goto(page.as_uri())
    opened.add_style_tag(content=style)
    opened.evaluate("document.fonts.ready")
    name = f"page-{width}-{scheme}"
    opened.screenshot(path=folder / f"{name}.png")
    with Image.open(folder / f"{name}.png") as picture:
        small = picture.convert("RGB").reduce(SQUARE)
    small.save(folder / f"{name}.small.png", optimize=True)
    with Image.open(KEPT / f"{name}.small.png") as kept:
        expected = np.asarray(kept.convert("RGB"), float)
    found = np.asarray(small, float)
    assert found.shape == expected.shape
    differences = np.abs(found - expected).max(axis=-1)
    assert (differences > DIFFERENCE).mean() <= SHARE
